"""The arm process on the virtual workstation: teleoperation, recording, and what can go wrong meanwhile."""

import json
import time
from pathlib import Path

import pytest

from agent.config import SplitSection
from agent.episodes.store import EpisodeStore
from agent.robot.release import release
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.files import remove_in_progress
from tests.agent.robot.process import running_arm, running_workstation, wait_for, write_agent_config

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def workstation(tmp_path_factory):
    with running_workstation(tmp_path_factory.mktemp("ws")) as made:
        yield made


@pytest.fixture(scope="module")
def config(workstation, tmp_path_factory):
    return write_agent_config(tmp_path_factory.mktemp("agent"), workstation)


@pytest.fixture(scope="module")
def arm(config):
    with running_arm(config) as made:
        yield made


@pytest.fixture
def teleoperating(arm, workstation):
    """The leader at a start pose and the follower mirroring it; faults are healed afterwards."""
    wait_for(lambda: arm.ask("status")["fault"] is None, 20, "the arm did not become ready")
    workstation.move_leader(workstation.scene())
    arm.ask("teleop_start")
    while not arm.events.empty():  # of the tests before
        arm.events.get()
    yield arm
    workstation.control.post("/fault", {"bus": "follower"})
    workstation.control.post("/camera-fault", {"camera": "front", "fault": "none"})
    if arm.process.poll() is None:
        arm.ask("teleop_stop")
        wait_for(lambda: arm.ask("status")["fault"] is None, 30, "the fault did not heal")
        arm.ask("release")


def store_of(config):
    return EpisodeStore(config.parent / "state/episodes", SplitSection())


def record(arm, episode_id, seconds, keep=True):
    arm.ask("record_start", episode_id=episode_id, task="push the red cube to the left", max_s=30)
    time.sleep(seconds)
    return arm.ask("record_stop", keep=keep)


def test_an_episode_is_recorded_and_admitted(teleoperating, workstation, config):
    arm, store = teleoperating, store_of(config)
    started = time.monotonic()
    arm.ask("record_start", episode_id="000001", task="push the red cube to the left", max_s=30)
    first_frame_s = time.monotonic() - started
    print(f"from the request to the first recorded frame: {first_frame_s:.2f} s")
    assert first_frame_s < 2.0
    workstation.control.post("/demonstrate", {"seed": 1})
    wait_for(lambda: not workstation.control.get("/demonstration")["running"], 30, "the person did not end")
    result = arm.ask("record_stop", keep=True)
    assert store.judge("000001").verdict == "admitted", store.read("000001").reasons
    record_ = store.read("000001")
    assert result["frames"] == record_.frames > 30
    assert record_.split in ("train", "eval")
    assert record_.calibration_digest
    rows = [json.loads(line) for line in (Path(result["folder"]) / "sidecar.jsonl").read_text().splitlines()]
    assert len(rows) == record_.frames
    assert rows[0]["cameras"]["front"]["stamp"] > 1e9


def test_stock_lerobot_loads_the_episode(arm, config):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    folder = store_of(config).folder("000001")
    dataset = LeRobotDataset("armfleet/000001", root=folder)
    assert len(dataset) == store_of(config).read("000001").frames
    row = dataset[len(dataset) // 2]
    assert row["task"] == "push the red cube to the left"
    assert tuple(row["observation.images.front"].shape) == (3, 96, 96)
    assert tuple(row["action"].shape) == (6,)


def test_a_discarded_episode_leaves_nothing(teleoperating, config):
    assert record(teleoperating, "000002", 0.5, keep=False) == {"kept": False}
    assert not store_of(config).folder("000002").exists()
    assert list(store_of(config).root.glob(".inprogress*")) == []


def test_an_episode_of_one_blink_is_not_kept(teleoperating, config):
    teleoperating.ask("record_start", episode_id="000003", task="x", max_s=1 / 30)
    with pytest.raises(ArmfleetError, match="can't be kept") as caught:
        teleoperating.ask("record_stop", keep=True)
    assert caught.value.code is ExitCode.EPISODE_DAMAGED
    assert list(store_of(config).root.glob(".inprogress*")) == []


def test_a_camera_that_stops_ends_the_episode_and_keeps_it_out(teleoperating, workstation, config):
    arm = teleoperating
    arm.ask("record_start", episode_id="000004", task="x", max_s=30)
    workstation.control.post("/camera-fault", {"camera": "front", "fault": "silent"})
    lost = arm.event("episode_lost")
    assert lost["episode_id"] == "000004"
    assert lost["error"]["code"] == ExitCode.CAMERA_LOST
    assert "camera front" in lost["error"]["what"]
    with pytest.raises(ArmfleetError, match="camera front"):
        arm.ask("record_stop", keep=True)
    with pytest.raises(ArmfleetError, match="camera front"):
        arm.ask("teleop_start")
    assert list(store_of(config).root.glob(".inprogress*")) == []
    workstation.control.post("/camera-fault", {"camera": "front", "fault": "none"})
    wait_for(lambda: arm.ask("status")["fault"] is None, 20, "the camera's return was not noticed")


def test_unplugging_the_arm_is_named_and_heals_by_itself(teleoperating, workstation):
    arm = teleoperating
    workstation.control.post("/fault", {"bus": "follower", "unplugged": True})
    ended = arm.event("activity_ended")
    assert ended["error"]["code"] == ExitCode.BUS_LOST
    wait_for(
        lambda: (arm.ask("status")["fault"] or {}).get("code") == ExitCode.PORT_MISSING, 10, "no port missing"
    )
    workstation.control.post("/fault", {"bus": "follower"})
    wait_for(lambda: arm.ask("status")["fault"] is None, 20, "the arm did not come back")


def test_arms_far_apart_are_refused_and_nothing_moves(arm, workstation):
    wait_for(lambda: arm.ask("status")["fault"] is None, 20, "the arm did not become ready")
    workstation.move_leader(
        [90.0, 60.0, 0.0, 0.0, 0.0, 10.0], 1.5
    )  # the limp follower lies at -100 on joint 2
    with pytest.raises(ArmfleetError, match="differ too much"):
        arm.ask("teleop_start")
    assert not workstation.torque()


def test_hold_stops_teleoperation_and_keeps_torque_until_release(teleoperating, workstation):
    assert teleoperating.ask("hold")["torque"]
    assert workstation.torque()
    wait_for(lambda: teleoperating.ask("status")["activity"] is None, 2, "still running")
    teleoperating.ask("release")
    assert not workstation.torque()


def test_sigkill_while_recording_costs_that_episode_only(teleoperating, workstation, config):
    """The last test with this process. The daemon's part, releasing torque, is done here by hand."""
    arm, store = teleoperating, store_of(config)
    arm.ask("record_start", episode_id="000009", task="x", max_s=30)
    time.sleep(0.7)
    arm.process.kill()
    arm.process.wait(5)
    assert workstation.torque()
    started = time.monotonic()
    release(str(workstation.folder / "ttyFOLLOWER"))
    assert not workstation.torque()
    assert time.monotonic() - started < 2.0
    assert remove_in_progress(store.root) == [".inprogress-000009"]
    assert [r.id for r in store.records()] == ["000001"]


def test_when_the_agent_dies_the_arm_is_released_within_two_seconds(workstation, config):
    with running_arm(config) as arm:
        workstation.move_leader(workstation.scene())
        arm.ask("teleop_start")
        arm.ask("record_start", episode_id="000010", task="x", max_s=30)
        assert workstation.torque()
        started = time.monotonic()
        arm.hang_up()
        wait_for(lambda: not workstation.torque(), 2.5, "torque stayed on")
        arm.process.wait(3)
        assert time.monotonic() - started < 2.5
    assert list(store_of(config).root.glob(".inprogress*")) == []
