"""Is a demonstration there already: traces compared, with noise, trimming and a change of pace taken out."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from agent.episodes.history import TRACE_HZ, Signature

WINDOW_SHARE, WINDOW_S = 0.2, 1.0
"""How far apart in time rows of a copy may lie: speeds within a fifth, and a second of trimming."""
FAR = 4.0
"""Units from which on a rough comparison is enough."""
BRISK = 2.0
"""Units per row of a trace from which on a point's time on the path can be told."""
FEWEST = 5
"""Moving rows needed."""


@dataclass(frozen=True)
class Twin:
    """The nearest other episode.

    Attributes:
        units: Distance of the paths, root mean square over the joints.
        timing_s: Scatter of the matching times about a straight line.
    """

    other: Signature
    units: float
    timing_s: float


def nearest(mine: Signature, others: Iterable[Signature]) -> Twin | None:
    """The other episode whose path is nearest; None where there is none to compare with."""
    best: Twin | None = None
    for other in others:
        same = (other.path, other.index) == (mine.path, mine.index)
        if same or other.trace.shape[1] != mine.trace.shape[1]:
            continue
        units, timing = (0.0, 0.0) if other.digest == mine.digest else compare(mine.trace, other.trace)
        if best is None or units < best.units:
            best = Twin(other, units, timing)
    return best


def compare(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """(units, seconds) between two (n, joints) traces, the smaller of both directions; inf where nothing
    moves.

    Each moving row of one is compared with the nearest point of the other's path in a window of time.
    """
    if min(len(one), len(other)) < 8:
        return float("inf"), float("inf")
    coarse = min(_one_way(one, other, 4), _one_way(other, one, 4))
    return coarse if coarse[0] > FAR else min(_one_way(one, other, 1), _one_way(other, one, 1))


def _one_way(one: np.ndarray, other: np.ndarray, every: int) -> tuple[float, float]:
    speed = np.abs(np.diff(one, axis=0, prepend=one[:1])).max(axis=1)
    rows = np.flatnonzero(speed > 0.5)
    if len(rows) < FEWEST:
        return float("inf"), float("inf")
    rows = rows[::every]
    start, along = other[:-1], np.diff(other, axis=0)
    away = one[rows, None, :] - start[None]
    share = np.clip((away * along).sum(axis=2) / np.maximum((along**2).sum(axis=1), 1e-9), 0, 1)
    distance = np.sqrt(((away - share[..., None] * along) ** 2).mean(axis=2))
    late = abs(len(one) - len(other)) + WINDOW_SHARE * max(len(one), len(other)) + WINDOW_S * TRACE_HZ
    distance[np.abs(rows[:, None] - np.arange(len(start))[None, :]) > late] = np.inf
    found = np.argmin(distance, axis=1)
    near = distance[np.arange(len(rows)), found]
    times = found + share[np.arange(len(rows)), found]
    return float(near.mean()), _scatter(rows[speed[rows] > BRISK], times[speed[rows] > BRISK])


def _scatter(rows: np.ndarray, times: np.ndarray) -> float:
    """Seconds by which times leave a straight line, the median; 0 where too few are known."""
    if len(rows) < FEWEST:
        return 0.0
    slope, start = np.polyfit(rows, times, 1)
    return float(np.median(np.abs(times - slope * rows - start))) / TRACE_HZ
