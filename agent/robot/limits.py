"""Motion limits for everything that is not a person holding the leader. Pure functions on units."""

from dataclasses import dataclass

import numpy as np

from agent.robot.joints import FULL_TURN, GRIPPER
from shared.policy.rtc import CONTROL_HZ

MARGIN = 2.0
"""Distance kept from the calibrated ends, units: the mechanical stop is where the calibration was taken."""


@dataclass(frozen=True)
class Limits:
    """Where goals may lie and how far and how fast they may move.

    Attributes:
        low, high: (6,) float32, units.
        max_step: Largest change of one joint's goal in one tick, units; also after missed ticks. (6,) where
            it is not the same for all.
        max_speed: Largest speed of one joint's goal, units per second.
    """

    low: np.ndarray
    high: np.ndarray
    max_step: float | np.ndarray
    max_speed: float = np.inf

    def listed(self) -> list[list[float]]:
        """(6, 2): of each joint low and high, units; JSON-ready."""
        return np.stack([self.low, self.high], axis=1).round(1).tolist()

    def clamp(self, goal: np.ndarray, previous: np.ndarray, seconds: float = 1 / CONTROL_HZ) -> np.ndarray:
        """The goal that may be sent, (6,) float32.

        Steps are measured from the last goal that was sent, not from the position: an arm that lags or is
        held back must not get slower for it, and the speed of the goals is bounded either way.

        Args:
            goal: (6,) units, wanted.
            previous: (6,) units, the last one sent.
            seconds: Since that.

        Raises:
            ValueError: the goal is not finite.
        """
        if not np.isfinite(goal).all():
            raise ValueError(f"a goal is not a number: {goal.tolist()}")
        # fmin: without a limit of speed and without time that product is no number.
        reach = np.fmin(self.max_step, self.max_speed * max(0.0, seconds))
        bounded = np.clip(goal, self.low, self.high)
        step = np.clip(bounded - previous, -reach, reach)
        return (previous + step).astype(np.float32)


def limits_from_ranges(ranges: list[tuple[int, int]], max_step: float, max_speed: float = np.inf) -> Limits:
    """Limits of an arm whose joints were calibrated to `ranges`, counts, in LeRobot's order."""
    half = np.array([(high - low) / 2 * 360 / FULL_TURN for low, high in ranges], dtype=np.float32)
    low, high = -half + MARGIN, half - MARGIN
    low[GRIPPER], high[GRIPPER] = 0.0, 100.0
    return Limits(low, high, max_step, max_speed)
