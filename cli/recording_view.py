"""What `armfleet record` shows while it runs. Pure: an answer of the agent in, something to draw out.

It fits 80 x 24 and is calm: every figure has its place, colour means something (green: as it should be,
yellow: look at it, red: act), and the line that says what to do next is always the same one.
"""

from collections.abc import Sequence

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from agent.sessions.session import WAITING, Phase
from agent.sessions.session_messages import Answer, ArmTold, EpisodeTold, SessionTold
from cli.arm_view import BAR, clock, hardware, state_of

SHORT_MINUTES, LOW_MINUTES = 10, 30
FIXED_LINES = 17
"""Lines of the view besides episodes and troubles."""

GO_ON = "Nothing is in the way now. SPACE: the follower comes to the leader; nothing is recorded yet."

PHASES = {
    Phase.READY: ("READY", "bold white on green"),
    Phase.STARTING: ("STARTING", "bold black on yellow"),
    Phase.RECORDING: ("● RECORDING", "bold white on red"),
    Phase.SAVING: ("SAVING", "bold black on yellow"),
    Phase.DISCARDING: ("DISCARDING", "bold black on yellow"),
    Phase.RESETTING: ("RESET", "bold black on cyan"),
    Phase.PAUSED: ("PAUSED", "bold white on blue"),
    Phase.INTERRUPTED: ("INTERRUPTED", "bold white on red"),
    Phase.ALIGNING: ("ALIGNING", "bold black on yellow"),
    Phase.ENDING: ("ENDING", "bold black on yellow"),
    Phase.DONE: ("DONE", "bold white on green"),
}
VERDICTS = {"admitted": "green", "quarantined": "red", "undecidable": "yellow", "unjudged": "dim"}
LABELS = {"success": "green", "failure": "red"}


class Screen:
    """Draws itself into the height that there is; what matters most is never cut off.

    Args:
        answer: The agent's newest.
        keys: This terminal has the keys; else it only watches.
        away: Why the answer is old; empty if it isn't.
    """

    def __init__(self, answer: Answer, keys: bool, away: str = "") -> None:
        self._answer, self._keys, self._away = answer, keys, away

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> list[RenderableType]:
        answer, session = self._answer, self._answer.session
        if session is None:
            return [Text("no session is running")]
        room = max(2, console.size.height - FIXED_LINES)
        wrapped = (text.wrap(console, options.max_width) for text in trouble_lines(answer, self._away))
        troubles = [line for lines in wrapped for line in lines][: room - 1]
        parts: list[RenderableType] = [_head(answer), _stand(answer, session), hardware(answer.arm)]
        parts += [Text(), _counts(answer, session), _episodes(answer.episodes[len(troubles) - room :])]
        return [Group(*parts, *troubles, Text(), Text.from_markup(_help(session, self._keys)))]


def _head(answer: Answer) -> RenderableType:
    arm, space = answer.arm, answer.space
    grid = Table.grid(expand=True)
    grid.add_column(no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    right = state_of(arm)
    colour = "red" if space.minutes < SHORT_MINUTES else "yellow" if space.minutes < LOW_MINUTES else "green"
    right.append("   room for ").append(minutes(space.minutes) + ("" if space.measured else "*"), colour)
    grid.add_row(Text(f"armfleet record · {answer.node}", "bold"), right)
    return grid


def minutes(value: float) -> str:
    """How long the disk lasts, shortly."""
    if value >= 600:
        return f"{value / 60:.0f} h"
    return f"{value:.0f} min"


def _stand(answer: Answer, session: SessionTold) -> RenderableType:
    word, style = PHASES[session.phase]
    line = Text.assemble((f" {word} ", style), "  ", (_what(session, answer.arm), "bold"))
    line.no_wrap, line.overflow = True, "ellipsis"
    if session.label:
        line.append(f"  marked {session.label}", LABELS[session.label])
    if session.pausing:
        line.append("  pause after this", "blue")
    body = Group(Text(session.task, "bold", overflow="ellipsis", no_wrap=True), line, _progress(session))
    return Panel(body, box=box.ROUNDED, border_style=style.split(" on ")[-1], padding=(0, 1))


def _what(session: SessionTold, arm: ArmTold) -> str:
    """What happens in this phase."""
    number = f"episode {min(len(session.kept) + 1, session.wanted)} of {session.wanted}"
    if session.phase is Phase.RECORDING:
        return f"{number}   {clock(session.elapsed_s)} of {clock(session.limit_s)}   {arm.frames} frames"
    if session.phase is Phase.RESETTING:
        return f"put things back   {session.left_s or 0:.0f} s to {number}"
    return {
        Phase.READY: f"waits for the key that starts {number}",
        Phase.STARTING: number,
        Phase.SAVING: "the episode is being saved",
        Phase.DISCARDING: "it is not kept",
        Phase.PAUSED: f"nothing starts by itself; next is {number}",
        Phase.INTERRUPTED: "the follower does not follow",
        Phase.ALIGNING: "the follower comes to the leader: keep it still",
        Phase.ENDING: "the arm is given back",
        Phase.DONE: f"{len(session.kept)} of {session.wanted} episodes are kept",
    }[session.phase]


def _progress(session: SessionTold) -> RenderableType:
    """Of the episode or the reset; else of the session."""
    if session.phase is Phase.RECORDING:
        return ProgressBar(session.limit_s, min(session.elapsed_s, session.limit_s), complete_style="red")
    if session.phase is Phase.RESETTING and session.reset_s:
        gone = session.reset_s - (session.left_s or 0.0)
        return ProgressBar(session.reset_s, gone, complete_style="cyan", finished_style="cyan")
    return ProgressBar(session.wanted, len(session.kept), complete_style="green")


def _counts(answer: Answer, session: SessionTold) -> Text:
    text = Text.assemble(f"kept {len(session.kept)} of {session.wanted}  ")
    verdicts = {episode.id: episode.verdict for episode in answer.episodes}
    if session.wanted <= 2 * BAR:
        for episode in session.kept:
            text.append("■", VERDICTS[verdicts.get(episode, "unjudged")])
        text.append("□" * (session.wanted - len(session.kept)), "dim")
    if session.discarded:
        text.append(f"  discarded {session.discarded}")
    if session.lost:
        text.append(f"  lost {session.lost}", "red")
    return text


def _episodes(episodes: Sequence[EpisodeTold]) -> RenderableType:
    if not episodes:
        return Text("no episode yet", "dim")
    table = Table(box=None, padding=(0, 1, 0, 0), show_header=False, expand=True)
    table.add_column(min_width=6, no_wrap=True)
    table.add_column(min_width=7, justify="right", no_wrap=True)
    table.add_column(min_width=max(map(len, LABELS)), no_wrap=True)
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    for episode in episodes:
        label = Text(episode.label or "-", LABELS.get(episode.label or "", "dim"))
        verdict = "with the gate" if episode.verdict == "unjudged" else episode.verdict
        why = "; ".join(episode.reasons or episode.notes)
        said = Text.assemble((verdict, VERDICTS[episode.verdict]), f": {why}" if why else "")
        table.add_row(episode.id, f"{episode.seconds:.1f} s", label, said)
    return table


def trouble_lines(answer: Answer, away: str) -> list[Text]:
    """What a person should know now, the worst first, each once."""
    session, arm = answer.session, answer.arm
    interrupted = session is not None and session.phase is Phase.INTERRUPTED
    lines = [Text(away, "bold red")] if away else []
    if arm.state != "ready":
        lines.append(Text(f"the arm worker is {arm.state}: {arm.reason}", "bold red"))
    lines += [Text(text, "bold red") for text in arm.troubles]
    if session and session.notice and not (interrupted and arm.troubles):  # which would say it twice
        lines.append(Text(session.notice, "bold yellow"))
    if interrupted and not arm.troubles and arm.state == "ready":
        lines.append(Text(GO_ON, "bold green"))
    if answer.gate.fault:
        lines.append(Text(answer.gate.fault, "yellow"))
    lines += [Text(text, "yellow") for text in arm.warnings]
    return lines


SPACE_DOES = {
    Phase.RECORDING: "stop and keep",
    Phase.RESETTING: "start now",
    Phase.INTERRUPTED: "follow again",
}


def _help(session: SessionTold, keys: bool) -> str:
    """The keys, and what they do now."""
    if not keys:
        return "[dim]only watching: `armfleet record` in place of this has the keys;[/] [bold]q[/] leaves"
    pairs = [
        ("SPACE", SPACE_DOES.get(session.phase, "start")),
        ("d", "redo last" if session.phase in WAITING else "redo"),
        ("s", "success"),
        ("f", "failure"),
        ("p", "go on" if session.phase is Phase.PAUSED else "pause"),
        ("q", "end"),
    ]
    return "  ".join(f"[bold reverse] {key} [/] {words}" for key, words in pairs)
