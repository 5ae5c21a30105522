"""A terminal with keys beside what lives in the agent: a session of recording, or a series of rollouts.

Nothing is kept here: a terminal that is closed, or killed, takes nothing with it.
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from agent.sessions.session_messages import ATTENDED_S, Told
from cli.keys import ENTER, Keys
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.uds import UdsClient

POLL_S = 0.2
"""Between two pictures: well below what the agent takes for a lost terminal (ATTENDED_S)."""
AWAY_S = 15.0
"""An agent that does not answer for so long is reported; systemd starts one that died within seconds."""
SAME_KEY_S = 0.7
"""A key that comes again sooner is one that is held down, or a nervous finger: it counts once."""
LOST_TERMINAL = 129
"""Exit status without a terminal: 128 and the number of SIGHUP, as a shell has it."""

assert POLL_S * 5 < ATTENDED_S

ESCAPE = "\x1b"
ARROWS = {"[C": " ", "OC": " ", "[D": "d", "OD": "d"}
"""LeRobot's recorder has the arrow keys: right ends an episode, left records it again."""
ESCAPE_S = 0.05
"""The rest of an arrow key's sequence comes at once; Esc alone has none."""
STARTS = frozenset({" ", ENTER})
ENDS = frozenset({"q", "\x03", "\x04", ESCAPE})
"""q, Ctrl-C, Ctrl-D, Esc."""


class Detached(Exception):
    """The terminal is gone, or only watched and has seen enough; what it looked at goes on."""


class Line[Answer: Told]:
    """The way to the agent, which may be away for a while.

    Args:
        client: Of the agent.
        path: Of what is looked at: "/recording", "/series".
        model: Its answer.
        keys: This terminal has the keys, and says so with every question.
        clock: Monotonic, seconds.
    """

    def __init__(
        self,
        client: UdsClient,
        path: str,
        model: type[Answer],
        keys: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client, self._path, self._model = client, path, model
        self.keys, self._clock = keys, clock
        self._answered = clock()
        self.away = ""
        """Why the last answer is old."""

    def ask(self, last: Answer) -> Answer:
        """The newest answer, or `last` while the agent is away for less than AWAY_S.

        Raises:
            ArmfleetError: it is away for longer.
        """
        try:
            attend = f"{self._path}/attend"
            told = self._client.post(attend, {}) if self.keys else self._client.get(self._path)
        except ArmfleetError as error:
            gone_s = self._clock() - self._answered
            if error.code is not ExitCode.COORDINATOR_AWAY or gone_s > AWAY_S:
                raise
            self.away = f"the agent has not answered for {gone_s:.0f} s"
            return last
        self._answered, self.away = self._clock(), ""
        return self._model.model_validate(told)

    def press(self, act: str) -> None:
        """Tell the agent. While it is away, `ask` says so: the key counts for nothing."""
        try:
            self._client.post(f"{self._path}/act", {"act": act})
        except ArmfleetError as error:
            if error.code is not ExitCode.COORDINATOR_AWAY:
                raise


class Finger:
    """The keys that count, of those that are pressed.

    Args:
        keys: What the person presses.
        clock: Monotonic, seconds.
    """

    def __init__(self, keys: Keys, clock: Callable[[], float] = time.monotonic) -> None:
        self._keys, self._clock = keys, clock
        self._pressed: dict[str, float] = {}

    def key(self) -> str | None:
        """The next one, held-down ones once; None if there is none for a while."""
        if self._keys.ended:  # a watcher without a terminal
            time.sleep(POLL_S)
            return None
        key = read_key(self._keys, POLL_S)
        if key is None:
            return None
        now, before = self._clock(), self._pressed.get(key, float("-inf"))
        self._pressed[key] = now
        return key if now - before >= SAME_KEY_S else None


def read_key(keys: Keys, wait_s: float) -> str | None:
    """One key; arrow keys as what they do, other sequences not at all."""
    key = keys.get(wait_s)
    if key != ESCAPE:
        return key
    rest = ""
    while (more := keys.get(ESCAPE_S)) is not None:
        rest += more
        if (more.isalpha() and rest != "O") or more == "~":
            break
    return ARROWS.get(rest) if rest else ESCAPE


@contextmanager
def signals() -> Iterator[None]:
    """A terminal that is closed, or a command that is told to end, gives the terminal back as it was."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise Detached

    numbers = (signal.SIGHUP, signal.SIGTERM)
    before: dict[Any, Any] = {number: signal.signal(number, leave) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
