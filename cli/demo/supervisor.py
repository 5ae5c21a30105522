"""Runs the demo's processes as systemd would: each is restarted when it ends, each logs to a file of its own.

systemd                      here
Restart=always, RestartSec=  `Unit.restart_s`
ExecStopPost=                `Unit.after_exit`, run each time the process has ended, before the next start
TimeoutStopSec=              `Unit.stop_s`, then SIGKILL
control group                an environment variable with a random value, found again in /proc/PID/environ

Nothing outlives the demo. The direct children are killed by the kernel when the supervising thread ends
(PR_SET_PDEATHSIG, prctl(2)); grandchildren, and all of them if the demo is killed, by `cli.demo.keeper`.
"""

import ctypes
import os
import secrets
import selectors
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from loguru import logger

from cli.demo.keeper import MARK, marked, reap
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode

_LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG = 1
AFTER_EXIT_S = 10.0


def _die_with_parent() -> None:
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@dataclass(frozen=True)
class Unit:
    """One supervised process."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    restart_s: float = 1.0
    stop_s: float = 15.0
    after_exit: Sequence[str] = ()
    order: int = 0
    """Units of the highest order are stopped first; those of the same order at the same time."""


@dataclass
class _Running:
    unit: Unit
    process: subprocess.Popen | None = None
    pidfd: int = -1
    restart_at: float | None = None
    starts: int = 0
    stopping: bool = False


class Supervisor:
    """Starts units and keeps them running until `stop`.

    A thread of its own starts and reaps all of them: the kernel's parent-death signal follows the *thread*
    that forked, so it has to be one that lives as long as the demo.
    """

    def __init__(self, log_dir: Path, env: Mapping[str, str] | None = None) -> None:
        self.mark = secrets.token_hex(8)
        self._log_dir = log_dir
        log_dir.mkdir(parents=True, exist_ok=True)
        self._env = {**os.environ, **(env or {}), MARK: self.mark}
        self._units: dict[str, _Running] = {}
        self._lock = threading.RLock()
        self._done = threading.Event()
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._keeper = self._start_keeper()
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self._thread.start()

    def start(self, unit: Unit) -> None:
        """Start `unit` and keep it running."""
        with self._lock:
            if unit.name in self._units:
                raise ValueError(f"{unit.name} runs already")
            self._units[unit.name] = _Running(unit, restart_at=monotonic())
        self._wake()

    def run_once(self, name: str, argv: Sequence[str], timeout_s: float) -> None:
        """Run a command to its end.

        Raises:
            ArmfleetError: DEMO_FAILED, with its last words: it took too long or did not end with status 0.
        """
        with self.log(name).open("ab") as log:
            try:
                done = subprocess.run(
                    list(argv),
                    env=self._env,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    timeout=timeout_s,
                    check=False,
                )
                how = f"ended with status {done.returncode}" if done.returncode else ""
            except subprocess.TimeoutExpired:
                how = f"took more than {timeout_s:g} s"
        if how:
            raise ArmfleetError(
                f"{name} {how}; its last words: {last_words(self.log(name))}",
                do=f"read {self.log(name)}",
                code=ExitCode.DEMO_FAILED,
            )

    def pid(self, name: str) -> int | None:
        """Process id of a unit; None between two starts."""
        with self._lock:
            running = self._units[name]
            return running.process.pid if running.process else None

    def starts(self, name: str) -> int:
        """How often the unit has been started."""
        with self._lock:
            return self._units[name].starts

    def log(self, name: str) -> Path:
        """The unit's log file."""
        return self._log_dir / f"{name}.log"

    def names(self) -> list[str]:
        """All units, in the order of their start."""
        with self._lock:
            return list(self._units)

    def stop(self) -> list[str]:
        """End everything, highest order first; returns what had to be killed."""
        with self._lock:
            all_units = list(reversed(self._units.values()))
            for running in all_units:
                running.stopping, running.restart_at = True, None
        killed = []
        for order in sorted({running.unit.order for running in all_units}, reverse=True):
            group = [running for running in all_units if running.unit.order == order]
            with ThreadPoolExecutor(len(group), thread_name_prefix="stop") as pool:
                ended = list(pool.map(self._end, group))
            killed += [running.unit.name for running, well in zip(group, ended, strict=True) if not well]
        self._done.set()
        self._wake()
        self._thread.join(timeout=5)
        killed += [f"process {pid}" for pid in reap(self.mark)]
        self._keeper.stdin.close()  # type: ignore[union-attr]
        self._keeper.wait(timeout=10)
        return killed

    def survivors(self) -> list[int]:
        """Process ids that still carry this demo's mark."""
        return marked(self.mark)

    def _end(self, running: _Running) -> bool:
        process = running.process
        if process is None:
            return True
        self._signal(process, signal.SIGTERM)
        try:
            process.wait(running.unit.stop_s)
            return True
        except subprocess.TimeoutExpired:
            logger.warning(
                "{} did not end within {:g} s and was killed", running.unit.name, running.unit.stop_s
            )
            self._signal(process, signal.SIGKILL)
            process.wait(5)
            return False
        finally:
            self._after_exit(running.unit)

    @staticmethod
    def _signal(process: subprocess.Popen, number: int) -> None:
        try:
            process.send_signal(number)
        except ProcessLookupError as error:
            logger.debug("process {} is gone already: {}", process.pid, error)

    def _wake(self) -> None:
        os.write(self._wake_write, b"x")

    def _run(self) -> None:
        while not self._done.is_set():
            for key, _ in self._selector.select(self._next_start()):
                if key.fd == self._wake_read:
                    os.read(self._wake_read, 4096)
                else:
                    self._ended(key.data)
            now = monotonic()
            with self._lock:
                due = [r for r in self._units.values() if r.restart_at is not None and r.restart_at <= now]
                for running in due:
                    self._spawn(running)

    def _next_start(self) -> float | None:
        with self._lock:
            times = [r.restart_at for r in self._units.values() if r.restart_at is not None]
        return max(0.0, min(times) - monotonic()) if times else None

    def _spawn(self, running: _Running) -> None:
        unit = running.unit
        running.restart_at = None
        with self.log(unit.name).open("ab") as log:
            running.process = subprocess.Popen(
                list(unit.argv),
                env={**self._env, **unit.env},
                cwd=unit.cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C is for the demo, which then ends them in order
                preexec_fn=_die_with_parent,
            )
        running.starts += 1
        running.pidfd = os.pidfd_open(running.process.pid)
        self._selector.register(running.pidfd, selectors.EVENT_READ, running)

    def _ended(self, running: _Running) -> None:
        self._selector.unregister(running.pidfd)
        os.close(running.pidfd)
        assert running.process is not None
        code = running.process.wait()
        if running.stopping:
            return
        logger.info(
            "{} ended with status {}; restart in {:g} s", running.unit.name, code, running.unit.restart_s
        )
        self._after_exit(running.unit)
        with self._lock:
            running.process = None
            if not running.stopping:
                running.restart_at = monotonic() + running.unit.restart_s

    def _after_exit(self, unit: Unit) -> None:
        if not unit.after_exit:
            return
        with self.log(unit.name).open("ab") as log:
            try:
                subprocess.run(
                    list(unit.after_exit),
                    env={**self._env, **unit.env},
                    cwd=unit.cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    timeout=AFTER_EXIT_S,
                    check=False,
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                logger.error("what follows the end of {} failed: {}", unit.name, error)

    def _start_keeper(self) -> subprocess.Popen:
        argv = [sys.executable, "-m", "cli.demo.keeper", self.mark]
        env = {key: value for key, value in self._env.items() if key != MARK}
        return subprocess.Popen(argv, stdin=subprocess.PIPE, env=env, start_new_session=True)


def require_running(supervisor: Supervisor, name: str, restarts: int = 5) -> None:
    """Give up on a unit that keeps ending.

    Raises:
        ArmfleetError: DEMO_FAILED, with the end of its log.
    """
    if supervisor.starts(name) > restarts:
        raise ArmfleetError(
            f"{name} ended {restarts} times; its last words: {last_words(supervisor.log(name))}",
            do=f"read {supervisor.log(name)}",
            code=ExitCode.DEMO_FAILED,
        )


def last_words(log: Path, lines: int = 5) -> str:
    """The end of a log file on one line."""
    text = log.read_text(errors="replace") if log.exists() else ""
    return " | ".join(text.splitlines()[-lines:])
