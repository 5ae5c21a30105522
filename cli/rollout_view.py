"""What `armfleet rollout` and `armfleet evaluate` show. Pure: an answer in, something to draw out.

Of a comparison nothing here tells which version runs: the agent does not say it before the series is over.
"""

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from agent.sessions.series import OPERATOR_GONE, Phase
from agent.sessions.series_messages import RolloutTold, SeriesAnswer, SeriesTold
from cli.arm_view import clock, hardware, state_of
from cli.recording_view import LABELS

FIXED_LINES = 19
"""Lines of the view besides what is to be known now."""
SQUARES = 30
"""Rollouts that fit into one line as a square each."""
LOW_QUEUE = 1
"""Actions left, of 10 a second, at which the arm is about to wait for the policy."""

RUNNING, LED = "running", "led"
"""Values of `agent.robot.rollout.Phase`, which a terminal does not import: LeRobot comes with it."""
PHASES = {
    Phase.PREPARING: ("PREPARING", "bold black on yellow"),
    Phase.READY: ("READY", "bold white on green"),
    Phase.STARTING: ("STARTING", "bold black on yellow"),
    Phase.RUNNING: ("● RUNNING", "bold white on red"),
    Phase.STOPPING: ("STOPPED", "bold black on yellow"),
    Phase.LABELLING: ("SUCCESS OR FAILURE?", "bold black on cyan"),
    Phase.MARKING: ("SAVING", "bold black on yellow"),
    Phase.DISCARDING: ("DISCARDING", "bold black on yellow"),
    Phase.ENDING: ("ENDING", "bold black on yellow"),
    Phase.DONE: ("DONE", "bold white on green"),
}
REASONS = {
    "time_up": "the time was up",
    "operator": "it was stopped",
    "abort": "it was aborted",
    OPERATOR_GONE: "no terminal with keys was there: the arm was stopped",
    "hold": "the arm was told to hold",
    "release": "the arm was let go",
    "starved": "no actions came for seconds",
    "policy_silent": "the policy said nothing",
    "policy_lost": "the policy was lost",
    "policy_changed": "another version answered than it began with",
    "bad_actions": "the policy's actions were no numbers",
    "start_pose_unreachable": "the start pose could not be reached",
}
"""Why a rollout ended; other reasons are names of exit codes."""


class Screen:
    """Draws itself into the height that there is; what matters most is never cut off.

    Args:
        answer: The agent's newest.
        keys: This terminal has the keys; else it only watches.
        away: Why the answer is old; empty if it isn't.
    """

    def __init__(self, answer: SeriesAnswer, keys: bool, away: str = "") -> None:
        self._answer, self._keys, self._away = answer, keys, away

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> list[RenderableType]:
        answer, series = self._answer, self._answer.series
        if series is None:
            return [Text("no series is running")]
        room = max(2, console.size.height - FIXED_LINES)
        wrapped = (text.wrap(console, options.max_width) for text in trouble_lines(answer, self._away))
        troubles = [line for lines in wrapped for line in lines][:room]
        parts = [_head(answer), _stand(series, answer.rollout), hardware(answer.arm, _policy(answer.rollout))]
        return [Group(*parts, Text(), _counts(series), *troubles, Text(), _help(series, self._keys))]


def _head(answer: SeriesAnswer) -> RenderableType:
    grid = Table.grid(expand=True)
    grid.add_column(no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_row(Text(f"armfleet rollout · {answer.node}", "bold"), state_of(answer.arm))
    return grid


def _stand(series: SeriesTold, rollout: RolloutTold | None) -> RenderableType:
    title, style = PHASES[series.phase]
    line = Text.assemble((f" {title} ", style), "  ", (what(series, rollout), "bold"))
    line.no_wrap, line.overflow = True, "ellipsis"
    if series.label is not None:
        word = "success" if series.label else "failure"
        line.append(f"  marked {word}", LABELS[word])
    if series.ending and series.phase is not Phase.DONE:
        line.append("  then the series ends", "blue")
    where = Text(f"{place(series)}   {executes(series)}", no_wrap=True, overflow="ellipsis")
    running = series.phase is Phase.RUNNING
    total, done = (series.limit_s, _ran(series, rollout)) if running else (series.wanted, len(series.results))
    progress = ProgressBar(total, min(done, total), complete_style="red" if running else "green")
    task = Text(series.task, "bold", overflow="ellipsis", no_wrap=True)
    return Panel(
        Group(task, where, line, progress),
        box=box.ROUNDED,
        border_style=style.split(" on ")[-1],
        padding=(0, 1),
    )


def place(series: SeriesTold) -> str:
    """Which rollout it is about."""
    number = f"rollout {series.number} of {series.wanted}"
    if not series.paired:
        return number
    return f"{number}: pair {series.pair}, {'second' if series.second else 'first'}"


def executes(series: SeriesTold) -> str:
    """What the policy is, as far as it may be known."""
    if series.version is not None:
        return series.version
    return f"{' or '.join(sorted(series.versions))}, told at the end"


def what(series: SeriesTold, rollout: RolloutTold | None) -> str:
    """What happens in this phase, or what the person is to do."""
    if series.phase is Phase.RUNNING:
        return f"{clock(_ran(series, rollout))} of {clock(series.limit_s)}, {drives(series, rollout)}"
    if series.phase is Phase.LABELLING:
        return REASONS.get(series.reason, series.reason)
    if series.phase is Phase.READY:
        if not series.paired:
            return "set up the scene, then start"
        return "the same start scene again" if series.second else "set up a scene that you can set up again"
    return {
        Phase.PREPARING: "the policy is made ready",
        Phase.STARTING: "the arm begins to move",
        Phase.STOPPING: "the arm holds; the rollout is being written",
        Phase.MARKING: "the label",
        Phase.DISCARDING: "it does not count",
        Phase.ENDING: "the arm is given back",
        Phase.DONE: f"{len(series.results)} of {series.wanted} rollouts are labelled",
    }[series.phase]


def taken_over(series: SeriesTold, rollout: RolloutTold | None) -> str:
    """What the person does who has taken over; empty while the policy moves the arm."""
    if not series.led:
        return ""
    if rollout is not None and rollout.phase == LED:
        return "you drive"
    return f"taking over: the arm {'holds' if rollout and rollout.apart else 'goes to the leader'}"


def drives(series: SeriesTold, rollout: RolloutTold | None) -> str:
    """Who moves the arm, while a rollout runs."""
    told = rollout or RolloutTold()
    if series.led and told.phase == LED:
        return f"you, recording {told.recorded_s or 0:.1f} s"
    policy = "the policy" if told.phase in ("", RUNNING, LED) else told.phase
    return taken_over(series, rollout) or policy


def _ran(series: SeriesTold, rollout: RolloutTold | None) -> float:
    """Seconds under the policy: what the limit counts."""
    return series.elapsed_s if rollout is None or rollout.policy_s is None else rollout.policy_s


def _policy(rollout: RolloutTold | None) -> RenderableType:
    """How the actions come; empty places while no rollout runs."""
    told = rollout or RolloutTold()
    table = Table.grid(padding=(0, 1))
    queue = "-" if told.queue is None else str(told.queue)
    low = told.queue is not None and told.queue <= LOW_QUEUE
    table.add_row(Text("latency", "dim"), _ms(told.latency_ms))
    age = None if told.chunk_age_s is None else 1e3 * told.chunk_age_s
    table.add_row(Text("chunk's age", "dim"), _ms(age))
    table.add_row(Text("actions left", "dim"), Text(queue, "yellow" if low else ""))
    table.add_row(Text("starved ticks", "dim"), Text(str(told.starved), "red" if told.starved else ""))
    return table


def _ms(value: float | None) -> Text:
    return Text("-", "dim") if value is None else Text(f"{value:.0f} ms")


def _counts(series: SeriesTold) -> Text:
    text = Text(f"labelled {len(series.results)} of {series.wanted}  ")
    if series.wanted <= SQUARES:
        for result in series.results:
            text.append("■", "green" if result.success else "red")
        text.append("□" * (series.wanted - len(series.results)), "dim")
    if series.discarded:
        text.append(f"  done again {series.discarded}")
    if series.lost:
        text.append(f"  lost {series.lost}", "red")
    return text


def trouble_lines(answer: SeriesAnswer, away: str) -> list[Text]:
    """What a person should know now, the worst first."""
    arm, series = answer.arm, answer.series
    lines = [Text(away, "bold red")] if away else []
    if arm.state != "ready":
        lines.append(Text(f"the arm worker is {arm.state}: {arm.reason}", "bold red"))
    lines += [Text(text, "bold red") for text in arm.troubles]
    if answer.rollout and answer.rollout.bounded:
        lines.append(Text("the first chunk is held to what the version was trained on", "bold yellow"))
    if answer.rollout and answer.rollout.apart:
        lines.append(Text(f"{answer.rollout.apart}: bring the leader near", "bold yellow"))
    if series and series.notice and series.notice not in arm.troubles:
        lines.append(Text(series.notice, "bold yellow"))
    if series and series.segment:
        lines.append(Text(series.segment))
    return lines + [Text(text, "yellow") for text in arm.warnings]


def _help(series: SeriesTold, keys: bool) -> Text:
    """The keys, and what they do now."""
    if not keys:
        return Text.from_markup("[dim]only watching: `armfleet rollout` has the keys;[/] [bold]q[/] leaves")
    running = series.phase is Phase.RUNNING
    hands = [("t", "hand back" if series.led else "take over")] if running and not series.measures else []
    pairs = [
        ("SPACE", "STOP" if running else "start"),
        *hands,
        ("a", "abort" if hands else "abort, lower"),
        ("s", "success"),
        ("f", "failure"),
        ("r", "redo"),
        ("q", "end"),
    ]
    return Text.from_markup(" ".join(f"[bold reverse] {key} [/] {words}" for key, words in pairs))
