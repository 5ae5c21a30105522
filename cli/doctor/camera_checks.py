"""What facts about a camera mean. Pure."""

from dataclasses import dataclass

from cli.doctor.finding import Finding, fail, ok, warn
from shared.exit_codes import ExitCode

SLOW, TOO_SLOW = 0.9, 0.6
"""Shares of the configured rate. Many webcams halve theirs in weak light (automatic exposure); below 0.6 the
policy would see each picture twice."""
DARK, BRIGHT = 12, 243
"""Mean brightness (0..255) of a covered lens and of a blinded sensor."""
FLAT = 4
"""Standard deviation of the brightness below which a picture shows nothing."""


@dataclass(frozen=True)
class CameraFacts:
    """What a camera gave in a short time.

    Attributes:
        trouble: Why it gave nothing; empty if it did.
        do: What helps against that.
        wanted: (width, height, frames per second) of the configuration.
        size: (width, height) of what came.
        rate: Frames per second.
        frames: How many came.
        different: How many of them differ from the one before.
        mean, deviation: Brightness of the last one.
        snapshot: File of the last one; empty if it could not be saved.
        published: It came over ZMQ, and may be rendered or filtered: without a sensor's noise.
    """

    name: str
    wanted: tuple[int, int, int]
    trouble: str = ""
    do: str = ""
    size: tuple[int, int] = (0, 0)
    rate: float = 0.0
    frames: int = 0
    different: int = 0
    mean: float = 128.0
    deviation: float = 50.0
    snapshot: str = ""
    published: bool = False


def check_camera(facts: CameraFacts) -> Finding:
    """Presence, size, rate, and whether the picture shows anything and changes."""
    what, (width, height, fps) = f"camera {facts.name}", facts.wanted
    if facts.trouble:
        return fail(what, facts.trouble, facts.do, ExitCode.CAMERA_LOST)
    seen = f"{facts.size[0]}x{facts.size[1]} at {facts.rate:.1f} of {fps} Hz"
    if facts.snapshot:
        seen += f", picture in {facts.snapshot}"
    if facts.size != (width, height):
        do = f"agent.toml wants {width}x{height}: choose a size that the camera has"
        return fail(what, seen, do, ExitCode.CAMERA_LOST)
    if facts.frames > 2 and facts.different <= 1 and not facts.published:
        do = "replug it; a sensor's pictures always differ a little"
        return fail(what, f"{seen}: frozen, all pictures are the same", do, ExitCode.CAMERA_LOST)
    if facts.rate < fps * TOO_SLOW:
        do = "more light, or fix the exposure (v4l2-ctl); a USB port of its own; a smaller size"
        return fail(what, f"{seen}: too slow", do, ExitCode.CAMERA_LOST)
    if facts.rate < fps * SLOW:
        return warn(what, f"{seen}: slow", "more light, or fix the exposure; a USB port of its own")
    if facts.deviation < FLAT and facts.mean < DARK:
        return warn(what, f"{seen}: black", "take the cap off, give it light")
    if facts.deviation < FLAT and facts.mean > BRIGHT:
        return warn(what, f"{seen}: white", "turn it away from the light, fix the exposure")
    if facts.deviation < FLAT:
        return warn(what, f"{seen}: the picture shows nothing", "look at the picture; check lens and focus")
    if facts.frames > 2 and facts.different <= 1:
        do = "wave a hand before it and look again"
        return warn(what, f"{seen}: all pictures are the same: frozen, or nothing moves", do)
    return ok(what, seen)
