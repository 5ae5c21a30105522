"""How old the things are that a tick sees, for a policy that acts on them. Pure.

A camera that hangs sends nothing, or its last message again (`agent.robot.cameras` knows both), or its last
picture with new time stamps. That is recognised here: the picture is the same bit by bit although the arm has
moved. The noise of a sensor alone makes two pictures differ, and a virtual camera sees the arm.
"""

from dataclasses import dataclass

import numpy as np

from agent.robot.cameras import Frame
from agent.robot.loop import Observation

MOVED = 10.0
"""Units by which a joint has moved when a picture must have changed. A held arm sinks by two or three."""
EVERY = 4
"""Rows between those that are compared: 0.1 ms for a picture of 640x480."""


@dataclass
class _Picture:
    """Of one camera, as long as it sends the same one."""

    image: np.ndarray
    at: float
    state: np.ndarray
    outlived: bool = False


class Freshness:
    """Of one rollout: looks at every tick."""

    def __init__(self) -> None:
        self._pictures: dict[str, _Picture] = {}

    def taken_at(self, seen: Observation, now: float) -> float:
        """When the oldest part of `seen` was new, monotonic seconds; the state is as new as `now`."""
        return min([now, *(self._new_at(name, frame, seen.state) for name, frame in seen.frames.items())])

    def _new_at(self, name: str, frame: Frame, state: np.ndarray) -> float:
        kept = self._pictures.get(name)
        if kept is None or not np.array_equal(kept.image[::EVERY], frame.image[::EVERY]):
            self._pictures[name] = _Picture(frame.image, frame.at, state)
            return frame.at
        kept.outlived |= bool(np.abs(state - kept.state).max() > MOVED)
        return kept.at if kept.outlived else frame.at
