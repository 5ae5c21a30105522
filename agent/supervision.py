"""Starts, stops and restarts the worker processes; a worker's crash never takes the agent down.

A worker is `stopped` -> `starting` -> `ready`; when it ends unasked it is `failed`, its reason is kept,
`on_death` runs (the arm: torque off), and it is started again after a pause that doubles from half a second
to half a minute. Workers run in process groups of their own: Ctrl-C in a terminal reaches the daemon alone,
which stops them in order.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from loguru import logger

from agent.cgroup import Cgroup
from shared.channel import FD_VARIABLE, ChannelClosed, DaemonChannel
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.priority import hasten

State = Literal["stopped", "starting", "ready", "failed"]

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
STEADY_S = 60.0
"""A worker that was ready for this long has recovered: the pause starts from the beginning."""

# Killed with the daemon even after SIGKILL (PR_SET_PDEATHSIG, prctl(2)); util-linux is essential on Debian
# and Ubuntu.
DIES_WITH_DAEMON = ("setpriv", "--pdeathsig", "KILL")
LOWEST_PRIORITY = ("nice", "-n", "19", "ionice", "-t", "-c", "3")

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",  # a missing file is an error, never a download
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads starve the control loop
    "PYTHONUNBUFFERED": "1",
}


@dataclass(frozen=True)
class WorkerSpec:
    """How a worker is started.

    Args:
        name: As in `/status` and in log fields.
        argv: Command line after the interpreter, for instance ("-m", "agent.robot.worker", "--config", …).
        background: Lowest CPU and I/O priority.
        dies_with_daemon: SIGKILL when the daemon dies. False for the arm, which must hold and release first.
        start_s: Longest time until the worker says `ready`; cold imports of torch take 17 s on a slow
        machine.
        cgroup: Where it runs; None: where the daemon runs.
    """

    name: str
    argv: tuple[str, ...]
    background: bool = False
    dies_with_daemon: bool = True
    start_s: float = 300.0
    environment: dict[str, str] = field(default_factory=dict)
    cgroup: Cgroup | None = None

    def command(self) -> list[str]:
        """The whole command line."""
        prefix = (DIES_WITH_DAEMON if self.dies_with_daemon else ()) + (
            LOWEST_PRIORITY if self.background else ()
        )
        return [*prefix, sys.executable, *self.argv]


def pause_s(failures: int) -> float:
    """Pause before the restart that follows the `failures`-th failure in a row (from 1)."""
    return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures - 1, 10))


def describe_exit(returncode: int) -> str:
    """What an exit status says, in words."""
    if returncode < 0:
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-returncode).name}"
        return f"was killed by signal {-returncode}"
    with contextlib.suppress(ValueError):
        return f"ended with code {returncode} ({ExitCode(returncode).name})"
    return f"ended with code {returncode}"


type OnEvent = Callable[[str, dict[str, Any]], None]
type OnDeath = Callable[[str], Awaitable[None]]


class Worker:
    """One supervised worker process.

    Args:
        spec: How to start it.
        on_event: Called in the loop for each event other than `ready` and `error`.
        on_death: Awaited with the reason whenever the process ends unasked, before it is started again.
    """

    def __init__(
        self, spec: WorkerSpec, on_event: OnEvent | None = None, on_death: OnDeath | None = None
    ) -> None:
        self.spec = spec
        self.state: State = "stopped"
        self.reason = "not started"
        self.restarts = 0
        self._on_event, self._on_death = on_event, on_death
        self._wanted = False
        self._failures = 0
        self._task: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._channel: DaemonChannel | None = None
        self._ready = asyncio.Event()
        self._wake = asyncio.Event()
        self._last_error = ""
        self._log = logger.bind(worker=spec.name)

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if running and self._process else None

    def status(self) -> dict[str, Any]:
        """For `/status`."""
        return {"state": self.state, "reason": self.reason, "pid": self.pid, "restarts": self.restarts}

    def start(self, reason: str = "") -> None:
        """Begin to supervise; returns at once. Nothing happens if the worker is supervised already."""
        if self._wanted:
            return
        self._wanted, self._failures = True, 0
        self.state, self.reason = "starting", reason
        previous = self._task
        self._task = asyncio.create_task(self._supervise(previous), name=f"worker-{self.spec.name}")

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait until the worker answers requests.

        Raises:
            ArmfleetError: it isn't ready in time; says why.
        """
        try:
            await asyncio.wait_for(self._ready.wait(), timeout_s)
        except TimeoutError as error:
            raise ArmfleetError(
                f"the {self.spec.name} worker is not ready ({self.state}: {self.reason})",
                do="try again shortly",
            ) from error

    async def request(self, op: str, timeout_s: float = 10.0, **fields: Any) -> dict[str, Any]:
        """Ask the worker; raises ArmfleetError with its sentence, or why it isn't running."""
        if self._channel is None or not self._ready.is_set():
            raise ArmfleetError(
                f"the {self.spec.name} worker is {self.state}: {self.reason}", do="try again shortly"
            )
        try:
            return await self._channel.request(op, timeout_s, **fields)
        except ChannelClosed as error:
            raise ChannelClosed(f"the {self.spec.name} worker ended while it was asked to '{op}'") from error

    async def stop(self, reason: str, grace_s: float = 5.0) -> None:
        """End the worker: its channel is closed, and after `grace_s` it is killed."""
        await self._end(reason, grace_s)

    async def kill(self, reason: str) -> None:
        """End the worker at once with SIGKILL."""
        await self._end(reason, None)

    async def _end(self, reason: str, grace_s: float | None) -> None:
        self._wanted = False
        self._wake.set()
        process, channel, task = self._process, self._channel, self._task
        if process is not None and process.returncode is None:
            if grace_s is None:
                self._signal(process)
            elif channel is not None:
                await channel.close()
                try:
                    await asyncio.wait_for(process.wait(), grace_s)
                except TimeoutError:
                    self._log.warning("{} did not end within {} s and is killed", self.spec.name, grace_s)
                    self._signal(process)
        if task is not None:
            await task
        if not self._wanted:
            self.state, self.reason = "stopped", reason

    def _signal(self, process: asyncio.subprocess.Process) -> None:
        if self.spec.background:
            hasten(process.pid)
        if self.spec.cgroup is not None:
            self.spec.cgroup.hasten()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    async def _supervise(self, previous: asyncio.Task[None] | None) -> None:
        if previous is not None:
            await previous
        while self._wanted:
            self._wake.clear()
            started = time.monotonic()
            why = await self._run_once()
            if not self._wanted:
                return
            self._failures = 1 if time.monotonic() - started > STEADY_S else self._failures + 1
            self.restarts += 1
            self.state, self.reason = "failed", why
            self._log.error("the {} worker {}", self.spec.name, why)
            if self._on_death is not None:
                try:
                    await self._on_death(why)
                except Exception:
                    self._log.exception("what follows the death of the {} worker failed", self.spec.name)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause_s(self._failures))

    async def _run_once(self) -> str:
        """One life of the process; returns how it ended."""
        near, far = socket.socketpair()
        self._last_error = ""
        try:
            self._process = process = await asyncio.create_subprocess_exec(
                *self.spec.command(),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=[far.fileno()],
                start_new_session=True,
                env={**os.environ, **ENVIRONMENT, **self.spec.environment, FD_VARIABLE: str(far.fileno())},
            )
        except OSError as error:
            near.close()
            return f"could not be started: {error}"
        finally:
            far.close()
        if self.spec.cgroup is not None:
            self.spec.cgroup.enclose(process.pid)
        self._channel = channel = await DaemonChannel.open(near, self._event)
        self.state, self.reason = "starting", f"process {process.pid} is loading"
        try:
            if not self._wanted:
                self._signal(process)
            return await self._watch(process)
        finally:
            self._ready.clear()
            self._channel = None
            await channel.close()

    async def _watch(self, process: asyncio.subprocess.Process) -> str:
        ending = asyncio.create_task(process.wait())
        ready = asyncio.create_task(self._ready.wait())
        await asyncio.wait({ending, ready}, timeout=self.spec.start_s, return_when=asyncio.FIRST_COMPLETED)
        late = not ready.done() and not ending.done()
        ready.cancel()
        if late:
            self._signal(process)
        code = await ending
        if late:
            return f"was not ready within {self.spec.start_s:g} s and was killed"
        starved = self.spec.cgroup is not None and self.spec.cgroup.ran_out_of_memory()
        why = "out of memory" if starved else self._last_error
        return describe_exit(code) + (f": {why}" if why else "")

    def _event(self, name: str, fields: dict[str, Any]) -> None:
        if name == "ready":
            self.state, self.reason = "ready", "running"
            self._ready.set()
            self._log.info("the {} worker is ready", self.spec.name)
        elif name == "error":
            self._last_error = str(ArmfleetError.from_dict(fields))
            self._log.error("{}: {}", self.spec.name, self._last_error)
        if name != "error" and self._on_event is not None:
            self._on_event(name, fields)
