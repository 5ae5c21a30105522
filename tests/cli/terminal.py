"""A command in a pseudo-terminal, driven by a test."""

import os
import pty
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIMIT_S = 250.0
"""Far above what it takes: starting Python alone takes a minute on a machine that is busy enough."""


class Terminal:
    """The command `argv`; `seen` is what it has shown so far, read all the time as a real terminal does."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            list(argv),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=ROOT,
            env={**os.environ, "COLUMNS": "160", "TERM": "xterm"},
        )
        os.close(slave)
        self.seen = ""
        self._mark = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def press(self, keys: str) -> None:
        self._mark = len(self.seen)
        os.write(self._master, keys.encode())

    def await_words(self, words: str) -> None:
        """Until `words` were on the screen since the last key."""
        deadline = time.monotonic() + LIMIT_S
        while words not in self.seen[self._mark :]:
            assert time.monotonic() < deadline, self.seen[-2000:]
            assert self._reader.is_alive(), f"it ended without {words!r}: {self.seen[-2000:]}"
            time.sleep(0.01)

    def end(self) -> int:
        """The exit status, when all was read."""
        code = self.process.wait(LIMIT_S)
        self._reader.join(LIMIT_S)
        return code

    def close(self) -> None:
        self.process.kill()
        self.process.wait(20)
        self._reader.join(20)
        os.close(self._master)

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._master, 65536)
            except OSError:  # the other end is closed
                return
            if not data:
                return
            self.seen += data.decode(errors="replace")
