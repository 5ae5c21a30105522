"""`armfleet calibrate`: guides a person through a calibration, with a live bar per joint.

Nothing is written to servos or file before the last step; see `agent.robot.calibrating`.
"""

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from agent.config import AgentConfig, ArmSection, load_agent_config
from agent.robot.calibrating import FULL_TURN_JOINT, TURN, Calibrating, JointTrack, check_writable
from agent.robot.calibration import (
    MIN_RANGE,
    UNUSUAL,
    USUAL_RANGE,
    Calibration,
    Role,
    calibration_digest,
    calibration_path,
    unusual_ranges,
)
from agent.robot.joints import label
from agent.robot.line import Line
from cli.keys import CANCEL, ENTER, Keys
from cli.ports import Loan, borrowed_ports
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode

INTERRUPTED = 130
"""Exit status after a cancellation, as a shell has it for Ctrl-C."""
AGAIN = "m"
BAR = 44
FRAMES_PER_S = 12
KEY_WAIT_S = 0.005
"""Pause between two readings of the joints: extremes that are held for a moment are never missed."""

MIDDLE = (
    "Hold the arm: its joints are limp. Put every joint in the middle of its range, "
    "then press ENTER (q cancels)."
)
RANGES = (
    f"Move every joint but {FULL_TURN_JOINT} from stop to stop, one after the other. "
    f"ENTER when all are green ({AGAIN} takes the middle again, q cancels)."
)


class Cancelled(Exception):
    """The person does not want to go on."""


def run(config_path: Path, role: Role) -> int:
    """Calibrate one arm; the exit status.

    Raises:
        ArmfleetError: no arm is configured, it is in use, servos or file refuse, or joints moved too little.
    """
    config = load_agent_config(config_path)
    if config.arm is None:
        raise ArmfleetError("there is no [arm] in agent.toml", code=ExitCode.CONFIG_INVALID)
    console = Console()
    check_writable(config.arm.calibration_dir, config.arm.id, role)
    try:
        _calibrate(console, config, config.arm, role)
    except (Cancelled, KeyboardInterrupt):
        console.print("Cancelled. The calibration file and the servos are as they were.")
        return INTERRUPTED
    return int(ExitCode.OK)


def _calibrate(console: Console, config: AgentConfig, arm: ArmSection, role: Role) -> None:
    port = arm.follower_port if role == "follower" else arm.leader_port
    console.print(f"Calibrating the {role} at {port}")
    with borrowed_ports(config, f"the {role} is being calibrated") as loan, Line(port, role) as line:
        if loan.said:
            console.print(loan.said, markup=False)
        calibrating = Calibrating(line, role)
        calibrating.begin()
        with Keys() as keys:
            Guide(console, calibrating, keys, loan).run()
        with _uninterrupted():
            path, kept = calibrating.commit(arm.calibration_dir, arm.id, datetime.now())
    console.print(f"The {role} is calibrated: {path} is written, and the servos hold the same values.")
    if kept is not None:
        console.print(f"The file before is kept as {kept.name}.")
    for line_of_doubt in doubts(calibrating.calibration()):
        console.print(f"[yellow]{line_of_doubt}[/yellow]")
    roles: tuple[Role, ...] = ("follower", "leader")
    files = [calibration_path(arm.calibration_dir, arm.id, each) for each in roles]
    if all(file.exists() for file in files):
        console.print(f"Episodes recorded from now on carry the digest {calibration_digest(files)[:12]}…")
    else:
        console.print("The other arm has no calibration yet.")


class Guide:
    """The conversation: middle, ranges.

    Args:
        console: Where the bars are drawn.
        calibrating: After `begin`.
        keys: What the person presses.
        loan: Of the ports; the conversation ends with it.
    """

    def __init__(self, console: Console, calibrating: Calibrating, keys: Keys, loan: Loan) -> None:
        self._console, self._calibrating, self._keys, self._loan = console, calibrating, keys, loan
        self._notice = ""

    def run(self) -> None:
        """Until the movement is complete.

        Raises:
            Cancelled: the person wants so.
            ArmfleetError: the servos or the loan fail, or the input ended before all joints had moved enough.
        """
        with Live(console=self._console, refresh_per_second=FRAMES_PER_S) as live:
            self._middle(live)
            while self._ranges(live) == AGAIN:
                self._middle(live)

    def _middle(self, live: Live) -> None:
        self._calibrating.restart()
        while True:
            self._until(live, MIDDLE, {ENTER})
            try:
                self._calibrating.take_middle()
            except ArmfleetError as error:
                if error.code is not ExitCode.CALIBRATION_MISMATCH or self._keys.ended:
                    raise
                self._notice = str(error)
            else:
                return

    def _ranges(self, live: Live) -> str:
        """The key that ended it: ENTER with all joints moved enough, or AGAIN."""
        while (key := self._until(live, RANGES, {ENTER, AGAIN})) == ENTER:
            faults = self._calibrating.faults()
            if not faults:
                break
            self._notice = "Not yet: " + "; ".join(faults)
        return key

    def _until(self, live: Live, words: str, wanted: set[str]) -> str:
        """Read and draw until one of the `wanted` keys comes."""
        while True:
            self._loan.check()
            tracks = self._calibrating.poll()
            live.update(screen(words, tracks, self._calibrating.middle_taken, self._notice))
            key = self._keys.get(KEY_WAIT_S)
            if key in wanted:
                self._notice = ""
                return str(key)
            if key in CANCEL:
                raise Cancelled
            if self._keys.ended:
                self._calibrating.calibration()  # says which joints are missing
                raise Cancelled


def screen(words: str, tracks: Mapping[str, JointTrack], ranges: bool, notice: str) -> Group:
    """What the person sees: the instruction, a bar per joint, and what is still missing."""
    table = Table(box=None, padding=(0, 1))
    for title in ("", "", "min", "now", "max", ""):
        table.add_column(title, justify="right" if title else "left", no_wrap=True)
    for joint, track in tracks.items():
        colour, state = judged(joint, track) if ranges else ("cyan", "")
        extremes = (str(track.low), str(track.high)) if ranges else ("", "")
        table.add_row(
            label(joint), Text(bar(track), colour), extremes[0], str(track.position), extremes[1], state
        )
    parts: list[RenderableType] = [Text(words, "bold"), table]
    if notice:
        parts.append(Text(notice, "red"))
    return Group(*parts)


def bar(track: JointTrack, width: int = BAR) -> str:
    """One turn of the encoder as `width` characters: where the joint has been, and where it is."""

    def cell(count: int) -> int:
        return min(width - 1, max(0, count * width // TURN))

    line = ["·"] * width
    for at in range(cell(track.low), cell(track.high) + 1):
        line[at] = "━"
    line[cell(track.position)] = "█"
    return "".join(line)


def judged(joint: str, track: JointTrack) -> tuple[str, str]:
    """Colour and word for a joint in the ranges phase."""
    if joint == FULL_TURN_JOINT:
        return "dim", "turns freely"
    if track.passed_end:
        return "red", f"not in the middle: {AGAIN}"
    if track.moved < MIN_RANGE:
        return "red", "move it"
    share = track.moved / USUAL_RANGE[joint]
    return ("green", "enough") if share >= UNUSUAL[0] else ("yellow", f"{share:.0%} of the usual range")


def doubts(calibration: Calibration) -> list[str]:
    """Ranges that are accepted and still look odd, a sentence each."""
    return [
        f"{label(joint)} has {share:.0%} of an SO-101's usual range: "
        + ("was every stop reached?" if share < 1 else "is it mounted as usual?")
        for joint, share in unusual_ranges(calibration).items()
    ]


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Signals are ignored for half a second: half a calibration in the servos helps nobody."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
