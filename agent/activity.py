"""Who may use the arm and the GPU now, and why. Pure: no clock, no process; every decision carries its
sentence.

The operator always wins: what a person asked for (record, rollout, evaluate) decides alone. Otherwise the
agent trains when its window is open and there is something to train on, else it is idle.
"""

from dataclasses import dataclass
from datetime import datetime, time
from enum import StrEnum

from agent.config import Hours, WindowSection
from shared.errors import ArmfleetError


class Activity(StrEnum):
    """What the workstation does; one at a time."""

    RECORD = "record"
    ROLLOUT = "rollout"
    EVALUATE = "evaluate"
    TRAIN = "train"
    IDLE = "idle"


@dataclass(frozen=True)
class Claim:
    """What an operator asked for and has not ended yet."""

    activity: Activity
    detail: str
    """The task's sentence."""
    since: datetime


@dataclass(frozen=True)
class Verdict:
    """Whether something may happen, and the sentence that says why (not)."""

    open: bool
    reason: str


@dataclass(frozen=True)
class Decision:
    """What the workstation does now."""

    activity: Activity
    reason: str


def decide(claim: Claim | None, window: Verdict, work: Verdict) -> Decision:
    """The activity that follows from the operator's claim, the window and the work there is to train on."""
    if claim is not None:
        return Decision(
            claim.activity, f"the operator asked for it at {claim.since:%H:%M:%S}: {claim.detail}"
        )
    if not work.open:
        return Decision(Activity.IDLE, f"nothing to train: {work.reason}")
    if not window.open:
        return Decision(Activity.IDLE, f"training waits: {window.reason}")
    return Decision(Activity.TRAIN, f"{work.reason}; {window.reason}")


def may_claim(current: Claim | None, wanted: Activity) -> None:
    """Raise ArmfleetError if the arm is taken; training never takes it."""
    if current is not None:
        raise ArmfleetError(
            f"the arm is in use ({current.activity} since {current.since:%H:%M:%S}: {current.detail})",
            kept="what is running goes on",
            do=f"end it first, then ask for {wanted} again",
        )


def training_window(
    rule: WindowSection, now: datetime, idle_s: float, load: float, training: bool
) -> Verdict:
    """Whether training may run.

    Args:
        rule: `[training.window]`.
        now: Local time.
        idle_s: Seconds since the arm was last used.
        load: One-minute load average.
        training: The trainer runs already; its own load then doesn't count.
    """
    if rule.hours and not any(_within(span, now.time()) for span in rule.hours):
        spans = ", ".join(f"{span.start}-{span.end}" for span in rule.hours)
        return Verdict(False, f"it is {now:%H:%M}, outside the hours {spans}")
    if idle_s < rule.idle_s:
        return Verdict(
            False, f"the arm was used {idle_s:.0f} s ago, the window opens after {rule.idle_s:g} s"
        )
    if rule.max_load is not None and not training and load > rule.max_load:
        return Verdict(False, f"the load is {load:.1f}, above {rule.max_load:g}")
    return Verdict(True, f"the window is open (arm unused for {idle_s:.0f} s)")


def _within(span: Hours, now: time) -> bool:
    start, end = time.fromisoformat(span.start), time.fromisoformat(span.end)
    if start <= end:
        return start <= now < end
    return now >= start or now < end
