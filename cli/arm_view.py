"""What terminals draw of the arm and its cameras. Pure: the agent's account in, something to draw out."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from agent.robot.joints import GRIPPER, JOINTS
from agent.robot.safety import COOL_C, FULL_LOAD, LOAD_GONE, WARM_C
from agent.sessions.session_messages import ArmTold, CameraTold, JointTold
from shared.policy.rtc import CONTROL_HZ

REACH = 120.0
"""Degrees at the ends of a joint's bar while its limits are not known: an SO-101's joints turn about 100 to
either side, the wrist more."""
NEAR = 3.0
"""Degrees from the end of what a joint may be told: there the limits cut off."""
BAR = 21
STALE_S, LOST_S = 0.1, 0.5
"""Age of a picture: three frames late at 30 Hz; half of what counts as lost (agent.robot.cameras.LOST_S)."""
SLOW = 0.9
"""Share of the loop's rate below which a camera repeats pictures."""
LATE = 1.2
"""Period of the loop, as a share of its nominal one, at which it is late."""


def state_of(arm: ArmTold) -> Text:
    """Loop, voltage and torque in one line."""
    text = Text()
    text.append(*_loop(arm.period_ms))
    if arm.voltage is not None:
        text.append(f"   {arm.voltage:.1f} V")
    text.append("   torque on" if arm.torque else "   torque off", "" if arm.torque else "dim")
    return text


def _loop(period_ms: float | None) -> tuple[str, str]:
    if period_ms is None:
        return "loop stands", "dim"
    return f"loop {period_ms:4.1f} ms", "green" if period_ms < LATE * 1e3 / CONTROL_HZ else "yellow"


def clock(seconds: float) -> str:
    """m:ss."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def hardware(arm: ArmTold, *below: RenderableType) -> RenderableType:
    """Joints on the left; cameras on the right, and what else belongs there."""
    sides = Table.grid(padding=(0, 2))
    sides.add_row(_joints(arm.joints), Group(_cameras(arm.cameras), *below))
    return sides


def _joints(joints: Sequence[JointTold]) -> RenderableType:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("joint", no_wrap=True)
    table.add_column("")
    table.add_column("deg", justify="right", min_width=6)
    table.add_column("°C", justify="right", min_width=3)
    table.add_column("load", justify="right", min_width=4)
    for number, joint in enumerate(joints, 1):
        table.add_row(
            f"{number} {joint.name}",
            Text(bar(joint), "yellow" if _near_its_end(joint) else "cyan"),
            "-" if joint.position is None else f"{joint.position:.1f}",
            _temperature(joint.temperature),
            _load(joint.load),
        )
    return table


def bar(joint: JointTold, width: int = BAR) -> str:
    """Where a joint is between both ends of what it can do; the middle is marked."""
    line = ["·"] * width
    gripper = joint.name == JOINTS[GRIPPER]
    if not gripper:
        line[width // 2] = "┼"
    low, high = (0.0, 100.0) if gripper else (-REACH, REACH)
    if joint.low is not None and joint.high is not None:
        low, high = joint.low, joint.high
    if joint.position is not None:
        share = (joint.position - low) / (high - low)
        line[min(width - 1, max(0, round(share * (width - 1))))] = "█"
    return "".join(line)


def _near_its_end(joint: JointTold) -> bool:
    """Where goals are cut off. The gripper lives at its ends."""
    if joint.position is None or joint.low is None or joint.high is None or joint.name == JOINTS[GRIPPER]:
        return False
    return min(joint.position - joint.low, joint.high - joint.position) < NEAR


def _temperature(value: int | None) -> Text:
    if value is None:
        return Text("-", "dim")
    return Text(str(value), "red" if value >= WARM_C else "yellow" if value >= COOL_C else "green")


def _load(permille: int | None) -> Text:
    if permille is None:
        return Text("-", "dim")
    amount = abs(permille)
    colour = "red" if amount >= FULL_LOAD else "yellow" if amount >= LOAD_GONE else ""
    return Text(f"{amount / 10:.0f} %", colour)


def _cameras(cameras: Sequence[CameraTold]) -> RenderableType:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("camera", no_wrap=True, max_width=10, overflow="ellipsis")
    table.add_column("/s", justify="right", min_width=4)
    table.add_column("age", justify="right", min_width=4)
    for camera in cameras:
        table.add_row(camera.name, _rate(camera.rate_hz), _age(camera))
    return table


def _rate(rate: float | None) -> Text:
    if rate is None:
        return Text("-", "dim")
    return Text(f"{rate:.1f}", "green" if rate >= SLOW * CONTROL_HZ else "yellow")


def _age(camera: CameraTold) -> Text:
    age = camera.age_s
    if not camera.connected or age is None:
        return Text("lost", "red")
    text = f"{age:.1f} s" if age >= 1 else f"{age * 1e3:.0f} ms"
    return Text(text, "red" if age >= LOST_S else "yellow" if age >= STALE_S else "green")
