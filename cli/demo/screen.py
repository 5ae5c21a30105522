"""What the demo shows while it runs: sentences, and progress bars where the terminal can show them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class Bar:
    """One progress bar; safe to use from any thread."""

    def __init__(self, screen: "Screen", task: TaskID, text: str, total: int) -> None:
        self._screen, self._task, self._text, self._total = screen, task, text, total
        self._done = 0
        self._lock = threading.Lock()

    def advance(self, text: str = "") -> None:
        """One more is done."""
        with self._lock:
            self.set(self._done + 1, text)

    def set(self, done: int, text: str = "") -> None:
        """`done` of the total are done."""
        before, self._done = self._done, done
        description = f"{self._text}  [dim]{text}[/dim]" if text else self._text
        self._screen.progress.update(self._task, completed=done, description=description)
        quarter = max(1, self._total // 4)
        if done != before and not self._screen.live and (done % quarter == 0 or done == self._total):
            self._screen.say(f"  {self._text}: {done} of {self._total}")


class Screen:
    """The console, the bars, and the seconds of each phase."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self.live = self.console.is_terminal
        self.progress = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            disable=not self.live,
        )
        self.phases: dict[str, float] = {}
        self._began = monotonic()

    @property
    def seconds(self) -> float:
        """Since the demo began."""
        return monotonic() - self._began

    @contextmanager
    def running(self) -> Iterator[None]:
        """Show the bars while the body runs."""
        with self.progress:
            yield

    def say(self, text: str) -> None:
        """One sentence, with the time since the start."""
        minutes, seconds = divmod(int(self.seconds), 60)
        self.console.print(f"[dim]{minutes:02}:{seconds:02}[/dim] {text}", markup=True, soft_wrap=True)

    def bar(self, text: str, total: int) -> Bar:
        """A new bar."""
        return Bar(self, self.progress.add_task(text, total=total), text, total)

    @contextmanager
    def phase(self, name: str, sentence: str) -> Iterator[None]:
        """A chapter of the story; its seconds are kept, also when it fails."""
        self.say(f"[bold]{sentence}[/bold]")
        began = monotonic()
        try:
            yield
        finally:
            self.phases[name] = round(self.phases.get(name, 0.0) + monotonic() - began, 1)
