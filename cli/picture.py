"""Where a terminal shows what the agent says: all of the screen, or lines for a log."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import datetime
from enum import Enum
from typing import Protocol

from rich.console import Console, RenderableType
from rich.live import Live

from agent.sessions.session_messages import Told


class Picture[Answer: Told](Protocol):
    """Where answers are shown."""

    def show(self, answer: Answer, away: str) -> None:
        """The newest answer; `away` says why it is old."""


class Drawing[Answer: Told]:
    """The whole terminal.

    Args:
        console, live: The terminal.
        phase: Where an answer's session stands.
        rings: Phases whose beginning rings the terminal's bell: eyes are on the arm.
        draw: (answer, away) to what fills the screen.
    """

    def __init__(
        self,
        console: Console,
        live: Live,
        phase: Callable[[Answer], Enum],
        rings: Collection[Enum],
        draw: Callable[[Answer, str], RenderableType],
    ) -> None:
        self._console, self._live = console, live
        self._phase, self._rings, self._draw = phase, rings, draw
        self._seen: Enum | None = None

    def show(self, answer: Answer, away: str) -> None:
        """Draw it, and ring when a person is wanted."""
        phase = self._phase(answer)
        if self._seen is not None and phase is not self._seen and phase in self._rings:
            self._console.bell()
        self._seen = phase
        self._live.update(self._draw(answer, away), refresh=True)


class Teller:
    """Prints what changed, with the time."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said: dict[str, str] = {}

    def tell(self, about: str, words: str) -> None:
        """Print `words` unless they were the last said `about` this; empty ones only end what was said."""
        if self._said.get(about, "") != words:
            self._said[about] = words
            if words:
                line = f"{datetime.now():%H:%M:%S} {words}"
                self._console.print(line, markup=False, highlight=False, soft_wrap=True)
                self._console.file.flush()


class Lines[Answer: Told]:
    """For a log: a line for each thing that changes.

    Args:
        console: Where they go.
        words: (answer, away) to what there is to say, by what it is about.
    """

    def __init__(self, console: Console, words: Callable[[Answer, str], dict[str, str]]) -> None:
        self._tell, self._words = Teller(console).tell, words

    def show(self, answer: Answer, away: str) -> None:
        """Print what is new."""
        for about, words in self._words(answer, away).items():
            self._tell(about, words)


@contextmanager
def picture_on[Answer: Told](
    console: Console,
    phase: Callable[[Answer], Enum],
    rings: Collection[Enum],
    draw: Callable[[Answer, str], RenderableType],
    words: Callable[[Answer, str], dict[str, str]],
) -> Iterator[Picture[Answer]]:
    """For as long as the session goes on; the arguments as `Drawing` and `Lines` have them."""
    if not console.is_terminal:
        yield Lines(console, words)
        return
    with Live(console=console, screen=True, auto_refresh=False) as live:
        yield Drawing(console, live, phase, rings, draw)
