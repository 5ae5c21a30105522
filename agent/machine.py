"""What else the workstation is busy with: load, power, and the GPU as nvidia-smi tells it.

Asked for in a thread, now and then: the daemon never waits for it. What can't be told is None and closes no
window; `armfleet doctor` says what is missing.
"""

import asyncio
import os
import re
import shutil
import subprocess
import time
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
from loguru import logger

ASK_S = 5.0
"""Longest wait for nvidia-smi: its first call loads the driver."""
LOOK_S = 10.0
"""Time between two looks: a call costs some 50 ms of processor time."""
SUPPLIES = Path("/sys/class/power_supply")
NVIDIA_SMI = ("nvidia-smi", "--format=csv,noheader,nounits")


@dataclass(frozen=True)
class Machine:
    """The computer at one time.

    Attributes:
        load: One-minute load average.
        on_battery: None where there is no battery.
        gpu_temperature: Of the hottest card, degrees Celsius.
        gpu_others_mb: GPU memory that processes outside the agent use, MB.
    """

    load: float = field(default_factory=lambda: os.getloadavg()[0])
    on_battery: bool | None = None
    gpu_temperature: int | None = None
    gpu_others_mb: int | None = None


class Observer:
    """Keeps a recent `Machine`.

    Args:
        gpu: Whether the policy runs on a GPU; else nvidia-smi is not asked.
    """

    def __init__(self, gpu: bool) -> None:
        self._gpu = gpu and shutil.which(NVIDIA_SMI[0]) is not None
        self._seen, self._at = Machine(), -LOOK_S
        self._looking: asyncio.Task[None] | None = None

    def machine(self) -> Machine:
        """The last look with the load of now; begins another look where that is old. Call from the daemon's
        event loop."""
        if time.monotonic() - self._at >= LOOK_S and (self._looking is None or self._looking.done()):
            self._at = time.monotonic()
            self._looking = asyncio.create_task(self._look(), name="machine")
        return replace(self._seen, load=os.getloadavg()[0])

    async def _look(self) -> None:
        self._seen = await asyncio.to_thread(look, self._gpu)


def look(gpu: bool) -> Machine:
    """Ask the kernel and, for a `gpu`, nvidia-smi."""
    machine = Machine(on_battery=on_battery(SUPPLIES))
    if not gpu:
        return machine
    own = [os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))]
    temperatures, processes = (
        _ask("--query-gpu=temperature.gpu"),
        _ask("--query-compute-apps=pid,used_memory"),
    )
    return replace(
        machine, gpu_temperature=hottest(temperatures), gpu_others_mb=memory_of_others(processes, own)
    )


def on_battery(supplies: Path) -> bool | None:
    """Whether the machine draws on its battery; None without one. A mouse's battery is none of its own, and a
    full one that is not charged is not drawn on.

    Args:
        supplies: Folder as /sys/class/power_supply (sysfs-class-power in the kernel's ABI documentation).
    """
    states = []
    for supply in sorted(supplies.glob("*")):
        kind = _word(supply / "type")
        if kind in ("Mains", "USB") and _word(supply / "online") == "1":
            return False
        if kind == "Battery" and _word(supply / "scope") != "Device":
            states.append(_word(supply / "status"))
    return "Discharging" in states if states else None


def _word(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def hottest(told: str | None) -> int | None:
    """The highest of nvidia-smi's temperatures, degrees Celsius, one a line."""
    degrees = [int(line) for line in (told or "").split() if line.isdigit()]
    return max(degrees, default=None)


def memory_of_others(told: str | None, own: Collection[int]) -> int | None:
    """MB in nvidia-smi's lines `pid, MB` that belong to none of the processes `own`; a size that is not told
    counts as 0."""
    if told is None:
        return None
    rows = re.findall(r"^\s*(\d+)\s*,\s*(\d+)\s*$", told, re.MULTILINE)
    return sum(int(size) for pid, size in rows if int(pid) not in own)


def _ask(query: str) -> str | None:
    try:
        done = subprocess.run([*NVIDIA_SMI, query], capture_output=True, text=True, timeout=ASK_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        logger.debug("nvidia-smi told nothing: {}", error)
        return None
    return done.stdout
