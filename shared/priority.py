"""How much of the processor a process gets, on kernels that group processes by session too.

With autogroups (sched(7), on by default in Debian and Ubuntu) a nice value counts only among the processes of
one session; between sessions the group's own value decides. Each worker is a session of its own, so a trainer
at nice 19 alone would still take as much as the control loop.
"""

import os
from contextlib import suppress
from pathlib import Path

AUTOGROUP = Path("/proc/self/autogroup")


def set_priority(nice: int, autogroup: Path = AUTOGROUP) -> None:
    """Set the nice value of this thread and of those it will start; a session's leader its autogroup's too.

    Args:
        nice: -20 (most) to 19 (least).

    Raises:
        PermissionError: lowering the value is not allowed (LimitNICE= in a unit allows it). Nothing changed.
    """
    os.setpriority(os.PRIO_PROCESS, 0, nice)
    if os.getsid(0) != os.getpid() or not autogroup.exists():
        return  # others share the session, or the kernel has no autogroups: the nice value says it all
    try:
        autogroup.write_text(str(nice))
    except OSError:
        # Without privileges a group's value can only be raised, and not often: the thread's value stands.
        return


def hasten(leader: int) -> None:
    """Give a session back its ordinary priority, so that its end does not take long: a process gives back its
    memory with its own share of the processor, a gigabyte at the lowest priority beside others in seconds.

    Where that is not allowed (LimitNICE= in a unit allows it), or the process is gone, nothing happens.

    Args:
        leader: Process id of the session's leader, which leads its process group too.
    """
    with suppress(OSError):
        os.setpriority(os.PRIO_PGRP, leader, 0)
    with suppress(OSError):
        Path(f"/proc/{leader}/autogroup").write_text("0")
