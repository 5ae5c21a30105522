"""Where `armfleet record` shows what the agent says: a whole terminal, or lines for a log."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Protocol

from rich.console import Console
from rich.live import Live

from agent.recording_messages import Answer
from agent.session import Phase
from cli.recording_view import Screen, trouble_lines

RINGS = frozenset({Phase.RECORDING, Phase.INTERRUPTED, Phase.RESETTING, Phase.DONE})
"""Phases whose beginning rings the terminal's bell: eyes are on the arm."""


class Picture(Protocol):
    """Where answers are shown."""

    def show(self, answer: Answer, away: str) -> None:
        """The newest answer, which has a session; `away` says why it is old."""


@contextmanager
def picture_on(console: Console, keys: bool) -> Iterator[Picture]:
    """For as long as the session goes on; `keys`: this terminal has them."""
    if not console.is_terminal:
        yield Lines(console)
        return
    with Live(console=console, screen=True, auto_refresh=False) as live:
        yield Drawing(console, live, keys)


class Drawing:
    """The whole terminal."""

    def __init__(self, console: Console, live: Live, keys: bool) -> None:
        self._console, self._live, self._keys = console, live, keys
        self._phase: Phase | None = None

    def show(self, answer: Answer, away: str) -> None:
        """Draw it, and ring when something begins or ends."""
        assert answer.session is not None
        phase = answer.session.phase
        if self._phase is not None and phase is not self._phase and phase in RINGS:
            self._console.bell()
        self._phase = phase
        self._live.update(Screen(answer, self._keys, away), refresh=True)


class Lines:
    """For a log: a line for each thing that changes."""

    def __init__(self, console: Console) -> None:
        self._tell = Teller(console).tell

    def show(self, answer: Answer, away: str) -> None:
        """Print what is new."""
        session = answer.session
        assert session is not None
        kept = f"{len(session.kept)} of {session.wanted} kept"
        about = f" episode {session.episode}" if session.episode else ""
        self._tell("phase", f"{session.phase}{about} ({kept})")
        for episode in answer.episodes:
            why = "; ".join(episode.reasons or episode.notes)
            self._tell(episode.id, f"episode {episode.id}: {episode.verdict}" + (f": {why}" if why else ""))
            self._tell(
                f"{episode.id} label", f"episode {episode.id}: {episode.label}" if episode.label else ""
            )
        self._tell("troubles", " ".join(text.plain for text in trouble_lines(answer, away)))


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
