"""Who may use the arm and the GPU now, and why. Pure: no clock, no process; every decision carries its
sentence.

The operator always wins: what a person asked for (record, rollout, evaluate) decides alone. Otherwise the
agent trains when its window is open and there is something to train on, else it is idle.
"""

from dataclasses import dataclass
from datetime import datetime, time
from enum import StrEnum

from agent.config import Hours, WindowSection
from agent.machine import Machine
from shared.errors import ArmfleetError

GPU_COOLS_C = 10.0
"""How far below its limit the GPU must be before training starts (again): training itself heats it."""


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
    series: bool = False
    """For several rollouts: it outlives each of them."""


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
    rule: WindowSection, now: datetime, idle_s: float, machine: Machine, training: bool
) -> Verdict:
    """Whether training may run.

    Args:
        rule: `[training.window]`.
        now: Local time.
        idle_s: Seconds since the arm was last used.
        machine: What else it is busy with.
        training: The trainer runs already; its own load then doesn't count.
    """
    if rule.hours and not any(_within(span, now.time()) for span in rule.hours):
        spans = ", ".join(f"{span.start}-{span.end}" for span in rule.hours)
        return Verdict(False, f"it is {now:%H:%M}, outside the hours {spans}")
    if idle_s < rule.idle_s:
        return Verdict(
            False, f"the arm was used {idle_s:.0f} s ago, the window opens after {rule.idle_s:g} s"
        )
    busy = _busy(rule, machine, training)
    return Verdict(not busy, busy or f"the window is open (arm unused for {idle_s:.0f} s)")


def _busy(rule: WindowSection, machine: Machine, training: bool) -> str:
    """Why the machine is not free for training; empty if it is."""
    if rule.max_load is not None and not training and machine.load > rule.max_load:
        return f"the load is {machine.load:.1f}, above {rule.max_load:g}"
    if machine.on_battery and not rule.on_battery:
        return "the machine runs on battery"
    hot = rule.max_gpu_c - (0 if training else GPU_COOLS_C)
    if machine.gpu_temperature is not None and machine.gpu_temperature > hot:
        return f"the GPU has {machine.gpu_temperature} degrees, above {hot:g}"
    others, most = machine.gpu_others_mb, rule.max_gpu_others_mb
    if others is not None and most is not None and others > most:
        return f"other programs use {others} MB of the GPU's memory, above {most:g}"
    return ""


def _within(span: Hours, now: time) -> bool:
    start, end = time.fromisoformat(span.start), time.fromisoformat(span.end)
    if start <= end:
        return start <= now < end
    return now >= start or now < end
