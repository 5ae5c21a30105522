"""Bounds on what training takes from the arm, kept by the kernel, for the trainer and all its children.

Under systemd with cgroup v2 the agent is handed its unit's part of the tree (`Delegate=`; see "Control Group
APIs and Delegation" in systemd's documentation) and divides it:

    armfleet-agent.service    no process: a group that limits its children may hold none (cgroups(7), "no
                              internal processes")
      agent                   the daemon and the other workers, the arm's among them
      train                   the trainer

Elsewhere nothing is divided, the journal says why, and the trainer has its nice value and I/O class alone.
Files and values are those of cgroup-v2.rst in the kernel's documentation.
"""

import re
from contextlib import suppress
from pathlib import Path

from loguru import logger

from shared.errors import ArmfleetError
from shared.systemd import started_by_systemd

ROOT, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
CONTROLLERS = ("cpu", "io", "memory")
LOWEST, ORDINARY = "1", "100"
"""Weights, of 1 to 10000; the kernel's default is 100."""


class Cgroup:
    """The trainer's group.

    Args:
        folder: The group in the cgroup file system.
        memory_limit_gb: `[training] memory_limit_gb`, 10^9 bytes; None: no limit.
    """

    def __init__(self, folder: Path, memory_limit_gb: float | None) -> None:
        self._folder = folder
        self._limits = {
            "cpu.weight": LOWEST,
            "io.weight": LOWEST,
            "io.bfq.weight": LOWEST,  # instead, on disks with the BFQ scheduler (bfq-iosched.rst)
            "memory.max": "max" if memory_limit_gb is None else str(round(memory_limit_gb * 1e9)),
            "memory.oom.group": "1",  # all of it ends together, and nothing outside
        }
        self._kills_before = 0

    def enclose(self, pid: int) -> None:
        """Set the limits and move a process here that was just started; its children will be born here. What
        the kernel refuses is left out, and the journal says so."""
        self._kills_before = self._kills()
        for name, value in {**self._limits, "cgroup.procs": str(pid)}.items():
            try:
                self._set(name, value)
            except OSError as error:
                logger.warning("{} = {} of the trainer's cgroup can't be set: {}", name, value, error)

    def hasten(self) -> None:
        """Give the group its ordinary share of the processor, since what is killed gives back its memory with
        it (see `shared.priority.hasten`); until the next `enclose`."""
        with suppress(OSError):
            self._set("cpu.weight", ORDINARY)

    def ran_out_of_memory(self) -> bool:
        """Whether the kernel killed for want of memory here since the last `enclose`."""
        return self._kills() > self._kills_before

    def _set(self, name: str, value: str) -> None:
        file = self._folder / name
        if file.exists():  # a controller, or a part of it, may be missing
            file.write_text(value)

    def _kills(self) -> int:
        with suppress(OSError):
            told = re.search(r"^oom_kill (\d+)$", (self._folder / "memory.events").read_text(), re.MULTILINE)
            return int(told[1]) if told else 0
        return 0


def divide(memory_limit_gb: float | None, root: Path = ROOT, own: Path = OWN) -> Cgroup | None:
    """Move this process to a leaf of its own and make the trainer's beside it; None where that can't be. The
    journal says which and why. Call before the first worker is started: it is born where its parent is.

    Args:
        memory_limit_gb: `[training] memory_limit_gb`.
        root: Where cgroup v2 is mounted.
        own: The kernel's file of this process's groups.
    """
    try:
        unit = _own_group(root, own)
        daemon, trainer = unit / "agent", unit / "train"
        daemon.mkdir(exist_ok=True)
        trainer.mkdir(exist_ok=True)
        (daemon / "cgroup.procs").write_text("0")  # the process that writes
        there = (unit / "cgroup.controllers").read_text().split()
        enabled = [name for name in CONTROLLERS if name in there]
        (unit / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in enabled))
    except ArmfleetError as error:
        logger.info("training has no cgroup limits: {}", error)
        return None
    except OSError as error:
        logger.info("training has no cgroup limits: the unit's can't be divided (Delegate=): {}", error)
        return None
    logger.info("training has the cgroup {}, with limits of: {}", trainer, ", ".join(enabled) or "nothing")
    return Cgroup(trainer, memory_limit_gb)


def _own_group(root: Path, own: Path) -> Path:
    """The unit's group in the cgroup v2 tree.

    Raises:
        ArmfleetError: this process is not a unit's, or the system has no such tree.
    """
    if not started_by_systemd():
        raise ArmfleetError("the agent was not started by systemd")
    path = re.search(r"^0::/(.*)$", own.read_text(), re.MULTILINE)
    if path is None or not (root / "cgroup.controllers").exists():
        raise ArmfleetError("the system has no cgroup v2")
    return root / path[1]
