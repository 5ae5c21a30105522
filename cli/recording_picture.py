"""What `armfleet record` shows of a session: on a terminal, and as lines for a log."""

from contextlib import AbstractContextManager

from rich.console import Console

from agent.sessions.session import Phase
from agent.sessions.session_messages import Answer, SessionTold
from cli.picture import Picture, picture_on
from cli.recording_view import Screen, trouble_lines

RINGS = frozenset({Phase.RECORDING, Phase.INTERRUPTED, Phase.RESETTING, Phase.DONE})
"""Phases whose beginning rings the terminal's bell: eyes are on the arm."""


def session_on(console: Console, keys: bool) -> AbstractContextManager[Picture[Answer]]:
    """For as long as the session goes on; `keys`: this terminal has them."""
    return picture_on(
        console,
        phase=lambda answer: _session(answer).phase,
        rings=RINGS,
        draw=lambda answer, away: Screen(answer, keys, away),
        words=words,
    )


def words(answer: Answer, away: str) -> dict[str, str]:
    """What there is to say, by what it is about."""
    session = _session(answer)
    about = f" episode {session.episode}" if session.episode else ""
    said = {"phase": f"{session.phase}{about} ({len(session.kept)} of {session.wanted} kept)"}
    for episode in answer.episodes:
        why = "; ".join(episode.reasons or episode.notes)
        said[episode.id] = f"episode {episode.id}: {episode.verdict}" + (f": {why}" if why else "")
        said[f"{episode.id} label"] = f"episode {episode.id}: {episode.label}" if episode.label else ""
    return said | {"troubles": " ".join(text.plain for text in trouble_lines(answer, away))}


def _session(answer: Answer) -> SessionTold:
    assert answer.session is not None
    return answer.session
