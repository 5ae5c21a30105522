"""The most memory that an update took: of the process, and of its tensors on a GPU."""

import re
import resource
from pathlib import Path

import torch
from loguru import logger

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"
"""Sets VmHWM back to what is resident now (proc_pid_clear_refs(5), since Linux 4.0)."""


class PeakMemory:
    """Highest memory since `reset`.

    Args:
        device: torch device.
        status, clear_refs: The kernel's files of this process.
    """

    def __init__(self, device: str, status: Path = STATUS, clear_refs: Path = CLEAR_REFS) -> None:
        self._gpu = torch.device(device) if torch.device(device).type == "cuda" else None
        self._status, self._clear_refs = status, clear_refs
        self._said = False

    def reset(self) -> None:
        """Forget what was. Where the kernel does not allow it, `resident` counts from the process's start,
        and the journal says so once."""
        if self._gpu is not None:
            torch.cuda.reset_peak_memory_stats(self._gpu)
        try:
            self._clear_refs.write_text(RESET_PEAK)
        except OSError as error:
            if not self._said:
                logger.info("peak memory is that since the trainer's start, not of each update ({})", error)
            self._said = True

    def resident(self) -> int:
        """Bytes of the process in memory, shared libraries and mapped files included (VmHWM in proc(5), or
        getrusage(2) where there is none)."""
        told = re.search(r"^VmHWM:\s*(\d+) kB", self._status.read_text(), re.MULTILINE)
        return 1024 * int(told[1] if told else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)

    def on_gpu(self) -> int:
        """Bytes of tensors on the GPU, 0 without one; torch and the driver hold more."""
        return torch.cuda.max_memory_allocated(self._gpu) if self._gpu is not None else 0
