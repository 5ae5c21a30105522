"""Real-time chunking (RTC): how a new action chunk joins the one still being executed. Free of torch.

Arm, lockstep simulation and evaluation read the same defaults here, so that what is measured is what runs.
Sources: guidance is that of Black, Galliker, Levine, Real-time execution of action chunking flow policies,
arXiv 2506.07339; prefix conditioning that of arXiv 2512.05964 (`shared.policy.conditioning`).
"""

from dataclasses import dataclass
from typing import Literal

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
    """Actions of the rest that pull, fading out linearly after the inference delay; fewer where fewer are
    left."""
    max_weight: float = 10.0
    """Upper bound of the guidance weight; LeRobot's default."""


Joining = Literal["none", "guidance", "prefix"]
"""How a new chunk takes the rest of the previous one: not at all; pulled towards it while it is denoised;
with the actions that will have been executed as given, for a policy that was trained so."""


def joining(guidance: Guidance, trained: int, delay: int) -> Joining:
    """How a chunk is joined whose first `delay` actions will have been executed when it arrives.

    Args:
        trained: The longest delay that the live version was trained for; 0: for none. A longer one is
            guidance's: the policy has never seen as many actions given.
        delay: In policy steps.
    """
    if not guidance.enabled:
        return "none"
    return "prefix" if trained and delay <= trained else "guidance"


def target_indices(frame: int, frames: int, chunk: int) -> list[int]:
    """Indices of the recorded 30 Hz actions that make the 10 Hz action chunk for the observation at `frame`.

    Action k is what was commanded at frame + 3k. Past the end the last action repeats: the demonstration ends
    at rest, and holding still there is what was shown.
    """
    return [min(frame + STRIDE * k, frames - 1) for k in range(chunk)]


def in_episode(frame: int, frames: int, chunk: int) -> list[bool]:
    """Which actions of that chunk were commanded; the others are past the end. The first always was."""
    return [frame + STRIDE * k < frames for k in range(chunk)]
