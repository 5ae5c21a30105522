"""A rollout's first chunk is held to what the version was trained on: nobody has seen yet what it does.

For as long as that chunk would last, no goal leaves the version's range, and none moves faster than was
demonstrated (`agent.inference.bounds`). What lies outside is cut off as by the arm's own limits, which hold
besides: the arm keeps its torque and never jumps. This is so in every rollout, not only after a swap: nothing
has to be remembered, and two versions that are compared are treated alike. The first chunk after a person has
handed the arm back is held so as well.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from agent.inference.bounds import Bounds
from agent.robot.limits import Limits
from shared.policy.rtc import STRIDE

CATCHES_UP_S = 0.2
"""A goal that is reached within so long counts as given, though it is sent more slowly. A first action lies
off the start pose: it was made for 0.1 s later, and in real recordings the leader is 130 to 170 ms ahead."""


@dataclass(frozen=True)
class Cut:
    """What one joint was not given.

    Attributes:
        joint: 0..5.
        wanted, allowed: Units.
    """

    joint: int
    wanted: float
    allowed: float


class FirstChunk:
    """Goals of one rollout's first chunks.

    Attributes:
        bounded: Ticks in which a goal was cut.

    Args:
        bounds: Of the version that answers.
        actions: Length of its chunk.
        fps: Ticks per second.
        on_cut: Called at most once, with the first cut, of the joint that lost most.
    """

    def __init__(self, bounds: Bounds, actions: int, fps: int, on_cut: Callable[[Cut], None]) -> None:
        self.bounded = 0
        self._bounds, self._fps = bounds, fps
        self._length, self._on_cut = actions * STRIDE, on_cut
        self._left = self._length

    def again(self) -> None:
        """The next goal is the first of another one."""
        self._left = self._length

    def within(self, goal: np.ndarray, previous: np.ndarray) -> np.ndarray:
        """What may be sent of `goal` after `previous`, (6,) float32 units each.

        A joint that stands outside its range is not led back, which nobody asked for; it just goes no
        further out.
        """
        if self._left == 0:
            return goal
        self._left -= 1
        low, high = np.minimum(self._bounds.low, previous), np.maximum(self._bounds.high, previous)
        given = Limits(low, high, self._bounds.speed / self._fps).clamp(goal, previous)
        far = np.abs(goal - previous) > CATCHES_UP_S * self._bounds.speed
        cut = (goal < low) | (goal > high) | far
        if cut.any():
            if self.bounded == 0:
                joint = int(np.where(cut, np.abs(goal - given), -1).argmax())
                self._on_cut(Cut(joint, float(goal[joint]), float(given[joint])))
            self.bounded += 1
        return given
