"""How a session of recording goes: its plan, its phase, and what each key does. Pure: no arm, no clock.

    ready ──start──▶ starting ─▶ recording ──stop──▶ saving ─▶ resetting ─▶ starting … ─▶ ending ─▶ done
                                     └───discard──▶ discarding ──┘  └pause▶ paused
    a fault, hold or release: ─▶ interrupted ──start──▶ aligning ─▶ ready

Every function takes the plan and returns a `Step`: the plan as it is now, and what is to be done by whoever
owns the arm (`session_desk`), who reports how that went with another of these functions. While something
is being done (BUSY), keys that would do something else are refused with a sentence, so no sequence of keys
can lose an episode that is kept or count one twice.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from agent.episodes.record import Label

ASK_S = 10.0
"""The question whether an episode being recorded may be thrown away is forgotten after so long."""


class Phase(StrEnum):
    """Where a session stands."""

    READY = "ready"
    """The follower follows; waits for the key that starts an episode."""
    STARTING = "starting"
    RECORDING = "recording"
    SAVING = "saving"
    DISCARDING = "discarding"
    RESETTING = "resetting"
    """A person puts things back; the next episode starts when that time is over."""
    PAUSED = "paused"
    INTERRUPTED = "interrupted"
    """The follower does not follow: a fault, or somebody made it hold or let it go."""
    ALIGNING = "aligning"
    ENDING = "ending"
    DONE = "done"


BUSY = frozenset({Phase.STARTING, Phase.SAVING, Phase.DISCARDING, Phase.ALIGNING, Phase.ENDING})
"""Something is being done that will be reported."""
WAITING = frozenset({Phase.READY, Phase.RESETTING, Phase.PAUSED})
"""The follower follows, and nothing is being recorded."""


class Act(StrEnum):
    """What a person may ask for."""

    START = "start"
    STOP = "stop"
    DISCARD = "discard"
    SUCCESS = "success"
    FAILURE = "failure"
    PAUSE = "pause"
    END = "end"


class Do(StrEnum):
    """What the owner of the arm is to do, and with which functions it reports."""

    RECORD = "record"  # started, not_started
    SAVE = "save"  # saved, not_saved
    DROP = "drop"  # dropped
    TAKE_BACK = "take_back"  # taken_back, not_taken_back
    LABEL = "label"  # nothing
    FOLLOW = "follow"  # followed, not_followed
    END = "end"  # ended


@dataclass(frozen=True)
class Plan:
    """A session. Times are on the owner's clock, in seconds.

    Attributes:
        task: The instruction.
        wanted: Episodes to keep.
        reset_s: Length of the reset phase.
        length_s: Length of each episode if the person chose one; it then ends by itself as planned.
        kept: Ids of the episodes saved for this plan, in order.
        discarded: Episodes thrown away by key.
        lost: Episodes lost to a fault, or that could not be saved.
        episode: The one being started, recorded, saved or discarded.
        last: The one just kept, until the next begins: what `discard`, `success` and `failure` then mean.
        label: The person's word on the episode being recorded or saved.
        since: When the phase began.
        pausing: Pause after this episode.
        ending: End the session after what is being done.
        unattended: The episode being saved ended at the agent's own limit: nobody may be there.
        asked_until: Until then, a second `end` throws away what is being recorded; 0: not asked.
        notice: What the person should know now; empty if nothing.
    """

    task: str
    wanted: int
    reset_s: float
    length_s: float | None = None
    phase: Phase = Phase.READY
    kept: tuple[str, ...] = ()
    discarded: int = 0
    lost: int = 0
    episode: str | None = None
    last: str | None = None
    label: Label | None = None
    since: float = 0.0
    pausing: bool = False
    ending: bool = False
    unattended: bool = False
    asked_until: float = 0.0
    notice: str = ""

    @property
    def complete(self) -> bool:
        """All wanted episodes are kept."""
        return len(self.kept) >= self.wanted

    def left_s(self, now: float) -> float | None:
        """Seconds left of the reset phase; None in others."""
        return max(0.0, self.since + self.reset_s - now) if self.phase is Phase.RESETTING else None


@dataclass(frozen=True)
class Order:
    """One thing to do."""

    do: Do
    episode: str = ""
    label: Label | None = None


@dataclass(frozen=True)
class Step:
    """The plan after an event, and what is to be done now, in this order."""

    plan: Plan
    orders: tuple[Order, ...] = ()


# ---------------------------------------------------------------------------------------------------- keys


def press(plan: Plan, act: Act, now: float) -> Step:
    """What a key does; one that means nothing now says so in the notice."""
    if plan.asked_until and act is not Act.END:
        plan = replace(plan, asked_until=0.0, notice="")
    if act in (Act.SUCCESS, Act.FAILURE):
        return _mark(plan, "success" if act is Act.SUCCESS else "failure")
    if plan.phase is Phase.DONE or plan.phase is Phase.ENDING:
        return Step(replace(plan, notice="the session is over"))
    if act is Act.END:
        return _end(plan, now)
    if act is Act.PAUSE:
        return Step(_pause(plan, now))
    if plan.phase in BUSY:
        return Step(replace(plan, notice=f"one moment: {plan.phase}"))
    if act is Act.START:
        return _start(plan, now)
    if act is Act.STOP:
        return _stop(plan, now)
    return _discard(plan, now)


def _start(plan: Plan, now: float) -> Step:
    if plan.phase is Phase.RECORDING:
        return Step(replace(plan, notice="an episode is being recorded"))
    if plan.phase is Phase.INTERRUPTED:
        return Step(_enter(plan, Phase.ALIGNING, now, notice=""), (Order(Do.FOLLOW),))
    return _record(plan, now)


def _record(plan: Plan, now: float) -> Step:
    fresh = _enter(plan, Phase.STARTING, now, notice="", last=None, label=None, unattended=False)
    return Step(fresh, (Order(Do.RECORD),))


def _stop(plan: Plan, now: float, **changes: object) -> Step:
    if plan.phase is not Phase.RECORDING:
        return Step(replace(plan, notice="no episode is being recorded"))
    return Step(_enter(plan, Phase.SAVING, now, notice="", **changes), (Order(Do.SAVE),))


def _discard(plan: Plan, now: float) -> Step:
    if plan.phase is Phase.RECORDING:
        return Step(_enter(plan, Phase.DISCARDING, now, notice=""), (Order(Do.DROP),))
    if plan.phase is Phase.INTERRUPTED:
        return Step(replace(plan, notice="first let the follower follow again"))
    if plan.last is None:
        return Step(replace(plan, notice="there is no episode to discard"))
    pausing = plan.pausing or plan.phase is Phase.PAUSED
    going = _enter(plan, Phase.DISCARDING, now, notice="", pausing=pausing)
    return Step(going, (Order(Do.TAKE_BACK, plan.last),))


def _mark(plan: Plan, label: Label) -> Step:
    if plan.phase in (Phase.RECORDING, Phase.SAVING):
        return Step(replace(plan, label=label))
    if plan.last is not None and plan.phase is not Phase.DISCARDING:
        return Step(replace(plan, notice=""), (Order(Do.LABEL, plan.last, label),))
    return Step(replace(plan, notice="there is no episode to mark"))


def _pause(plan: Plan, now: float) -> Plan:
    if plan.phase in (Phase.READY, Phase.RESETTING):
        return _enter(plan, Phase.PAUSED, now, notice="")
    if plan.phase is Phase.PAUSED:
        begun = plan.kept or plan.discarded or plan.lost
        return _enter(plan, Phase.RESETTING if begun else Phase.READY, now, notice="", unattended=False)
    if plan.phase is Phase.INTERRUPTED or plan.phase is Phase.ALIGNING:
        return replace(plan, notice="nothing starts by itself now")
    return replace(plan, pausing=not plan.pausing, notice="")


def _end(plan: Plan, now: float) -> Step:
    if plan.phase is Phase.RECORDING:
        if now < plan.asked_until:
            gone = _enter(plan, Phase.DISCARDING, now, notice="", ending=True)
            return Step(gone, (Order(Do.DROP),))
        question = "an episode is being recorded: q again throws it away and ends the session, SPACE keeps it"
        return Step(replace(plan, asked_until=now + ASK_S, notice=question))
    if plan.phase is Phase.STARTING:
        return Step(replace(plan, notice="an episode is just being started"))
    if plan.phase in BUSY:
        return Step(replace(plan, ending=True, notice="the session ends when this is done"))
    return _finish(plan, now)


# ------------------------------------------------------------------------------------------ what was done


def started(plan: Plan, episode: str, now: float) -> Step:
    """Its first frame is in."""
    return Step(_enter(plan, Phase.RECORDING, now, episode=episode))


def not_started(plan: Plan, why: str, now: float) -> Step:
    """No episode could be begun."""
    return Step(_enter(plan, Phase.READY, now, notice=why, episode=None, pausing=False))


def saved(plan: Plan, now: float) -> Step:
    """The episode is in the store: it counts, and gets its label."""
    episode, label = plan.episode, plan.label
    assert episode is not None
    assert episode not in plan.kept
    step = _over(replace(plan, kept=(*plan.kept, episode), last=episode), now)
    mark = (Order(Do.LABEL, episode, label),) if label else ()
    return replace(step, orders=(*mark, *step.orders))


def not_saved(plan: Plan, why: str, now: float) -> Step:
    """The episode is lost."""
    return _over(replace(plan, lost=plan.lost + 1, notice=why), now)


def dropped(plan: Plan, now: float) -> Step:
    """The episode was thrown away, as asked."""
    return _over(replace(plan, discarded=plan.discarded + 1), now)


def taken_back(plan: Plan, episode: str, now: float) -> Step:
    """An episode that was kept lies in the trash, as asked: it counts no more."""
    kept = tuple(other for other in plan.kept if other != episode)
    return _over(replace(plan, kept=kept, last=None, discarded=plan.discarded + 1), now)


def not_taken_back(plan: Plan, why: str, now: float) -> Step:
    """It could not be deleted and stays."""
    return _over(replace(plan, notice=why), now)


def followed(plan: Plan, now: float) -> Step:
    """The follower follows again."""
    if plan.ending:
        return _finish(plan, now)
    return Step(_enter(plan, Phase.READY, now))


def not_followed(plan: Plan, why: str, now: float) -> Step:
    """The arm could not be taken."""
    if plan.ending:
        return _finish(plan, now)
    return Step(_enter(plan, Phase.INTERRUPTED, now, notice=why))


def ended(plan: Plan, notice: str, now: float) -> Step:
    """The arm is given back (or could not be, which the notice says)."""
    return Step(_enter(plan, Phase.DONE, now, notice=notice))


# ------------------------------------------------------------------------------------------- by themselves


def interrupted(plan: Plan, why: str, now: float) -> Step:
    """The follower does not follow any more; an episode that was being recorded is lost."""
    lost = plan.lost + (plan.phase is Phase.RECORDING)
    over = replace(plan, lost=lost, episode=None, label=None, pausing=False, asked_until=0.0)
    return Step(_enter(over, Phase.INTERRUPTED, now, notice=why))


def tick(plan: Plan, now: float, attended: bool, full: bool) -> Step:
    """Time passes.

    Args:
        plan: The session.
        now: The time.
        attended: A terminal with keys was there a moment ago.
        full: The episode being recorded has reached its longest length.
    """
    if plan.asked_until and now >= plan.asked_until:
        plan = replace(plan, asked_until=0.0, notice="")
    if plan.phase is Phase.RECORDING and full:
        return _stop(plan, now, unattended=plan.length_s is None)
    if plan.phase is Phase.RESETTING and now >= plan.since + plan.reset_s:
        if attended and not plan.unattended:
            return _record(plan, now)
        return Step(_enter(plan, Phase.READY, now, notice=_why_waiting(plan)))
    return Step(plan)


def _why_waiting(plan: Plan) -> str:
    if plan.unattended:
        return "the last episode ran to the longest length: the next starts when a person says so"
    return "no terminal with keys was there: the next episode starts when a person says so"


# --------------------------------------------------------------------------------------------------- inside


def _over(plan: Plan, now: float) -> Step:
    """An episode is over, whatever became of it."""
    plan = replace(plan, episode=None, label=None, asked_until=0.0)
    if plan.complete or plan.ending:
        return _finish(plan, now)
    phase = Phase.PAUSED if plan.pausing else Phase.RESETTING
    return Step(_enter(plan, phase, now, pausing=False))


def _finish(plan: Plan, now: float) -> Step:
    ending = _enter(plan, Phase.ENDING, now, episode=None, pausing=False, asked_until=0.0)
    return Step(ending, (Order(Do.END),))


def _enter(plan: Plan, phase: Phase, now: float, **changes: object) -> Plan:
    return replace(plan, phase=phase, since=now, **changes)  # type: ignore[arg-type]
