"""How a series of rollouts goes: its plan, its phase, and what each key does. Pure: no arm, no clock.

    preparing ─▶ ready ──start─▶ starting ─▶ running ──stop─▶ stopping ─▶ labelling ─┐
        ▲                                                              marking ◀─s, f─┤
        └───────────────────────────────────────────────────────────  discarding ◀─redo─┘
    after the last label, and for `end`: ─▶ ending ─▶ done

Each rollout is started by a key of its own, and none is started before the one before has its label: nothing
here starts one by itself. One that runs while no terminal with keys is there is ended.

While a rollout runs, a person may take over with the leader and hand back; it stays the rollout that runs,
and all other keys do what they do. Not so in an evaluation: a rollout that was helped tells nothing of the
version.

Two versions can be compared: each *pair* is one rollout of both on the same start scene, in an order drawn
by lot (`agent.evaluation.pairs`). Which one ran is shown to nobody before the series is over: whoever knows
sees what he expects, and whoever is told after each rollout soon knows the versions by how they move.

Every function takes the plan and returns a `Step`: the plan as it is now, and what is to be done by whoever
owns the arm (`series_desk`), who reports how that went with another of these functions.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from agent.evaluation.pairs import Result, decision

OPERATOR_GONE = "operator_gone"
"""Why a rollout ended: no terminal with keys was there."""


class Phase(StrEnum):
    """Where a series stands."""

    PREPARING = "preparing"
    """The policy is brought to the version that comes next."""
    READY = "ready"
    """A person sets up the scene; waits for the key that starts the rollout."""
    STARTING = "starting"
    RUNNING = "running"
    """The arm moves."""
    STOPPING = "stopping"
    """The arm holds; the rollout is being written."""
    LABELLING = "labelling"
    """Waits for the operator's word on the rollout that is over."""
    MARKING = "marking"
    DISCARDING = "discarding"
    ENDING = "ending"
    DONE = "done"


BUSY = frozenset({Phase.PREPARING, Phase.STARTING, Phase.STOPPING, Phase.MARKING, Phase.DISCARDING})
"""Something is being done that will be reported."""
OVER = frozenset({Phase.ENDING, Phase.DONE})


class Act(StrEnum):
    """What a person may ask for."""

    START = "start"
    STOP = "stop"
    ABORT = "abort"
    TAKE_OVER = "take_over"
    HAND_BACK = "hand_back"
    SUCCESS = "success"
    FAILURE = "failure"
    REDO = "redo"
    END = "end"


class Do(StrEnum):
    """What the owner of the arm is to do, and with which functions it reports."""

    PREPARE = "prepare"  # prepared
    START = "start"  # started, not_started
    STOP = "stop"  # over, lost
    TAKE_OVER = "take_over"  # changed_hands
    HAND_BACK = "hand_back"  # changed_hands
    LOWER = "lower"  # lowered
    LABEL = "label"  # labelled, not_labelled
    DISCARD = "discard"  # discarded, not_discarded
    END = "end"  # ended


@dataclass(frozen=True)
class Plan:
    """A series. Times are on the owner's clock, in seconds.

    Attributes:
        task: The instruction.
        order: Of each rollout the index of its version; with two versions each pair of places is a pair.
        paired: Two versions are compared, and blinded.
        evaluation: It counts as an evaluation.
        results: Of the places that are done, in order.
        discarded: Attempts thrown away by key.
        lost: Attempts of which nothing is left.
        rollout: The attempt being started, running, or waiting for its label.
        led: A person has taken over in it.
        reason: Why it ended.
        label: The person's word on it, given while it still ran.
        redo: It is discarded when it is over.
        stop: Why it is not to be started, or to be stopped as soon as it has; empty if neither.
        since: When the phase began.
        ending: End the series when the attempt has its label.
        notice: What the person should know now; empty if nothing.
    """

    task: str
    order: tuple[int, ...]
    paired: bool = False
    evaluation: bool = False
    phase: Phase = Phase.PREPARING
    results: tuple[Result, ...] = ()
    discarded: int = 0
    lost: int = 0
    rollout: str | None = None
    led: bool = False
    reason: str = ""
    label: bool | None = None
    redo: bool = False
    stop: str = ""
    since: float = 0.0
    ending: bool = False
    notice: str = ""

    @property
    def measures(self) -> bool:
        """Nobody takes over: a rollout that was helped would tell nothing of its version."""
        return self.paired or self.evaluation

    @property
    def complete(self) -> bool:
        """All wanted rollouts have their label, or the comparison is decided."""
        return len(self.results) >= len(self.order) or self.decided

    @property
    def place(self) -> int:
        """Index in `order` of the rollout that runs, waits for its label, or comes next."""
        done = self.rollout is not None and any(r.rollout == self.rollout for r in self.results)
        return min(len(self.results) - done, len(self.order) - 1)

    @property
    def decided(self) -> bool:
        """The comparison needs no further pair."""
        found = decision(self.task, self.results) if self.paired else None
        return found is not None and found.state != "undecided"


@dataclass(frozen=True)
class Order:
    """One thing to do."""

    do: Do
    rollout: str = ""
    success: bool = False
    reason: str = ""


@dataclass(frozen=True)
class Step:
    """The plan after an event, and what is to be done now, in this order."""

    plan: Plan
    orders: tuple[Order, ...] = ()


# ---------------------------------------------------------------------------------------------------- keys


def begin(plan: Plan, now: float) -> Step:
    """The first step of a new series."""
    return _prepare(plan, now)


def press(plan: Plan, act: Act, now: float) -> Step:
    """What a key does; one that means nothing now says so in the notice."""
    if plan.phase in OVER:
        return Step(replace(plan, notice="the series is over"))
    if act is Act.END:
        return _end(plan, now)
    if act in (Act.SUCCESS, Act.FAILURE):
        return _mark(plan, act is Act.SUCCESS, now)
    if act is Act.ABORT:
        return _abort(plan, now)
    if act is Act.STOP:
        return _stop(plan, now)
    if plan.phase in BUSY:
        return Step(replace(plan, notice=f"one moment: {plan.phase}"))
    if act in (Act.TAKE_OVER, Act.HAND_BACK):
        return _change_hands(plan, act is Act.TAKE_OVER)
    return _start(plan, now) if act is Act.START else _redo(plan, now)


def _start(plan: Plan, now: float) -> Step:
    if plan.phase is Phase.RUNNING:
        return Step(replace(plan, notice="a rollout is running"))
    if plan.phase is Phase.LABELLING:
        return Step(replace(plan, notice="first the label of the last one: s success, f failure, r redo"))
    return Step(_enter(plan, Phase.STARTING, now, notice=""), (Order(Do.START),))


def _stop(plan: Plan, now: float, reason: str = "operator", **changes: object) -> Step:
    if plan.phase is Phase.STARTING:
        return Step(replace(plan, stop=reason, **changes))  # type: ignore[arg-type]
    if plan.phase is not Phase.RUNNING:
        return Step(replace(plan, notice="no rollout is running"))
    stopping = _enter(plan, Phase.STOPPING, now, **{"notice": "", **changes})
    return Step(stopping, (Order(Do.STOP, reason=reason),))


def _abort(plan: Plan, now: float) -> Step:
    """Also of an arm that holds: the phase goes on, what is started next waits until the arm lies."""
    lower = Order(Do.LOWER)
    if plan.phase in (Phase.RUNNING, Phase.STARTING):
        step = _stop(plan, now, "abort")
        return replace(step, orders=(*step.orders, lower))
    return Step(replace(plan, notice="the arm is lowered and let go"), (lower,))


def _change_hands(plan: Plan, take: bool) -> Step:
    if plan.measures:
        return Step(replace(plan, notice="nobody takes over in an evaluation; `armfleet rollout` allows it"))
    if plan.phase is not Phase.RUNNING:
        return Step(replace(plan, notice="no rollout is running"))
    if plan.led is take:
        driver = "you have taken over" if take else "the policy acts"
        return Step(replace(plan, notice=f"{driver} already"))
    order = Order(Do.TAKE_OVER if take else Do.HAND_BACK, plan.rollout or "")
    return Step(replace(plan, led=take, notice=""), (order,))


def _mark(plan: Plan, success: bool, now: float) -> Step:
    if plan.phase is Phase.RUNNING:
        return _stop(plan, now, label=success)
    if plan.phase is Phase.STOPPING:
        return Step(replace(plan, label=success, redo=False))
    if plan.phase is Phase.LABELLING and plan.rollout is not None:
        return _label(plan, plan.rollout, success, now)
    if plan.phase is Phase.READY and plan.results:  # a slip of the finger is put right
        return _label(plan, plan.results[-1].rollout, success, now)
    return Step(replace(plan, notice="there is no rollout to label"))


def _label(plan: Plan, rollout: str, success: bool, now: float) -> Step:
    marking = _enter(plan, Phase.MARKING, now, notice="", rollout=rollout, label=success)
    return Step(marking, (Order(Do.LABEL, rollout, success),))


def _redo(plan: Plan, now: float) -> Step:
    if plan.phase is Phase.RUNNING:
        return _stop(plan, now, redo=True)
    last = plan.rollout if plan.phase is Phase.LABELLING else None
    if last is None and plan.results:
        last = plan.results[-1].rollout
    if last is None:
        return Step(replace(plan, notice="there is no rollout to do again"))
    going = _enter(plan, Phase.DISCARDING, now, notice="", rollout=last)
    return Step(going, (Order(Do.DISCARD, last),))


def _end(plan: Plan, now: float) -> Step:
    """The arm stops first, whatever else."""
    if plan.phase in (Phase.RUNNING, Phase.STARTING):
        return _stop(plan, now, ending=True)
    if plan.phase in BUSY:
        return Step(replace(plan, ending=True, notice="the series ends when this is done"))
    return _finish(plan, now)


# ------------------------------------------------------------------------------------------ what was done


def prepared(plan: Plan, why_not: str, now: float) -> Step:
    """The policy executes the version that comes next; or `why_not`, and the start tries again."""
    return _waits(plan, now, notice=why_not or plan.notice)


def started(plan: Plan, rollout: str, now: float) -> Step:
    """The arm may move from now on."""
    running = _enter(plan, Phase.RUNNING, now, rollout=rollout)
    return _stop(running, now, plan.stop) if plan.stop else Step(running)


def not_started(plan: Plan, why: str, now: float) -> Step:
    """Nothing moved."""
    return _waits(plan, now, notice=why)


def changed_hands(plan: Plan, rollout: str, why_not: str, now: float) -> Step:
    """A person has taken over in `rollout`, or handed back; or `why_not`: then the arm had better hold."""
    if not why_not or plan.rollout != rollout or plan.phase is not Phase.RUNNING:
        return Step(plan)
    return _stop(plan, now, notice=why_not)


def over(plan: Plan, reason: str, now: float, notice: str = "") -> Step:
    """The rollout has ended, by itself or as asked, and its record is there; `notice` says what is odd."""
    ended = replace(plan, reason=reason, led=False, notice=notice or plan.notice)
    assert plan.rollout is not None
    if plan.redo:
        going = _enter(ended, Phase.DISCARDING, now)
        return Step(going, (Order(Do.DISCARD, plan.rollout),))
    if plan.label is not None:
        return _label(ended, plan.rollout, plan.label, now)
    return Step(_enter(ended, Phase.LABELLING, now))


def lowered(plan: Plan, why_not: str) -> Step:
    """The arm lies limp where it lay before; or `why_not`."""
    return Step(replace(plan, notice=why_not or "the arm was lowered and let go"))


def lost(plan: Plan, why: str, now: float) -> Step:
    """Of the rollout nothing is left that could be labelled: it is done again."""
    return _prepare(replace(plan, lost=plan.lost + 1, notice=why), now)


def labelled(plan: Plan, success: bool, now: float) -> Step:
    """The label is durable."""
    rollout, last = plan.rollout, plan.results[-1:]
    assert rollout is not None
    before = plan.results[:-1] if last and last[0].rollout == rollout else plan.results
    result = Result(rollout, plan.order[len(before)], success)
    plan = replace(plan, results=(*before, result), rollout=None, label=None)
    return _finish(plan, now) if plan.complete else _prepare(plan, now)


def not_labelled(plan: Plan, why: str, now: float) -> Step:
    """The label could not be written."""
    return Step(_enter(plan, Phase.LABELLING, now, notice=why, label=None))


def discarded(plan: Plan, now: float) -> Step:
    """The attempt counts no more, and its place comes next."""
    left = tuple(result for result in plan.results if result.rollout != plan.rollout)
    return _prepare(replace(plan, results=left, discarded=plan.discarded + 1), now)


def not_discarded(plan: Plan, why: str, now: float) -> Step:
    """It stays as it was."""
    if all(result.rollout != plan.rollout for result in plan.results):
        return Step(_enter(plan, Phase.LABELLING, now, notice=why, redo=False))
    return _waits(plan, now, notice=why)


def ended(plan: Plan, notice: str, now: float) -> Step:
    """The arm is given back."""
    return Step(_enter(plan, Phase.DONE, now, notice=notice))


# ------------------------------------------------------------------------------------------- by themselves


def tick(plan: Plan, now: float, attended: bool, abandoned: bool) -> Step:
    """Time passes.

    Args:
        plan: The series.
        now: The time.
        attended: A terminal with keys was there a moment ago.
        abandoned: None was there for so long that the arm is wanted back.
    """
    if plan.phase is Phase.RUNNING and not attended:
        gone = "no terminal with keys was there: the arm was stopped"
        return _stop(plan, now, OPERATOR_GONE, notice=gone)
    if abandoned and plan.phase in (Phase.READY, Phase.LABELLING):
        return _finish(replace(plan, notice="nobody was there for a long time"), now)
    return Step(plan)


# --------------------------------------------------------------------------------------------------- inside


def _prepare(plan: Plan, now: float) -> Step:
    if plan.ending:
        return _finish(plan, now)
    return Step(_enter(_cleared(plan), Phase.PREPARING, now), (Order(Do.PREPARE),))


def _waits(plan: Plan, now: float, notice: str) -> Step:
    if plan.ending:
        return _finish(replace(plan, notice=notice), now)
    return Step(_enter(_cleared(plan), Phase.READY, now, notice=notice))


def _cleared(plan: Plan) -> Plan:
    """Nothing of the last attempt applies to the next."""
    return replace(plan, rollout=None, led=False, reason="", label=None, redo=False, stop="")


def _finish(plan: Plan, now: float) -> Step:
    return Step(_enter(plan, Phase.ENDING, now), (Order(Do.END),))


def _enter(plan: Plan, phase: Phase, now: float, **changes: object) -> Plan:
    return replace(plan, phase=phase, since=now, **changes)  # type: ignore[arg-type]
