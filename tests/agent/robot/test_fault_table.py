"""Each fault of the bus while an episode is recorded, on the virtual workstation: what the log says, what is
kept, what the arm does then. The table is docs/faults.md; WRITE_FAULTS=1 writes it anew.

And whatever the line does: each recorded state is an answer that the bus gave after its row began.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from agent.robot.driver import Arm
from shared.errors import ArmfleetError
from sim.joints import JOINTS, JointMap
from tests.agent.robot.fault_page import check_page, plain, said, table
from tests.agent.robot.process import (
    ArmProcess,
    Workstation,
    running_arm,
    running_workstation,
    wait_for,
    write_agent_config,
)

pytestmark = pytest.mark.timeout(400)

TASK = "push the red cube to the left"
POSE = [0.0, -30.0, 30.0, 40.0, 0.0, 20.0]
"""Above the table; the limp arm lies lower."""
SECONDS = 2.0
ANSWER_S, SEARCH_S = 0.055, 0.85
"""A read waits so long for an answer, and so long in all when it has to ask again (agent.robot.driver)."""
REST_NEAR = 12.0
"""Units within which an arm that was lowered and let go lies where it lay before."""


@dataclass(frozen=True)
class Case:
    """A fault, and what is done with the episode."""

    name: str
    fault: dict[str, Any]
    ends: bool = True
    """The session ends; otherwise the episode is kept."""
    lasts_s: float = 0.0
    """How long the fault stays after that."""


CASES = [
    Case("2 % of the replies are damaged", {"corrupt": 0.02}, ends=False),
    Case("the line stalls for 80 ms, once in twenty replies", {"stalls": 0.05}, ends=False),
    Case("a servo is dead", {"dead": [5]}),
    Case("the adapter is unplugged for 10 s", {"unplugged": True}, lasts_s=10.0),
    Case("the gripper overheats", {"temperature": {"6": 66}}),
    Case("a joint pushes with 90 % of its force", {"load": {"3": 900}}),
    Case("a servo's overload protection trips", {"overload": [2]}),
    Case("the voltage breaks down", {"voltage": 3.9}),
    Case("a 12 V supply on a 5 V arm", {"voltage": 12.0}),
]


@pytest.fixture(scope="module")
def workstation(tmp_path_factory):
    with running_workstation(tmp_path_factory.mktemp("ws")) as made:
        yield made


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("log") / "arm.log"


@pytest.fixture(scope="module")
def config(workstation, tmp_path_factory):
    return write_agent_config(tmp_path_factory.mktemp("agent"), workstation)


@pytest.fixture(scope="module")
def arm(config, log):
    with running_arm(config, log) as made:
        yield made


class Scene:
    """One run of a case; collects the row of the table."""

    def __init__(self, arm: ArmProcess, workstation: Workstation, log: Path, config: Path) -> None:
        self.arm, self.workstation, self._log = arm, workstation, log
        self.episodes = config.parent / "state/episodes"
        self._from = 0
        self.rest: list[float] = []

    def begin(self, episode: str) -> None:
        """A session that records."""
        wait_for(lambda: self.arm.ask("status")["fault"] is None, 30, "the arm did not become ready")
        wait_for(lambda: not self.workstation.torque(), 20, "torque stayed on")
        self.rest = self.still()
        self.workstation.move_leader(self.rest)
        self.arm.ask("teleop_start")
        self.workstation.move_leader(POSE, 1.5)
        while not self.arm.events.empty():
            self.arm.events.get()
        self._from = self._log.stat().st_size
        self.arm.ask("record_start", episode_id=episode, task=TASK, max_s=30)

    def still(self) -> list[float]:
        """Where the limp arm came to rest."""
        before: list[float] = [999.0] * 6

        def settled() -> list[float] | None:
            nonlocal before
            now = self.workstation.status()["follower"]
            moved, before = np.abs(np.subtract(now, before)).max(), now
            time.sleep(0.2)
            return now if moved < 0.2 else None

        return wait_for(settled, 20, "the limp arm did not come to rest")

    def fault(self, fault: dict[str, Any]) -> None:
        self.workstation.control.post("/fault", {"bus": "follower", **fault})

    def said(self) -> list[str]:
        """By the log since the session began."""
        return said(self._log.read_text()[self._from :], self.workstation.folder)

    def after(self) -> str:
        """The arm once the fault was there and before it is healed."""
        torque = self.workstation.torque()
        if torque:
            return "holds"
        near = np.abs(np.subtract(self.still(), self.rest)).max() < REST_NEAR
        return "limp, where it lay before" if near else "limp"


def run(case: Case, episode: str, scene: Scene) -> list[str]:
    """The row of the table."""
    scene.begin(episode)
    time.sleep(0.5)
    scene.fault(case.fault)
    if case.ends:
        scene.arm.event("activity_ended", 30)
        time.sleep(case.lasts_s)
        after = scene.after() if not case.lasts_s else "as it was: nobody can reach it"
        kept = "all saved episodes, not the one being recorded"
        assert not list(scene.episodes.glob(f"*{episode}"))
        with pytest.raises(ArmfleetError):
            scene.arm.ask("teleop_start")
    else:
        time.sleep(SECONDS)
        assert scene.arm.ask("record_stop", keep=True)["kept"]
        kept, after = "the episode", "follows the leader"
    scene.fault({})
    if not case.ends:
        scene.arm.ask("teleop_stop")
        scene.arm.ask("release")
    wait_for(lambda: scene.arm.ask("status")["fault"] is None, 30, "it did not heal")
    if case.ends and after != "holds":
        wait_for(lambda: not scene.workstation.torque(), 20, "torque stayed on")
    elif case.ends:
        scene.arm.ask("release")
    healed = f"connects by itself, is {scene.after()}" if case.lasts_s else "ready"
    return [case.name, " / ".join(scene.said()) or "nothing", kept, after, healed]


def wrong_way_round(workstation: Workstation) -> list[str]:
    """A 5 V supply on a 12 V arm: nothing is ever switched on."""
    folder = workstation.folder
    arm = Arm("leader", f"{folder}/ttyLEADER", "so100", folder / "calibration", supply_v=12.0)
    with pytest.raises(ArmfleetError) as caught:
        arm.connect()
    said = plain(str(caught.value).replace("the leader", "the follower"))
    return ["a 5 V supply on a 12 V arm", said, "everything: no session begins", "limp", "ready"]


def test_the_table_of_faults(arm, workstation, log, config):
    scene = Scene(arm, workstation, log, config)
    rows = [run(case, f"{number:06d}", scene) for number, case in enumerate(CASES, start=1)]
    rows.append(wrong_way_round(workstation))
    head = ["fault, while an episode is recorded", "the log says", "kept", "the arm then", "when it has gone"]
    check_page("table", table(head, rows))


@pytest.mark.parametrize("episode", ["000001", "000002"])
def test_no_recorded_state_is_stale(arm, workstation, config, episode):
    """After the table: the episodes with damaged replies and with stalls."""
    folder = config.parent / "state/episodes" / episode
    table = pq.read_table(next((folder / "data").rglob("*.parquet")))
    states = np.array(table["observation.state"].to_pylist())
    rows = [json.loads(line) for line in (folder / "sidecar.jsonl").read_text().splitlines()]
    told = workstation.control.get("/told")["follower"]
    walls = np.array([wall for wall, _ in told])
    positions = JointMap().counts_to_units(np.array([counts for _, counts in told]))
    assert len(states) == len(rows) > 10
    for state, row in zip(states, rows, strict=True):
        limit_s = SEARCH_S if row["retries"] else ANSWER_S
        fresh = (walls >= row["wall"]) & (walls <= row["wall"] + limit_s)
        assert np.abs(positions[fresh] - state).max(axis=1).min() < 0.01
    troubles = [row["bus"]["follower"] for row in rows if "follower" in row.get("bus", {})]
    kinds = {kind for joints in troubles for counts in joints.values() for kind in counts}
    assert ("checksum" in kinds) if episode == "000001" else ("timeouts" in kinds or "stale" in kinds)
    assert {row["health"]["joint"] for row in rows if "health" in row} == set(JOINTS)
