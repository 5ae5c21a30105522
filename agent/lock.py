"""Locks on folders, held by the kernel: whatever ends their holder frees them."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode

POLL_S = 0.02


@contextmanager
def locked(path: Path, wait_s: float, refusal: ArmfleetError) -> Iterator[None]:
    """Hold the lock file `path`; raises `refusal` when another process still holds it after `wait_s`."""
    deadline = time.monotonic() + wait_s
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    raise refusal from error
            time.sleep(POLL_S)
        yield


@contextmanager
def only_one(state_dir: Path) -> Iterator[None]:
    """Be the one process that owns a workstation's state: the agent, or a command while none runs.

    Raises:
        ArmfleetError: ALREADY_RUNNING.
    """
    state_dir.mkdir(parents=True, exist_ok=True)
    refusal = ArmfleetError(
        f"another agent uses {state_dir}", do="stop it first", code=ExitCode.ALREADY_RUNNING
    )
    with locked(state_dir / "agent.lock", 0.0, refusal):
        yield
