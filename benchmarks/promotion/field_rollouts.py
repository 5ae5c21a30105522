"""How many rollouts on the arms until a bad version is rolled back, and how often a good one is rolled back:
for `bench_promotion`.

Stations take turns, each with a task of its own; the predecessor's record is there from the start. Simulated
with the accounts of `coordinator.field`, all looks after each rollout included.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.progress import track
from rich.table import Table

from coordinator.field import SHARE_OF_ALL, log_growth, share_of_task

ROLLOUTS = 200
"""Of the promoted version over all stations; most of one comparison."""
STATIONS = 3
SIMULATIONS = 20_000
ERROR = 0.05
"""`[promotion] field_error` by default."""

type Rates = Sequence[float]
"""True rate of success at each station."""


@dataclass(frozen=True)
class Fall:
    """What became of the simulated versions.

    Attributes:
        share: Of them rolled back within `ROLLOUTS`.
        mean: Rollouts of the promoted version until then.
        high: Nine in ten of those that were rolled back needed no more.
    """

    share: float
    mean: float
    high: float


def simulate(predecessor: Rates, promoted: Rates, rng: np.random.Generator, count: int) -> Fall:
    """Play `count` versions rollout by rollout."""
    station = np.arange(ROLLOUTS) % len(promoted)
    before = rng.random((count, ROLLOUTS)) < np.array(predecessor)[station]
    now = rng.random((count, ROLLOUTS)) < np.array(promoted)[station]
    held = log_held(before & ~now, now & ~before, station, len(promoted))
    reached = held >= -math.log(ERROR)
    fell = reached.any(axis=1)
    needed = reached.argmax(axis=1)[fell] + 1
    if not fell.any():
        return Fall(0.0, math.nan, math.nan)
    return Fall(float(fell.mean()), float(needed.mean()), float(np.percentile(needed, 90)))


def log_held(won: np.ndarray, lost: np.ndarray, station: np.ndarray, stations: int) -> np.ndarray:
    """What all accounts hold after each pair; `won` and `lost` are (comparisons, pairs) bool, `station` names
    each pair's. Each station has one task."""
    total = math.log(SHARE_OF_ALL) + log_growth(won.cumsum(axis=1), lost.cumsum(axis=1))
    for number in range(stations):
        here = station == number
        own = log_growth((won & here).cumsum(axis=1), (lost & here).cumsum(axis=1))
        total = np.logaddexp(total, math.log(share_of_task(stations, 1)) + own)
    return total


BAD = ((0.8,) * STATIONS, (0.4,) * STATIONS)
EQUAL = (((0.8,) * STATIONS, (0.8,) * STATIONS), ((0.5,) * STATIONS, (0.5,) * STATIONS))
SCENARIOS: Sequence[tuple[Rates, Rates]] = [
    BAD,
    ((0.8,) * STATIONS, (0.6,) * STATIONS),
    ((0.8,) * STATIONS, (0.7,) * STATIONS),
    ((0.8,) * STATIONS, (0.2, 0.8, 0.8)),
    *EQUAL,
    ((0.8,) * STATIONS, (0.85,) * STATIONS),
]
"""True success of predecessor and promoted version: bad, worse, a little worse, bad at one station, equal,
better."""


def falls(seed: int) -> dict[tuple[Rates, Rates], Fall]:
    """What becomes of each scenario's versions."""
    rng = np.random.default_rng(seed)
    return {rates: simulate(*rates, rng, SIMULATIONS) for rates in track(SCENARIOS, "rollouts in the field")}


def table(found: dict[tuple[Rates, Rates], Fall]) -> Table:
    """The scenarios for people."""
    shown = Table("promoted version", "predecessor", "rolled back", "after rollouts (mean)", "9 of 10 within")
    for (predecessor, promoted), fall in found.items():
        now, before = (" ".join(f"{rate:.0%}" for rate in rates) for rates in (promoted, predecessor))
        shown.add_row(now, before, f"{fall.share:.1%}", f"{fall.mean:.0f}", f"{fall.high:.0f}")
    return shown


def figures(found: dict[tuple[Rates, Rates], Fall]) -> dict[str, float]:
    """For the benchmark's last line."""
    return {
        "field_rollouts_mean": round(found[BAD].mean, 2),
        "field_rollouts_p90": round(found[BAD].high, 1),
        "field_power": round(found[BAD].share, 4),
        "field_false_rollback_rate": round(max(found[rates].share for rates in EQUAL), 4),
    }
