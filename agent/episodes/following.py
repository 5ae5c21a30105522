"""How the state follows the action: lag, what remains after it, which joint follows which.

Real SO-101 arms trail their leader by 130 to 170 ms on every joint, by 100 ms in simulation; what remains is
gravity (elbow and shoulder lift: median up to 4 units, 90 % within 7), play, and what the gripper holds.
"""

from dataclasses import dataclass

import numpy as np

EARLIEST_S, LATEST_S = -1.5, 2.0
"""Lags tried. A state before its action is impossible, and therefore of interest."""
MOVING = 5.0
"""Units of travel from which on a joint tells something about its lag: the play of the gears is 1 to 2."""
SHORTEST = 15
"""Rows needed."""


@dataclass(frozen=True)
class Following:
    """The result.

    Attributes:
        lag_s: By which the state trails, all joints together; between frames by interpolation.
        frames: The same, in whole frames, at least 0.
        moving: (joints,) bool: both state and action travel more than MOVING.
        residual: (T - frames, joints) action minus the state that answers it.
        misfit: (joints,) mean distance from its median, as a share of action's travel.
        correlation: (joints,) of action and the state that answers it, before it if need be; 0 where nothing
            moves.
        velocity: (joints, joints) correlation of speeds: action's column with state's.
    """

    lag_s: float
    frames: int
    moving: np.ndarray
    residual: np.ndarray
    misfit: np.ndarray
    correlation: np.ndarray
    velocity: np.ndarray


def follow(state: np.ndarray, action: np.ndarray, fps: float) -> Following | None:
    """(T, joints) each; None where no joint moves or there are too few rows."""
    rows = len(state)
    travel = np.ptp(action, axis=0) if rows else np.zeros(0)
    if rows < SHORTEST or not state.shape[1]:
        return None
    moving = (travel > MOVING) & (np.ptp(state, axis=0) > MOVING)
    if not moving.any():
        return None
    first = max(round(EARLIEST_S * fps), -rows // 3)
    last = min(round(LATEST_S * fps), rows // 3)
    scale = np.maximum(travel, MOVING)
    costs = np.array([_misfit(state, action, lag) / scale for lag in range(first, last + 1)])
    total = _followers(costs, moving)
    best = int(np.argmin(total))
    frames = max(0, first + best)
    earlier, later = action[: rows - frames], state[frames:]
    ahead = max(0, -(first + best))
    answered = (action[ahead:], state[: rows - ahead]) if ahead else (earlier, later)
    return Following(
        lag_s=(first + best + _vertex(total, best)) / fps,
        frames=frames,
        moving=moving,
        residual=earlier - later,
        misfit=costs[max(0, best)],
        correlation=np.diag(_correlation(*answered)),
        velocity=_correlation(*map(_speed, answered)),
    )


def _followers(costs: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """Cost of each lag: the median joint's, so that one that is stuck or flipped does not decide."""
    return np.median(costs[:, moving] / costs[:, moving].mean(axis=0).clip(1e-12), axis=1)


def _misfit(state: np.ndarray, action: np.ndarray, lag: int) -> np.ndarray:
    rows = len(state)
    difference = action[: rows - lag] - state[lag:] if lag >= 0 else action[-lag:] - state[: rows + lag]
    return np.abs(difference - np.median(difference, axis=0)).mean(axis=0)


def _vertex(costs: np.ndarray, best: int) -> float:
    """Where between frames the minimum lies: two lines of equal slope through it, as |x| has them."""
    if not 0 < best < len(costs) - 1:
        return 0.0
    left, middle, right = costs[best - 1 : best + 2]
    rise = max(left, right) - middle
    return float(0.5 * (left - right) / rise) if rise > 0 else 0.0


def _speed(values: np.ndarray) -> np.ndarray:
    """Differences over three frames: encoder steps weigh less."""
    return values[3:] - values[:-3]


def _correlation(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(joints, joints); 0 where a column is constant."""
    left, right = left - left.mean(axis=0), right - right.mean(axis=0)
    norm = np.outer(np.linalg.norm(left, axis=0), np.linalg.norm(right, axis=0))
    return np.divide(left.T @ right, norm, out=np.zeros(norm.shape), where=norm > 1e-6)


def filled(values: np.ndarray) -> np.ndarray:
    """NaN and infinity are another check's business: here the last good number stands for them."""
    values = values.astype(np.float64)
    good = np.isfinite(values)
    if good.all():
        return values
    last = np.maximum.accumulate(np.where(good, np.arange(len(values))[:, None], 0), axis=0)
    return np.nan_to_num(np.take_along_axis(values, last, axis=0), nan=0.0, posinf=0.0, neginf=0.0)


def runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """(start, length) of each run of True in a (T,) bool array."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags.astype(np.int8), [0]))))
    return [(int(a), int(b - a)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def longest_run(flags: np.ndarray) -> tuple[int, int]:
    """(start, length) of the longest run of True; length 0 where there is none."""
    return max(runs(flags), key=lambda run: run[1], default=(0, 0))
