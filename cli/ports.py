"""The arm's serial ports for a command in a terminal: lent by the agent where it runs, else locked to it."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from agent.config import AgentConfig
from agent.lock import only_one
from agent.parking import GRACE_S, LEASE_S, RELEASE_S
from cli.doctor.finding import JOIN_GROUP
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.uds import UdsClient

LOCK = "agent.lock"
"""In the state folder; see `agent.lock`."""
LOCKS = Path("/proc/locks")
RENEW_S = LEASE_S / 4
ANSWER_S = 5.0


class Loan(Protocol):
    """The right to use the ports."""

    @property
    def said(self) -> str:
        """What a person should know about it; empty if nothing."""

    def check(self) -> None:
        """Raise ArmfleetError if it is over."""


class _Locked:
    said = "no agent runs: the ports are used directly"

    def check(self) -> None:
        return None


class _Lent:
    """A loan of the agent, renewed by a thread."""

    def __init__(self, config: AgentConfig, why: str) -> None:
        self._client = UdsClient(config.node.socket, timeout_s=ANSWER_S)
        answer = self._client.post("/arm/park", {"why": why}, timeout_s=GRACE_S + RELEASE_S + ANSWER_S)
        self._lease = {"lease": answer["lease"]}
        torque = answer.get("torque", "off")
        self.said = "" if torque == "off" else f"the follower may be stiff: {torque}"
        self._over: ArmfleetError | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="loan", daemon=True)
        self._thread.start()

    def check(self) -> None:
        if self._over is not None:
            raise self._over

    def end(self) -> None:
        """Give the ports back; a loan that is over already stays so."""
        self._end.set()
        self._thread.join(ANSWER_S)
        if self._over is None:
            with suppress(ArmfleetError):  # an agent that can't be told takes them back by itself
                self._client.post("/arm/park/end", self._lease)
        self._client.close()

    def _renew(self) -> None:
        while not self._end.wait(RENEW_S):
            try:
                self._client.post("/arm/park/renew", self._lease)
            except ArmfleetError as error:
                self._over = ArmfleetError(
                    f"the agent took the arm's ports back: {error.what}",
                    kept=error.kept,
                    do="begin again",
                    code=error.code,
                )
                return


@contextmanager
def borrowed_ports(config: AgentConfig, why: str) -> Iterator[Loan]:
    """Hold the ports for the length of the block.

    Raises:
        ArmfleetError: the agent refuses (the arm is in use), or its socket is closed to this user.
    """
    if not agent_runs(config):
        with only_one(config.node.state_dir):
            yield _Locked()
        return
    loan = _Lent(config, why)
    try:
        yield loan
    finally:
        loan.end()


def agent_runs(config: AgentConfig) -> bool:
    """Whether an agent answers at its socket.

    Raises:
        ArmfleetError: COORDINATOR_AWAY, this user may not ask it, or it runs and does not answer.
    """
    socket = config.node.socket
    if not socket.exists():
        return False
    if not os.access(socket, os.R_OK | os.W_OK):
        raise ArmfleetError(
            f"this user may not ask the agent at {socket}",
            do=JOIN_GROUP,
            code=ExitCode.COORDINATOR_AWAY,
        )
    client = UdsClient(socket, timeout_s=ANSWER_S)
    try:
        client.get("/status")
    except ArmfleetError as error:
        if error.code is ExitCode.COORDINATOR_AWAY and not _locked(config.node.state_dir / LOCK):
            return False
        raise
    finally:
        client.close()
    return True


def _locked(path: Path) -> bool:
    """Whether a living process holds this lock file, by the kernel's list (proc_locks(5)): one that hangs
    still owns the arm's ports. Taking the lock to find out could turn a starting agent away."""
    try:
        inode, locks = path.stat().st_ino, LOCKS.read_text()
    except FileNotFoundError:
        return False
    return any(line.split()[-3].endswith(f":{inode}") for line in locks.splitlines() if "FLOCK" in line)
