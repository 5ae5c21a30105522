"""What comes out of `bench-async`. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.table import Table

from agent.evaluation.rollouts import RolloutFigures
from cli.demo.tally import described
from shared.metrics import wilson
from shared.policy.rtc import POLICY_HZ

Mode = Literal["sync", "async"]
MODES: tuple[Mode, Mode] = ("sync", "async")
JUDGED_MS = (100, 250)
"""Delays at which the targets must be reached."""
RATIO_TARGET = 1.3


@dataclass(frozen=True)
class Tried:
    """One rollout.

    Attributes:
        mode: Of inference.
        delay_ms: Added to each inference.
        scene: Task and seed.
        success: The simulator's word.
        seconds: From the first action until the task was done; LIMIT_S if it was not.
        figures: The agent's own.
    """

    mode: Mode
    delay_ms: int
    scene: tuple[str, int]
    success: bool
    seconds: float
    figures: RolloutFigures


def of(tried: Sequence[Tried], mode: Mode, delay_ms: int | None = None) -> list[Tried]:
    """Those of a mode, and of one delay if it is given."""
    return [one for one in tried if one.mode == mode and delay_ms in (None, one.delay_ms)]


def speedup(tried: Sequence[Tried], delay_ms: int) -> float:
    """Mean completion time, synchronous over asynchronous, of the scenes that both completed; 0 if there is
    none."""
    seconds = {
        mode: {one.scene: one.seconds for one in of(tried, mode, delay_ms) if one.success} for mode in MODES
    }
    both = seconds["sync"].keys() & seconds["async"].keys()
    if not both:
        return 0.0
    return sum(seconds["sync"][s] for s in both) / sum(seconds["async"][s] for s in both)


def per_minute(tried: Sequence[Tried]) -> float:
    """Completions per minute of running time, failures' time included."""
    return 60 * sum(one.success for one in tried) / sum(one.seconds for one in tried)


def throughput_ratio(tried: Sequence[Tried], delay_ms: int) -> float:
    """Completions per minute, asynchronous over synchronous; 0 where synchronous completed nothing."""
    sync = per_minute(of(tried, "sync", delay_ms))
    return per_minute(of(tried, "async", delay_ms)) / sync if sync else 0.0


def rate(tried: Sequence[Tried]) -> float:
    """Share of successes."""
    return sum(one.success for one in tried) / len(tried)


def starved_in_time(tried: Sequence[Tried], chunk: int) -> tuple[int, int]:
    """(ticks without an action, rollouts) of asynchronous rollouts in which every inference took less than
    half a chunk."""
    half_ms = 1e3 * chunk / 2 / POLICY_HZ
    in_time = [one.figures for one in of(tried, "async") if one.figures.latency_ms_max < half_ms]
    return sum(each.starved for each in in_time), len(in_time)


def not_worse(tried: Sequence[Tried]) -> bool:
    """Asynchronous success is above synchronous, or so near that chance explains it: the 95 % Wilson
    intervals overlap."""
    ends = {mode: wilson(sum(one.success for one in of(tried, mode)), len(of(tried, mode))) for mode in MODES}
    return ends["async"][1] >= ends["sync"][0]


def figures(tried: Sequence[Tried], chunk: int) -> dict[str, Any]:
    """What is reported."""
    delays = sorted({one.delay_ms for one in tried})
    faster = {delay: round(speedup(tried, delay), 3) for delay in delays}
    more = {delay: round(throughput_ratio(tried, delay), 3) for delay in delays}
    starved, in_time = starved_in_time(tried, chunk)
    return {
        "speedup_completion": min(faster[delay] for delay in JUDGED_MS),
        "throughput_ratio": min(more[delay] for delay in JUDGED_MS),
        **{f"speedup_completion_{delay}ms": value for delay, value in faster.items()},
        **{f"throughput_ratio_{delay}ms": value for delay, value in more.items()},
        **{f"success_{mode}": round(rate(of(tried, mode)), 3) for mode in MODES},
        "starved_ticks": starved,
        "rollouts_in_time": in_time,
        "rollouts": len(of(tried, "async")),
    }


def met(found: Mapping[str, Any], tried: Sequence[Tried]) -> bool:
    """Whether the targets are reached."""
    ratios = found["speedup_completion"], found["throughput_ratio"]
    return min(ratios) >= RATIO_TARGET and found["starved_ticks"] == 0 and not_worse(tried)


def table(tried: Sequence[Tried], delay_ms: int) -> Table:
    """One delay, for a person."""
    shown = Table(title=f"{delay_ms} ms added to each inference")
    columns = "inference", "success [95 %]", "completed in, s", "per minute", "latency, ms", "starved ticks"
    for column in columns:
        shown.add_column(column, justify="left" if column == "inference" else "right")
    for mode in MODES:
        rows = of(tried, mode, delay_ms)
        done = [one.seconds for one in rows if one.success]
        seen = [one.figures for one in rows]
        shown.add_row(
            {"sync": "synchronous", "async": "asynchronous"}[mode],
            described([one.success for one in rows]),
            f"{sum(done) / len(done):.2f}" if done else "-",
            f"{per_minute(rows):.1f}",
            f"{sum(f.latency_ms_mean for f in seen) / len(seen):.0f}, "
            f"at most {max(f.latency_ms_max for f in seen):.0f}",
            str(sum(f.starved for f in seen)) if mode == "async" else "-",
        )
    return shown
