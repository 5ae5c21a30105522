"""Coming down: from wherever the arm holds to the pose in which it last lay limp, slowly; then it is let go.

That pose needs no torque: it was read just before torque came on. An arm that meets something on the way
stays there. A step function on plain values; the loop runs it as an `Activity`.
"""

from enum import Enum

import numpy as np

from agent.robot.loop import Activity, Observation

SPEED = 25.0
"""Units per second; a tenth of what the servo can do."""
LIMIT_S = 6.0
"""Longest way down: 150 units, more than any joint has between its rest and its highest pose."""
HELD_UP_UNITS = 20.0
"""A joint this far behind its goal has met something. At SPEED the normal lag (0.17 s) is 4 units."""
REACHED_UNITS = 3.0


class Phase(Enum):
    """It has only one."""

    LOWERING = "lowering"


class Lowering(Activity):
    """Moves to `rest`, then says done.

    Args:
        rest: (6,) units where the arm lay limp, or None: it is let go where it is.
        free: Joints (0..5) that don't obey and don't count.
        fps: Ticks per second of the loop.
    """

    name, phase = "lowering", Phase.LOWERING
    engages = guarded = needs_frames = limited = False
    releases = True

    def __init__(self, rest: np.ndarray | None, free: frozenset[int], fps: int) -> None:
        self._rest, self._step, self._left = rest, SPEED / fps, round(LIMIT_S * fps)
        self._obeys = np.array([joint not in free for joint in range(6)])
        self._goal: np.ndarray = np.zeros(6, np.float32)
        self._reason: str | None = "no_rest_pose_known" if rest is None else None

    def begin(self, position: np.ndarray) -> None:
        self._goal = position

    def step(self, seen: Observation) -> np.ndarray | None:
        if self._rest is None:
            return None
        self._left -= 1
        behind = np.abs(self._goal - seen.state)[self._obeys]
        if behind.max(initial=0.0) > HELD_UP_UNITS:
            self._reason = "held_up"
            return None
        self._goal = self._goal + np.clip(self._rest - self._goal, -self._step, self._step)
        arrived = np.abs(self._rest - seen.state)[self._obeys].max(initial=0.0) <= REACHED_UNITS
        if arrived and np.allclose(self._goal, self._rest, atol=1e-3):
            self._reason = "lowered"
        elif self._left <= 0:
            self._reason = "time_up"
        return self._goal

    @property
    def done(self) -> str | None:
        return self._reason
