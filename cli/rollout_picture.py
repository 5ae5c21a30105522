"""Where `armfleet rollout` shows what the agent says: a whole terminal, or lines for a log."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.live import Live

from agent.series import Phase
from agent.series_messages import SeriesAnswer
from cli.recording_picture import Teller
from cli.rollout_view import Screen, executes, place, trouble_lines, what

RINGS = frozenset({Phase.READY, Phase.LABELLING, Phase.DONE})
"""Phases whose beginning rings the terminal's bell: eyes are on the arm."""


class Picture(Protocol):
    """Where answers are shown."""

    def show(self, answer: SeriesAnswer, away: str) -> None:
        """The newest answer, which has a series; `away` says why it is old."""


@contextmanager
def picture_on(console: Console, keys: bool) -> Iterator[Picture]:
    """For as long as the series goes on; `keys`: this terminal has them."""
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

    def show(self, answer: SeriesAnswer, away: str) -> None:
        """Draw it, and ring when a person is wanted."""
        assert answer.series is not None
        phase = answer.series.phase
        if self._phase is not None and phase is not self._phase and phase in RINGS:
            self._console.bell()
        self._phase = phase
        self._live.update(Screen(answer, self._keys, away), refresh=True)


class Lines:
    """For a log: a line for each thing that changes."""

    def __init__(self, console: Console) -> None:
        self._tell = Teller(console).tell

    def show(self, answer: SeriesAnswer, away: str) -> None:
        """Print what is new."""
        series = answer.series
        assert series is not None
        about = "" if series.phase is Phase.RUNNING else f": {what(series, None)}"
        self._tell("phase", f"{series.phase}, {place(series)} ({executes(series)}){about}")
        for number, result in enumerate(series.results, 1):
            word = "success" if result.success else "failure"
            self._tell(f"result {number}", f"rollout {result.rollout}: {word}")
        self._tell("troubles", " ".join(text.plain for text in trouble_lines(answer, away)))
