"""Real-time chunking (RTC): how a new action chunk joins the one still being executed. Free of torch.

Arm, lockstep simulation and evaluation read the same defaults here, so that what is measured is what runs.
Source: Black, Galliker, Levine, Real-time execution of action chunking flow policies, arXiv 2506.07339.
"""

from dataclasses import dataclass

CONTROL_HZ = 30
"""Rate at which goals are written to the servos and episodes are recorded."""

POLICY_HZ = 10
"""Rate of the actions in a chunk; LeRobot's ActionInterpolator fills in between them."""

STRIDE = CONTROL_HZ // POLICY_HZ


@dataclass(frozen=True)
class Guidance:
    """How strongly a new chunk is pulled towards the unexecuted rest of the previous one."""

    enabled: bool = True
    horizon: int = 4
    """Actions of the rest that pull, fading out linearly after the inference delay. At most the queue
    threshold at which LeRobot's engine infers: it fills a shorter rest with zeros, which would pull towards
    the mean pose."""
    max_weight: float = 10.0
    """Upper bound of the guidance weight; LeRobot's default."""


def target_indices(frame: int, frames: int, chunk: int) -> list[int]:
    """Indices of the recorded 30 Hz actions that make the 10 Hz action chunk for the observation at `frame`.

    Action k is what was commanded at frame + 3k. Past the end the last action repeats: the demonstration ends
    at rest, and holding still there is what was shown.
    """
    return [min(frame + STRIDE * k, frames - 1) for k in range(chunk)]


def in_episode(frame: int, frames: int, chunk: int) -> list[bool]:
    """Which actions of that chunk were commanded; the others are past the end. The first always was."""
    return [frame + STRIDE * k < frames for k in range(chunk)]
