"""Success of arms against each other, with intervals. Pure.

An arm's outcomes are an array (training seeds, tasks, scenes) of 0 and 1; its success is the mean over all.
Intervals are percentiles of a bootstrap (Efron, Ann. Stat. 7, 1979); two arms are resampled together, since
they ran the same scenes. Over the scenes within each seed and task, they say how well these training seeds
were measured. Over seeds and scenes, seeds drawn first, they say how another set of training seeds might
fall; from three seeds that is a rough answer, and rather too narrow a one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.learning.plan import Asked
from benchmarks.learning.results import Outcomes, Result

RESAMPLES = 2000
PERCENT = (2.5, 97.5)

Statistic = Callable[..., np.ndarray]
"""Of one success per arm, each an array of equal shape."""


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % intervals, and the value of each training seed, in their order.

    interval: Over scenes within the seeds. over_seeds: Over seeds and scenes.
    """

    value: float
    interval: tuple[float, float]
    over_seeds: tuple[float, float]
    seeds: list[float]


def table_of(results: Sequence[Result], tasks: Sequence[Asked]) -> np.ndarray:
    """(seeds, tasks, scenes) bool of an arm's results, which are of one plan."""
    return np.array([rows_of(result.outcomes, tasks) for result in results])


def rows_of(outcomes: Outcomes, tasks: Sequence[Asked]) -> np.ndarray:
    """(tasks, scenes) bool."""
    return np.array([[scene == "1" for scene in outcomes[asked.key]] for asked in tasks])


def rate_of(outcomes: Outcomes) -> float:
    """Mean success over all tasks."""
    scenes = "".join(outcomes.values())
    return scenes.count("1") / len(scenes)


def estimate(statistic: Statistic, *arms: np.ndarray) -> Estimate | None:
    """`statistic` of the arms' mean success; None where it is not finite (a ratio to 0).

    Args:
        arms: (seeds, tasks, scenes) each, of the same shape.
    """
    value = statistic(*(arm.mean() for arm in arms))
    seeds = statistic(*(arm.mean(axis=(1, 2)) for arm in arms))
    if not np.isfinite([value, *seeds]).all():
        return None
    rng = np.random.default_rng(0)
    scenes = rng.integers(arms[0].shape[-1], size=(RESAMPLES, *arms[0].shape), dtype=np.int32)
    by_seed = [np.take_along_axis(arm[None], scenes, -1).mean(axis=(2, 3)) for arm in arms]
    drawn = rng.integers(len(arms[0]), size=(RESAMPLES, len(arms[0])))
    return Estimate(
        float(value),
        _interval(statistic(*(rates.mean(1) for rates in by_seed))),
        _interval(statistic(*(np.take_along_axis(rates, drawn, 1).mean(1) for rates in by_seed))),
        [float(each) for each in seeds],
    )


def _interval(drawn: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(drawn[np.isfinite(drawn)], PERCENT)
    return float(low), float(high)


def percent(rate: np.ndarray) -> np.ndarray:
    """The statistic of one arm."""
    return 100 * rate


def ratio(rate: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """`rate` as a part of `reference`; not finite where that is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.divide(rate, reference)


def points_lost(rate: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Percentage points that `rate` is below `reference`."""
    return 100 * (reference - rate)


def time_to(result: Result, target: float) -> float | None:
    """Simulated seconds until the first evaluated version with a mean success of at least `target`; None:
    there is none. Between evaluated versions nothing is assumed."""
    for point in result.curve:
        if rate_of(point.outcomes) >= target:
            return point.at
    return None
