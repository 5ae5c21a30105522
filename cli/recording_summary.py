"""How a session of recording ended: what was admitted and what not, why, and what to do about it."""

import shlex
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from agent.sessions.session_messages import Answer, EpisodeTold, SessionTold
from cli.recording_view import LABELS, VERDICTS

ENDED_EARLY = 130
"""As a shell has it for Ctrl-C."""


def exit_code(session: SessionTold) -> int:
    """0 when all that was wanted is kept, whatever the gate says of it."""
    return 0 if session.complete else ENDED_EARLY


def what_to_do(episode: EpisodeTold) -> str:
    """The next step for one episode; empty if there is none."""
    if episode.verdict == "quarantined":
        return f"armfleet episodes show {episode.id}; if it is sound: armfleet episodes admit {episode.id}"
    if episode.verdict == "undecidable":
        return f"armfleet episodes show {episode.id}; then admit or quarantine it"
    if episode.verdict == "unjudged":
        return "the gate is not done with it; later: armfleet episodes list"
    if episode.label == "failure":
        return "kept, and neither trained on nor exported: it is marked a failure"
    return ""


def counts(answer: Answer) -> dict[str, int]:
    """Kept episodes by verdict."""
    found = dict.fromkeys(VERDICTS, 0)
    for episode in answer.episodes:
        found[episode.verdict] += 1
    return found


def sentence(answer: Answer, session: SessionTold) -> str:
    """The session in one line."""
    by = counts(answer)
    words = {"admitted": "admitted", "quarantined": "quarantined", "undecidable": "undecidable"}
    parts = [f"{by[verdict]} {word}" for verdict, word in words.items() if by[verdict]]
    if by["unjudged"]:
        parts.append(f"{by['unjudged']} not judged yet")
    kept = f"{len(session.kept)} of {session.wanted} episodes recorded"
    gone = [f"{n} {word}" for n, word in ((session.discarded, "discarded"), (session.lost, "lost")) if n]
    return kept + (": " + ", ".join(parts) if parts else "") + ("; " + ", ".join(gone) if gone else "") + "."


def show(console: Console, answer: Answer, session: SessionTold) -> None:
    """Print the table and what it means."""
    console.print(Text(f"\n{session.task}", "bold"))
    if answer.episodes:
        console.print(_table(answer.episodes))
    missing = [episode for episode in session.kept if episode not in {e.id for e in answer.episodes}]
    if missing:
        console.print(f"No longer there, or unreadable: {', '.join(missing)}", markup=False)
    console.print(Text(sentence(answer, session), "bold"))
    if not session.complete:
        left = session.wanted - len(session.kept)
        console.print(
            f"Ended early. The rest: armfleet record --task {shlex.quote(session.task)} --episodes {left}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    if session.notice:
        console.print(Text(session.notice, "yellow"))


def _table(episodes: list[EpisodeTold]) -> Table:
    table = Table(header_style="bold")
    for title, right in (
        ("episode", False),
        ("frames", True),
        ("s", True),
        ("label", False),
        ("verdict", False),
    ):
        table.add_column(title, justify="right" if right else "left", no_wrap=True)
    table.add_column("why, and what to do", overflow="fold")
    for episode in episodes:
        reasons = [*episode.reasons, *(f"note: {note}" for note in episode.notes)]
        verdict = episode.verdict if episode.verdict != "unjudged" else "not judged"
        table.add_row(
            episode.id,
            str(episode.frames),
            f"{episode.seconds:.1f}",
            Text(episode.label or "-", LABELS.get(episode.label or "", "dim")),
            Text(verdict, VERDICTS[episode.verdict]),
            Text("\n".join(filter(None, [*reasons, what_to_do(episode)]))),
        )
    return table


def as_json(answer: Answer, session: SessionTold) -> dict[str, Any]:
    """The same for a program."""
    return {
        "task": session.task,
        "wanted": session.wanted,
        "kept": len(session.kept),
        "discarded": session.discarded,
        "lost": session.lost,
        "complete": session.complete,
        "verdicts": counts(answer),
        "episodes": [
            {**episode.model_dump(mode="json"), "do": what_to_do(episode)} for episode in answer.episodes
        ],
        "notice": session.notice,
    }
