"""Single keys from a terminal, without waiting for ENTER; from a pipe they are read alike."""

import os
import select
import sys
import termios
import tty
from typing import Self

ENTER = "\n"
LOCAL_FLAGS = 3
"""Index in what `termios.tcgetattr` returns."""
CANCEL = frozenset({"q", "Q", "\x1b", "\x03", "\x04"})
"""q, Esc, Ctrl-C, Ctrl-D."""


class Keys:
    """Context manager over a file descriptor; the terminal gets its settings back at the end.

    Attributes:
        ended: No key will ever come again: the pipe or the terminal was closed.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = sys.stdin.fileno() if descriptor is None else descriptor
        self._settings: list | None = None
        self.ended = False

    def __enter__(self) -> Self:
        if os.isatty(self._descriptor):
            self._settings = termios.tcgetattr(self._descriptor)
            tty.setcbreak(self._descriptor)
            # Ctrl-C is a key like the others, and Ctrl-Z must not stop a command that holds the arm.
            attributes = termios.tcgetattr(self._descriptor)
            attributes[LOCAL_FLAGS] &= ~termios.ISIG
            termios.tcsetattr(self._descriptor, termios.TCSANOW, attributes)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._settings is not None:
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._settings)

    def get(self, wait_s: float) -> str | None:
        """The next key, or None if there is none within `wait_s`."""
        if self.ended or not select.select([self._descriptor], [], [], wait_s)[0]:
            return None
        try:
            raw = os.read(self._descriptor, 1)
        except OSError:  # a terminal that was hung up
            raw = b""
        if not raw:
            self.ended = True
            return None
        key = raw.decode("latin-1")
        return ENTER if key == "\r" else key
