"""Each fault while a policy moves the virtual arm: what its goal did then, what was said, what is kept. The
table is the second of docs/faults.md; WRITE_FAULTS=1 writes it anew, with the movements that were measured.

The policy is `scripted_policy`: a process of its own that turns joint 1 at 40 degrees per second.
"""

import asyncio
import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from agent.daemon import TICK_S as TICK_S_OF_THE_AGENT
from agent.evaluation.rollouts import FILE, TRACE, VIDEO
from agent.inference.bounds import FASTER, ROOM
from agent.robot.rollout import STARVED_LIMIT_S
from agent.sessions.session_messages import ATTENDED_S
from agent.versions import Versions
from shared.adapters import Manifest, digest, write_adapter
from shared.policy.rtc import STRIDE
from shared.recipe import Recipe
from tests.agent.robot.attended import AttendedSeries
from tests.agent.robot.fault_page import check_page, said, table
from tests.agent.robot.process import (
    START_S,
    ArmProcess,
    Workstation,
    running_arm,
    running_workstation,
    wait_for,
    write_agent_config,
)
from tests.agent.robot.scripted_policy import CHUNK, DEMONSTRATION, FAR, POSE, SAYS, SPEED

pytestmark = pytest.mark.timeout(400)

TASK = "push the red cube to the left"
TICK_S = 1 / 30
SPARE = 6
"""Ticks that a busy machine may cost."""
LEFT = 24 + SPARE
"""Most actions that a chunk of 8 leaves after the first has passed: 7 of three ticks, and one under way."""
GONE = round((ATTENDED_S + TICK_S_OF_THE_AGENT) / TICK_S) + SPARE
"""Until the agent says stop: so long after the terminal's last word, which it looks for at its own ticks."""
STEP = 15.0
"""[arm] max_step: the furthest that a goal goes in one tick, also after a pause."""
NEAR = 2 * 0.17 * SPEED
"""Units that the held arm may stand off its last goal: it holds where it is, 0.17 s behind, and where the
policy has just turned twice that."""
STILL = 0.5
"""Units by which a joint at rest may move in a third of a second."""
MEASURED = r"\d+(?= (ticks|units))|\d\.\d(?= s )|(?<=wanted )\d+|(?<=given )-?\d+|(?<=units, )\d+"


class ScriptedPolicy(ArmProcess):
    program = (str(Path(__file__).with_name("scripted_policy.py")),)


@dataclass(frozen=True)
class Case:
    """A fault, and the bounds of what the goal may do after it."""

    name: str
    fault: str
    """Method of Scene, or what is wrong with the camera."""
    ticks: int
    """Most ticks until the goal stands."""
    seconds: float = LEFT * TICK_S + STARVED_LIMIT_S + 0.5
    """Until its last tick; 0: it goes on, and the test stops it."""


CASES = [
    Case("the policy process is killed", "kill", LEFT),
    Case("the policy process hangs", "hang", LEFT),
    Case("the policy process stands still for 1.5 s", "pause", LEFT, 0),
    Case("the actions are no numbers", "nonsense", 15 + SPARE, 1.0),
    Case("another version is promoted", "promote", 0, 0),
    Case("another version answers (the policy was changed behind the agent's back)", "swap", 15 + SPARE, 1.0),
    Case("the camera sends nothing", "silent", 30 + SPARE, 1.5),
    Case("the camera sends its last message again and again", "stuck", 30 + SPARE, 1.5),
    Case(
        "the camera sends its last picture with new time stamps", "frozen", 24 + LEFT, 2.3 + STARVED_LIMIT_S
    ),
    Case("the operator is gone: his terminal is killed", "gone", GONE, GONE * TICK_S + 0.5),
    Case("the first chunk of a new version is far outside what it was trained on", "far", CHUNK * STRIDE, 0),
    Case("the adapter is unplugged", "unplug", 2 + SPARE, 2.0),
]


class Scene:
    """A workstation, its arm process and its policy process; collects the rows of the table."""

    def __init__(self, workstation: Workstation, arm: ArmProcess, config: Path, log: Path) -> None:
        self.workstation, self.arm, self.config, self._log = workstation, arm, config, log
        self.told = ""
        self.ids: dict[int, str] = {}
        self.done: dict[str, Any] = {}
        self.policy: ArmProcess
        self.start_policy()

    def start_policy(self) -> None:
        self.policy = ScriptedPolicy(self.config)
        self.policy.event("ready", START_S)

    def swap_to(self, version: int) -> None:
        folder, tensors_digest = self.adapter(version)
        self.policy.ask("swap", version=version, folder=str(folder), digest=tensors_digest)

    def adapter(self, version: int) -> tuple[Path, str]:
        tensors = {"base_model.model.x.lora_B.weight": np.full((2, 2), version, np.float32)}
        folder = self.config.parent / f"adapter-{version}"
        folder.mkdir(exist_ok=True)
        manifest = Manifest(
            version=version,
            parent=None,
            base_digest="base",
            tensors_digest=digest(tensors),
            recipe=Recipe(),
            created="2026-01-01",
        )
        write_adapter(folder, tensors, {"r": 2}, manifest)
        return folder, digest(tensors)

    # -- faults --------------------------------------------------------------------------------------------

    def kill(self) -> None:
        self.policy.process.kill()

    def hang(self) -> None:
        os.kill(self.policy.process.pid, signal.SIGSTOP)

    def pause(self) -> None:
        self.hang()
        time.sleep(1.5)
        os.kill(self.policy.process.pid, signal.SIGCONT)

    def nonsense(self) -> None:
        self.config.with_name(SAYS).write_text("nan")

    def swap(self) -> None:
        self.swap_to(4)

    def promote(self) -> None:
        """The agent's part (`agent.versions`), with this policy process."""
        versions = self.versions(5)
        asyncio.run(versions.follow())
        self.told = versions.fault
        assert self.policy.ask("status")["version"] == 3
        time.sleep(0.5)
        self.arm.ask("rollout_stop", reason="operator")
        self.done = self.arm.event("rollout_done")
        wait_for(lambda: not versions._busy(), 5, "the rollout did not end")
        asyncio.run(versions.follow())
        assert versions.running is versions.promoted
        assert self.policy.ask("status")["version"] == 5

    def versions(self, promoted: int) -> Versions:
        folder, tensors_digest = self.adapter(promoted)
        accepted = SimpleNamespace(version=promoted, tensors_digest=tensors_digest)
        return Versions(
            SimpleNamespace(state="ready", request=self._ask_policy),  # type: ignore[arg-type]
            SimpleNamespace(slots={"promoted": accepted}, folder=lambda _: folder),  # type: ignore[arg-type]
            busy=lambda: self.arm.ask("status")["activity"] == "rollout",
        )

    def gone(self) -> tuple[float, str]:
        """A rollout of the agent's; when its terminal was killed, and its id."""
        series = AttendedSeries(self.config, self.arm, self.versions(3))
        killed, told = asyncio.run(series.lose_the_terminal(TASK, 0.7))
        assert told.rollout is not None
        self.told, self.done = told.notice, series.done
        return killed, told.rollout

    async def _ask_policy(self, op: str, timeout_s: float, **fields: Any) -> dict[str, Any]:
        return await asyncio.to_thread(self.policy.ask, op, timeout_s, **fields)

    def camera(self, fault: str) -> None:
        self.workstation.control.post("/camera-fault", {"camera": "front", "fault": fault})

    def unplug(self) -> None:
        self.workstation.control.post("/fault", {"bus": "follower", "unplugged": True})

    def heal(self) -> None:
        """Everything as at the beginning, and the policy at version 3."""
        self.workstation.control.post("/fault", {"bus": "follower"})
        self.camera("none")
        self.config.with_name(SAYS).write_text("")
        if self.policy.process.poll() is None:
            os.kill(self.policy.process.pid, signal.SIGCONT)
        else:
            self.start_policy()
        self.swap_to(3)
        wait_for(lambda: self.arm.ask("status")["fault"] is None, 30, "the fault did not go")

    # -- one rollout ---------------------------------------------------------------------------------------

    def run(self, case: Case, number: int) -> list[str]:
        """The row of the table."""
        self.heal()
        self.told = ""
        while not self.arm.events.empty():
            self.arm.events.get()
        log_from = self._log.stat().st_size
        began = self.roll_out(case, number)
        goals, walls = self.goals(number)
        over_s = walls[-1] - began
        assert not case.seconds or over_s < case.seconds, f"{case.name}: over after {over_s:.1f} s"
        did = (
            self.in_bounds(number, goals)
            if case.fault == "far"
            else self.what_the_goal_did(case, goals, walls - began)
        )
        log = said(self._log.read_text()[log_from:], self.workstation.folder)
        kept = "trace and video" if self.files(number) == [FILE, TRACE, VIDEO] else "not all"
        told = self.told or " / ".join(log) or "nothing"
        return [case.name, self.done["reason"], told, kept, did, self.after(case, goals[-1])]

    def roll_out(self, case: Case, number: int) -> float:
        """The whole rollout; when the fault began, in seconds since the epoch."""
        if case.fault == "gone":
            began, self.ids[number] = self.gone()
            return began
        self.ids[number], version = f"r{number}", 3
        if case.fault == "far":
            version = 6
            self.swap_to(version)
            self.config.with_name(SAYS).write_text("far")
        fields = {"task": TASK, "start_pose": POSE.tolist(), "max_s": 20, "version": version}
        self.arm.ask("rollout_start", rollout_id=self.ids[number], **fields)
        wait_for(lambda: self.arm.ask("status")["phase"] == "running", 30, "the policy did not begin")
        time.sleep(0.7)
        began = time.time()
        if case.fault != "far":
            self.inject(case.fault)
        if case.seconds:
            self.done = self.arm.event("rollout_done", 20)
        elif case.fault in ("pause", "far"):
            time.sleep(1.0)
            self.arm.ask("rollout_stop", reason="operator")
            self.done = self.arm.event("rollout_done")
        return began

    def inject(self, fault: str) -> None:
        if fault in ("silent", "stuck", "frozen"):
            self.camera(fault)
        else:
            getattr(self, fault)()

    def folder(self, number: int) -> Path:
        return self.config.parent / "state/rollouts" / self.ids[number]

    def files(self, number: int) -> list[str]:
        return sorted(path.name for path in self.folder(number).iterdir())

    def goals(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Each tick's goal (n, 6), units, and its time (n,), seconds since the epoch."""
        lines = (self.folder(number) / TRACE).read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        return np.array([row["goal"] for row in rows]), np.array([row["wall"] for row in rows])

    def in_bounds(self, number: int, goals: np.ndarray) -> str:
        """What joint 2 did in the first chunk, in words, checked against what was demonstrated."""
        bounded = json.loads((self.folder(number) / FILE).read_text())["figures"]["bounded"]
        path = goals[: CHUNK * STRIDE, 1]
        shown = DEMONSTRATION[:, 1]
        steps = np.abs(np.diff(path, prepend=POSE[1]))
        assert steps.max() <= FASTER * 100 * TICK_S + 0.1
        assert path.max() <= shown.max() + ROOM
        assert 0 < bounded <= CHUNK * STRIDE
        assert self.done["bounded"] == bounded
        by = f"{np.ptp(path):.0f} units, {steps.max():.0f} in a tick at most"
        wanted = f"{FAR:.0f} units were wanted of joint 2 in the first chunk"
        return f"{wanted}: for {bounded} ticks it is cut, and goes {by}; then on"

    def what_the_goal_did(self, case: Case, goals: np.ndarray, seconds: np.ndarray) -> str:
        """In words, checked against the bounds. `seconds`: since the fault."""
        steps = np.abs(np.diff(goals, axis=0)).max(axis=1)
        assert steps.max() <= STEP + 1e-3
        if case.fault == "promote":
            return "goes on"
        after = goals[seconds >= 0]
        until = seconds[1:][steps > 0]
        paused = case.fault == "pause"
        if paused:  # its own hold: the longest stretch without a new goal
            gaps = np.diff(until)
            back = until[int(gaps.argmax()) + 1]
            assert gaps.max() > 0.5, "it never held"
            until = until[until < back - TICK_S]
            again = steps[seconds[1:] >= back - TICK_S / 2]
            after = goals[(seconds >= 0) & (seconds < back - TICK_S)]
        ticks = max(0, round(until[-1] / TICK_S)) if len(until) else 0
        assert ticks <= case.ticks, f"{case.name}: the goal moved for {ticks} ticks"
        moved = np.abs(after - goals[seconds < 0][-1]).max() if len(after) else 0.0
        assert moved <= SPEED * (ticks + 3) * TICK_S + 3
        words = f"for {ticks} ticks by {moved:.0f} units, then held"
        return f"{words}; then on, {again.max():.0f} units in a tick at most" if paused else words

    def at_rest(self) -> bool:
        stands = self.workstation.status()["follower"]
        time.sleep(0.3)
        return bool(np.abs(np.subtract(self.workstation.status()["follower"], stands)).max() < STILL)

    def after(self, case: Case, goal: np.ndarray) -> str:
        """How the arm is when all is said, and whether it can be used again."""
        if case.fault == "unplug":
            self.workstation.control.post("/fault", {"bus": "follower"})
            wait_for(lambda: not self.workstation.torque(), 30, "it was not let go")
            return "connects by itself, is lowered and let go"
        status = self.arm.ask("status")
        assert status["torque"]
        assert self.workstation.torque()
        wait_for(self.at_rest, 3, "it does not stand still")
        assert np.abs(np.subtract(self.workstation.status()["follower"], goal)).max() < NEAR
        return "holds until the camera is back" if status["fault"] else "holds, ready"


@pytest.fixture
def scene(tmp_path):
    with running_workstation(tmp_path / "ws") as workstation:
        (tmp_path / "agent").mkdir()
        config, log = write_agent_config(tmp_path / "agent", workstation), tmp_path / "arm.log"
        with running_arm(config, log) as arm:
            made = Scene(workstation, arm, config, log)
            try:
                yield made
            finally:
                made.policy.process.kill()
                made.policy.process.wait(5)


def test_the_table_of_faults_while_a_policy_moves_the_arm(scene):
    rows = [scene.run(case, number) for number, case in enumerate(CASES, start=1)]
    starved = [json.loads((scene.folder(n) / FILE).read_text())["figures"]["starved"] for n in (1, 3)]
    assert min(starved) > 10, "ticks without an action are counted"
    head = [
        "fault, while a policy moves the arm",
        "the rollout ends with",
        "what is said",
        "kept",
        "the goal went on",
        "the arm then",
    ]
    check_page("rollouts", table(head, rows), MEASURED)
