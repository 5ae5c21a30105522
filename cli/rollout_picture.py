"""What `armfleet rollout` shows of a series: on a terminal, and as lines for a log."""

from contextlib import AbstractContextManager

from rich.console import Console

from agent.sessions.series import Phase
from agent.sessions.series_messages import SeriesAnswer, SeriesTold
from cli.picture import Picture, picture_on
from cli.rollout_view import Screen, executes, place, taken_over, trouble_lines, what

RINGS = frozenset({Phase.READY, Phase.LABELLING, Phase.DONE})
"""Phases whose beginning rings the terminal's bell: eyes are on the arm."""


def series_on(console: Console, keys: bool) -> AbstractContextManager[Picture[SeriesAnswer]]:
    """For as long as the series goes on; `keys`: this terminal has them."""
    return picture_on(
        console,
        phase=lambda answer: _series(answer).phase,
        rings=RINGS,
        draw=lambda answer, away: Screen(answer, keys, away),
        words=words,
    )


def words(answer: SeriesAnswer, away: str) -> dict[str, str]:
    """What there is to say, by what it is about."""
    series = _series(answer)
    about = taken_over(series, answer.rollout) if series.phase is Phase.RUNNING else what(series, None)
    about = f": {about}" if about else ""
    said = {"phase": f"{series.phase}, {place(series)} ({executes(series)}){about}"}
    for number, result in enumerate(series.results, 1):
        word = "success" if result.success else "failure"
        said[f"result {number}"] = f"rollout {result.rollout}: {word}"
    return said | {"troubles": " ".join(text.plain for text in trouble_lines(answer, away))}


def _series(answer: SeriesAnswer) -> SeriesTold:
    assert answer.series is not None
    return answer.series
