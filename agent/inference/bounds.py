"""Where the first actions of a version may go and how fast: what it was trained on, with room to spare. Pure.

Recordings never leave a workstation, so what a version was trained on is known here in two ways: mean and
standard deviation of all its actions, by which the policy turns its output into units, and whatever was
demonstrated at this workstation, whole. Each joint may go where either of them leads. How fast demonstrations
were, deviations do not tell (docs/rollouts.md#the-first-chunk); that comes from the workstation's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agent.robot.joints import JOINTS
from shared.policy.rtc import POLICY_HZ, STRIDE

SPREADS = 6.0
"""Standard deviations around the mean. However a joint moved, at most one frame in 36 lies further out
(Chebyshev's inequality); of the demonstrations measured, none does: docs/rollouts.md."""
ROOM = 10.0
"""Units around what was demonstrated here."""
FASTER = 1.5
"""Times the largest speed demonstrated here."""
SLOWEST = 60.0
"""Units per second that every joint may have, also one that was never moved here but in another station's
demonstrations: as fast as an arm goes to its start pose (`agent.robot.rollout.START_SPEED`)."""

type Spread = tuple[np.ndarray, np.ndarray]
"""Mean and standard deviation of actions, (6,) units each."""


@dataclass(frozen=True)
class Bounds:
    """Of goals; infinite where nothing is known.

    Attributes:
        low, high: (6,) float32 units.
        speed: (6,) float32 units per second.
    """

    low: np.ndarray
    high: np.ndarray
    speed: np.ndarray

    def stacked(self) -> np.ndarray:
        """(3, 6) float32: low, high, speed."""
        return np.stack([self.low, self.high, self.speed]).astype(np.float32)


def bounds(spread: Spread | None, demonstrations: Sequence[np.ndarray]) -> Bounds:
    """What a version is held to.

    Args:
        spread: Of the actions that it was trained on; None where the base does not say.
        demonstrations: Actions of each episode that trains here, (frames, 6) units at CONTROL_HZ; one of
            other joints tells nothing.
    """
    unknown: np.ndarray = np.full(len(JOINTS), np.inf)
    low, high, speed = -unknown, unknown, unknown
    if spread is not None:
        mean, std = spread
        low, high = mean - SPREADS * std, mean + SPREADS * std
    if usable := [each for each in demonstrations if each.shape[1] == len(JOINTS)]:
        actions = np.concatenate(usable)
        low = np.minimum(low, actions.min(axis=0) - ROOM)
        high = np.maximum(high, actions.max(axis=0) + ROOM)
        speed = np.maximum(FASTER * np.max([_fastest(each) for each in usable], axis=0), SLOWEST)
    return Bounds(*(each.astype(np.float32) for each in (low, high, speed)))


def _fastest(actions: np.ndarray) -> np.ndarray:
    """(6,) units per second: over the time between two actions of a chunk, as what a policy learns from it
    is."""
    return POLICY_HZ * np.abs(actions[STRIDE:] - actions[:-STRIDE]).max(axis=0, initial=0.0)
