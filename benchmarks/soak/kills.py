"""Steps in children of a warm process, and their deaths by SIGKILL.

What imports LeRobot takes ten seconds to start; a fork of a process that did takes a few hundredths. A child
says when its step begins and when it has ended, so that a kill counts only when it fell in between, and the
kernel's word for how the child died is asked besides. The warm process must have no other Python thread.
"""

import faulthandler
import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Any, NoReturn

Action = Callable[[], Any]
Prepare = Callable[[], Action]
"""Gets all ready in the child; what it returns is the step itself, and gives something that JSON can hold."""
BEGUN = b"b"
LIMIT_S = 120.0
"""Longest time for a child: it works for seconds, but may do so at lowest priority."""
POSIX = frozenset(
    {"fsync", "rename", "replace", "mkdir", "rmdir", "unlink", "remove", "sendfile", "truncate"}
)
FILES = frozenset({"BufferedWriter.write", "BufferedWriter.flush", "TextIOWrapper.flush"})


@dataclass(frozen=True)
class End:
    """How a child ended.

    Attributes:
        inside: It died by SIGKILL, after its step had begun and before it had ended.
        value: What the step gave, where it ended.
        seconds: It took.
        calls: File calls it made, where they were counted.
    """

    inside: bool
    value: Any = None
    seconds: float = 0.0
    calls: int = 0


class StepFailed(Exception):
    """A step raised an error, died by itself or hung: the soak ends."""


def changes_files(called: Any, caller: FrameType) -> bool:
    """Whether a built-in function opens files for writing, or writes, flushes, renames or removes them."""
    if caller.f_code is Path.open.__code__ and caller.f_locals["mode"] in ("r", "rb"):
        return False
    module, name = getattr(called, "__module__", ""), getattr(called, "__name__", "")
    if module == "posix":
        return name in POSIX
    return (module in ("_io", "io") and name == "open") or getattr(called, "__qualname__", "") in FILES


class Calls:
    """Counts the file calls of a block's own thread; SIGKILL right after number `last`."""

    def __init__(self, last: int | None) -> None:
        self.made, self._last = 0, last

    def __enter__(self) -> "Calls":
        if self._last is not None:
            sys.setprofile(self._profile)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _profile(self, frame: FrameType, event: str, called: Any) -> None:
        if event in ("c_return", "c_exception") and changes_files(called, frame):
            self.made += 1
            if self.made == self._last:
                os.kill(os.getpid(), signal.SIGKILL)


class Forge:
    """Makes children.

    Args:
        log: What they print goes there.
    """

    def __init__(self, log: Path) -> None:
        self._log = log

    def run(self, prepare: Prepare) -> End:
        """Let a step end.

        Raises:
            StepFailed: it did not.
        """
        return self._watch(prepare, None, None)

    def kill(self, prepare: Prepare, after_s: float) -> End:
        """SIGKILL to a step some seconds after it began. Raises as `run`."""
        return self._watch(prepare, after_s, None)

    def kill_at(self, prepare: Prepare, call: int) -> End:
        """A step that dies by SIGKILL right after its file call number `call`, from 1. Raises as `run`."""
        return self._watch(prepare, None, call)

    def _watch(self, prepare: Prepare, after_s: float | None, call: int | None) -> End:
        reader, writer = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        if (pid := os.fork()) == 0:
            os.close(reader)
            self._live(prepare, writer, call)
        os.close(writer)
        try:
            said = self._listen(reader, pid, after_s)
        finally:
            os.close(reader)
            status = _reap(pid)
        by_kill = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if said == BEGUN and by_kill and (after_s is not None or call is not None):
            return End(inside=True)
        try:
            told = json.loads(said[len(BEGUN) :])
        except ValueError:
            raise StepFailed(f"a step ended with status {status} and said {said[-200:]!r}") from None
        if "error" in told:
            raise StepFailed(told["error"])
        return End(False, told["value"], told["seconds"], told["calls"])

    def _listen(self, reader: int, pid: int, after_s: float | None) -> bytes:
        """What the child said until it closed its end; kills it when its time has come."""
        said = _next(reader, LIMIT_S)
        if after_s is not None and said == BEGUN:
            more = _next(reader, after_s)
            if more is None:
                os.kill(pid, signal.SIGKILL)
            said += more or b""
        deadline = monotonic() + LIMIT_S
        while said is not None and (more := _next(reader, deadline - monotonic())):
            said += more
        if said is None or more is None:
            os.kill(pid, signal.SIGABRT)  # where it hangs goes to the log
            raise StepFailed(f"a step hung for {LIMIT_S:g} s; {self._log} says where")
        return said

    def _live(self, prepare: Prepare, writer: int, call: int | None) -> NoReturn:
        """The child's whole life."""
        told: dict[str, Any]
        begun = False
        try:
            log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            faulthandler.enable()
            action = prepare()
            os.write(writer, BEGUN)
            begun, began = True, monotonic()
            with Calls(call) as calls:
                value = action()
            told = {"value": value, "seconds": monotonic() - began, "calls": calls.made}
        except BaseException:
            told = {"error": traceback.format_exc()}
            if not begun:
                os.write(writer, BEGUN)  # an error is told as a result is
        try:
            with os.fdopen(writer, "wb") as pipe:
                pipe.write(json.dumps(told).encode())
        finally:
            os._exit(0)


def _next(reader: int, wait_s: float) -> bytes | None:
    """What can be read next; empty at the end, None when nothing came in time."""
    ready, _, _ = select.select([reader], [], [], max(0.0, wait_s))
    return os.read(reader, 1 << 16) if ready else None


def _reap(pid: int) -> int:
    _, status = os.waitpid(pid, 0)
    return status
