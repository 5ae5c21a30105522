"""The person at the leader arm: a hand that moves its limp joints along a path, in real time.

The hand knows nothing of servos or processes. It is told what to do and asked, at any later time, where the
joints are; both times come from the caller's clock.
"""

from dataclasses import dataclass

import numpy as np

from sim.expert import CONTROL_HZ

APPROACH_UNITS_PER_S = 60.0
"""How fast the hand moves to where a demonstration begins, if it is elsewhere."""

STANDING_UNITS = 1.0
"""Differences below this are not worth an approach."""


@dataclass(frozen=True)
class _Motion:
    """Joint positions (T, 6) in units at `CONTROL_HZ`, from `begin` on the caller's clock."""

    begin: float
    path: np.ndarray
    demonstration: bool

    def at(self, now: float) -> np.ndarray:
        last = len(self.path) - 1
        step = min(max((now - self.begin) * CONTROL_HZ, 0.0), float(last))
        before = int(step)
        after = min(before + 1, last)
        return self.path[before] + (step - before) * (self.path[after] - self.path[before])

    @property
    def end(self) -> float:
        return self.begin + (len(self.path) - 1) / CONTROL_HZ


def smooth_path(start: np.ndarray, end: np.ndarray, seconds: float) -> np.ndarray:
    """(T, 6) minimum-jerk motion at `CONTROL_HZ`, both ends included (Flash and Hogan 1985)."""
    share = np.linspace(0, 1, max(2, round(seconds * CONTROL_HZ) + 1))[:, None]
    return start + (end - start) * (10 * share**3 - 15 * share**4 + 6 * share**5)


class Person:
    """Where the hand holds the leader. Not thread-safe: the caller serialises.

    Args:
        pose: joint positions at the start, (6,) units.
    """

    def __init__(self, pose: np.ndarray) -> None:
        self._motion = _Motion(0.0, np.asarray(pose, np.float64)[None], demonstration=False)

    def move(self, now: float, pose: np.ndarray, seconds: float) -> None:
        """Moves to `pose` (6,) units within `seconds`; replaces whatever the hand was doing."""
        path = smooth_path(self.pose(now), np.asarray(pose, np.float64), seconds)
        self._motion = _Motion(now, path, demonstration=False)

    def demonstrate(self, now: float, path: np.ndarray) -> float:
        """Follows `path` (T, 6) units at `CONTROL_HZ`, after an approach if it begins elsewhere.

        Returns:
            How long it takes, s.
        """
        here = self.pose(now)
        distance = float(np.max(np.abs(path[0] - here)))
        if distance > STANDING_UNITS:
            path = np.concatenate([smooth_path(here, path[0], distance / APPROACH_UNITS_PER_S), path])
        self._motion = _Motion(now, path, demonstration=True)
        return self._motion.end - now

    def hold(self, now: float, pose: np.ndarray) -> None:
        """Gives in: the joints are at `pose` (6,) units and stay there."""
        self._motion = _Motion(now, np.asarray(pose, np.float64)[None], demonstration=False)

    def pose(self, now: float) -> np.ndarray:
        """Joint positions, (6,) float64 units."""
        return self._motion.at(now)

    def moving(self, now: float) -> bool:
        """Whether the hand moves."""
        return now < self._motion.end

    def demonstrating(self, now: float) -> bool:
        """Whether a demonstration is going on."""
        return self._motion.demonstration and self.moving(now)

    def seconds(self, now: float) -> float:
        """Time since the present motion began, at most its length."""
        return max(0.0, min(now, self._motion.end) - self._motion.begin)
