"""What facts about the computer mean. Pure."""

from dataclasses import dataclass

from cli.doctor.finding import Finding, fail, ok, warn
from shared.exit_codes import ExitCode

CLOCK_S = 5.0
"""Flower refuses a node's signature that is more than 5 s ahead of the SuperLink's clock."""
MIN_FREE_MB = 500
EPISODE_MB_PER_MINUTE = 28
"""Two cameras at 30 Hz, h264, crf 23: 2.3 MB for 10 s at 320x240 were measured; twice that at 640x480."""
POLICY_MB = 2500
"""SmolVLA as loaded takes 1.7 GB, its activations some more."""


@dataclass(frozen=True)
class GpuFacts:
    """What there is to compute with.

    Attributes:
        device: `[policy] device`.
        gpus: (name, memory MB, of that free MB) as nvidia-smi lists them.
        trouble: Why nvidia-smi told nothing.
        blocked: Device files that this user may not open.
    """

    device: str
    gpus: tuple[tuple[str, int, int], ...] = ()
    trouble: str = ""
    blocked: tuple[str, ...] = ()


def check_disk(free_mb: int, min_free_mb: int, folder: str) -> Finding:
    """Room for recordings."""
    wanted = max(MIN_FREE_MB, min_free_mb)
    room = max(0, free_mb - wanted) // EPISODE_MB_PER_MINUTE
    means = f"{free_mb} MB free at {folder}, {wanted} MB wanted: about {room} minutes of two cameras"
    if free_mb < wanted:
        return fail("disk", means, "make room; recording is refused meanwhile", ExitCode.DISK_FULL)
    if room < 30:
        return warn("disk", means, "make room before a long session")
    return ok("disk", means)


def check_clock_service(synchronised: bool | None) -> Finding:
    """Whether the clock is kept by a time service; None: it could not be asked."""
    if synchronised is None:
        return warn(
            "clock service", "timedatectl tells nothing", "see that the clock is set by a time service"
        )
    if not synchronised:
        do = "sudo timedatectl set-ntp true; check the network"
        return warn("clock service", "no time service sets the clock: it drifts by seconds a month", do)
    return ok("clock service", "the clock is set by a time service")


def check_clock(ahead_s: float) -> Finding:
    """The clock against the coordinator's."""
    means = f"{ahead_s:+.0f} s against the coordinator (its answer is to the second)"
    if abs(ahead_s) < CLOCK_S:
        return ok("clock", means)
    do = "set the clock (timedatectl set-ntp true): the coordinator refuses signatures that are this far off"
    return fail("clock", means, do, ExitCode.NOT_ENROLLED)


def check_gpu(facts: GpuFacts) -> Finding:
    """The device that `[policy] device` names."""
    seen = ", ".join(f"{name}, {free} of {total} MB free" for name, total, free in facts.gpus)
    if not facts.device.startswith("cuda"):
        means = f'the policy runs on "{facts.device}"'
        if seen:
            return ok("GPU", f"{means}; unused: {seen}", 'for speed: [policy] device = "cuda"')
        return ok("GPU", means)
    if facts.blocked:
        means = f"no permission for {', '.join(facts.blocked)}"
        do = "sudo usermod -aG render,video YOU, then log in again"
        return fail("GPU", means, do, ExitCode.DEVICE_MISSING)
    if not facts.gpus:
        do = 'install NVIDIA\'s driver (nvidia-smi must list the card), or set [policy] device = "cpu"'
        means = f'[policy] device = "{facts.device}", but {facts.trouble or "nvidia-smi lists no card"}'
        return fail("GPU", means, do, ExitCode.DEVICE_MISSING)
    index = int(facts.device.partition(":")[2] or 0)
    if index >= len(facts.gpus):
        means = f'[policy] device = "{facts.device}", but there is only {seen}'
        return fail("GPU", means, "name a card that is there", ExitCode.DEVICE_MISSING)
    if facts.gpus[index][2] < POLICY_MB:
        return warn("GPU", f"{seen}: little for SmolVLA", "end what else uses it (nvidia-smi lists it)")
    return ok("GPU", seen)
