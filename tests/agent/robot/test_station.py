"""The station and its loop with arms that are plain objects: what is told, and what an end waits for."""

import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from agent.config import AgentConfig
from agent.evaluation.rollouts import RolloutWanted
from agent.inference.engine import EngineFigures
from agent.robot import attempt
from agent.robot import station as module
from agent.robot.loop import Activity, ControlLoop
from agent.robot.safety import Cause
from agent.robot.station import Station
from agent.robot.watch import HealthWatch
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from tests.agent.robot.fakes import FINE, FakeArm
from tests.agent.robot.process import wait_for


class SlowEnd(Activity):
    """Goes on until it is stopped; its end takes until `go`, as a rollout's video does."""

    name, phase, limited = "slow", module.Phase.MIRRORING, False

    def __init__(self):
        self.go, self.begun = threading.Event(), threading.Event()

    def begin(self, position):
        self.begun.set()

    def step(self, seen):
        return None

    @property
    def done(self):
        return None

    def end(self, reason, error):
        self.go.wait(30)


class FakeEngine:
    """Has seen nothing."""

    def __init__(self, *args):
        self.proxy = SimpleNamespace(latencies=[], version=None, digest=None)

    def stop(self):
        return EngineFigures()


@pytest.fixture
def bench(tmp_path):
    config = AgentConfig.model_validate(
        {
            "node": {"name": "a", "state_dir": tmp_path, "socket": tmp_path / "s"},
            "policy": {"base": "x"},
            "arm": {"follower_port": "/dev/f", "leader_port": "/dev/l", "calibration_dir": tmp_path},
            "cameras": {"front": {"type": "zmq", "port": 1, "width": 96, "height": 96, "fps": 30}},
        }
    )
    events = []
    made = Station(config, lambda event, **fields: events.append((event, fields)))
    made.follower, made.leader = FakeArm(), FakeArm("leader")
    made._watch = HealthWatch(made.follower, lambda texts: None)
    made.cameras = {}
    made._loop = ControlLoop(
        made.follower,
        made.leader,
        {},
        None,
        60,
        made._activity_ended,
        made._watch,
        made._descent,
        made._failed,
        made._limp,
    )
    return SimpleNamespace(station=made, events=events, arm=made.follower)


@pytest.fixture
def slow(bench):
    """An activity that runs, and whose end takes long."""
    activity = SlowEnd()
    bench.station._loop.start(activity)
    assert activity.begun.wait(10)
    yield activity
    activity.go.set()
    bench.station._loop.stop("test over", wait_s=10)


@pytest.mark.parametrize(("op", "torque"), [("hold", True), ("release", False)])
def test_hold_and_release_do_not_wait_for_the_video_of_a_rollout(bench, slow, op, torque):
    assert getattr(bench.station, op)() == {"torque": torque}
    assert bench.station._loop.running, "its end goes on"


def test_abort_brings_an_arm_that_holds_down_and_leaves_a_limp_one_alone(bench):
    bench.arm.rest = bench.arm.read()
    assert bench.station.lower() == {"torque": False}
    assert bench.arm.done[-1] == "release"
    moves = len(bench.arm.done)
    assert bench.station.lower() == {"torque": False}
    assert len(bench.arm.done) == moves


def test_hold_stops_an_arm_on_its_way_down_and_keeps_it_stiff(bench):
    bench.arm.rest = np.full(6, 90, np.float32)
    bench.arm.send = lambda goal: setattr(bench.arm, "state", goal)
    way_down = threading.Thread(target=bench.station.lower)
    way_down.start()
    wait_for(lambda: bench.arm.state.any(), 10, "it did not begin")
    assert bench.station.hold() == {"torque": True}
    way_down.join(10)
    assert bench.arm.torque
    assert bench.arm.done == []
    assert bench.arm.state.max() < 90


def test_a_rollout_that_nobody_waits_for_any_more_is_not_begun(bench, monkeypatch):
    monkeypatch.setattr(module, "Attempt", None)  # would fail
    wanted = RolloutWanted(rollout_id="r", task="push", max_s=1, not_after=time.monotonic() - 0.01)
    with pytest.raises(ArmfleetError, match="asked for too long ago"):
        bench.station.rollout_start(wanted)
    assert not bench.station._loop.running


def test_the_end_of_a_rollout_is_told_although_its_video_can_not_be_encoded(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(attempt, "RolloutEngine", FakeEngine)
    made = attempt.Attempt(
        bench.station.config,
        bench.arm,
        {},
        RolloutWanted(rollout_id="r", task="push", max_s=1),
        bench.station._emit,
        None,
        threading.Lock(),
    )

    def fail(root, record):
        raise ValueError("no such encoder")

    made._trace.write = fail
    made._ended("operator", None)
    name, fields = bench.events[-1]
    assert (name, fields["rollout_id"], fields["folder"]) == ("rollout_done", "r", None)


def test_abort_of_a_rollout_lowers_once_its_video_is_written(bench, slow):
    threading.Timer(0.05, slow.go.set).start()
    assert bench.station.lower() == {"torque": False}
    assert not bench.station._loop.running


def test_hold_after_release_switches_torque_on_while_the_rollout_is_still_ending(bench, slow):
    bench.station.release()
    assert bench.station.hold() == {"torque": True}


def test_an_activity_that_is_still_ending_does_not_refuse_the_next_one(bench, slow):
    bench.station.hold()
    threading.Timer(0.05, slow.go.set).start()
    assert not bench.station._idle_loop().running


def test_driver_that_can_not_release_is_passed_by(bench, monkeypatch):
    ports = []

    def refuse():
        raise ArmfleetError("the gripper reports a fault", code=ExitCode.BUS_LOST)

    bench.arm.release = refuse
    monkeypatch.setattr(module, "release_port", lambda port, hold_s: ports.append(port))
    assert bench.station.release() == {"torque": False}
    assert ports == ["/dev/f"]


def test_fault_that_ends_an_activity_is_told_at_once(bench):
    error = ArmfleetError("no servo answers", code=ExitCode.BUS_LOST)
    bench.station._activity_ended("teleoperation", "bus_lost", error)
    assert [name for name, _ in bench.events] == ["fault", "activity_ended"]
    assert bench.events[0][1]["error"]["what"] == "no servo answers"


def test_fault_is_told_once_although_its_text_changes_each_second(bench):
    errors = [
        ArmfleetError(f"camera front sent its last frame {age} s ago", code=ExitCode.CAMERA_LOST)
        for age in (1.0, 2.0)
    ]
    names = iter(["front", "front", "wrist"])

    def latest():
        bench.station._device = next(names)
        raise errors[min(len(bench.events), 1)]

    bench.station.cameras = {"front": SimpleNamespace(name="front", revive=lambda: None, check=latest)}
    bench.station.tend()
    bench.station.tend()
    assert len(bench.events) == 1
    bench.station.tend()
    assert len(bench.events) == 2, "another camera is another fault"
    bench.station.cameras = {}
    bench.station.tend()
    assert bench.events[-1][0] == "fault_cleared"


def test_the_end_of_the_process_releases_the_arm_and_then_waits_for_the_save(bench, monkeypatch):
    saving, go, order = threading.Event(), threading.Event(), []

    def save():
        saving.set()
        go.wait(30)
        order.append("saved")
        return "folder"

    monkeypatch.setattr(module, "HOLD_S", 0.0)
    bench.station._take = SimpleNamespace(
        id="000001", frames=9, save=save, discard=lambda: order.append("lost")
    )
    thread = threading.Thread(target=bench.station.record_stop, args=(True,))
    thread.start()
    assert saving.wait(10)
    started = time.monotonic()
    bench.station.close()
    assert not bench.arm.torque
    assert time.monotonic() - started < 2.0
    assert order == []
    go.set()
    bench.station.await_save()
    assert order == ["saved"]
    thread.join(10)


def test_what_is_recorded_when_the_arm_becomes_unsafe_is_lost_and_the_error_says_so(bench):
    discarded = []
    bench.station._take = SimpleNamespace(id="000007", discard=lambda: discarded.append(True))
    bench.arm.healths = [FINE] * 5 + [replace(FINE, temperature=70, errors=4)]
    bench.station.follower.rest = bench.arm.state
    activity = SlowEnd()
    activity.go.set()
    bench.station._loop.start(activity)
    bench.station._loop._thread.join(20)
    names = [name for name, _ in bench.events]
    assert names == ["episode_lost", "fault", "activity_ended"]
    error = ArmfleetError.from_dict(bench.events[1][1]["error"])
    assert error.code is ExitCode.SERVO_HOT
    assert "joint 6 (gripper)" in error.what
    assert "000007, which was being recorded, is not kept" in error.kept
    assert discarded
    assert not bench.arm.torque
    assert bench.station.fault is not None


def test_an_idle_arm_that_grows_hot_is_lowered_and_let_go_and_free_again_when_it_is_cool(bench):
    bench.arm.healths = [replace(FINE, temperature=70, errors=4)] + [FINE] * 5
    deadline = time.monotonic() + 20
    while bench.arm.torque and time.monotonic() < deadline:
        bench.station.tend()
        time.sleep(0.05)
    bench.station._loop._thread.join(20)
    assert not bench.arm.torque
    assert bench.station.fault.code is ExitCode.SERVO_HOT
    assert bench.station.fault.finding.cause is Cause.HEAT
    with pytest.raises(ArmfleetError, match="too hot"):
        bench.station.hold()
    bench.arm.healths = [FINE] * 6
    bench.station.tend()
    assert bench.station.fault is None
    assert bench.events[-1][0] == "fault_cleared"


def test_an_arm_found_stiff_after_its_adapter_came_back_is_lowered_and_let_go(bench, monkeypatch):
    loop = bench.station._loop
    bench.arm.connected = False
    bench.arm.rest = bench.arm.state + 10
    monkeypatch.setattr(bench.station, "_ready", lambda: setattr(bench.station, "_loop", loop))
    bench.station.tend()
    assert loop.activity.name == "lowering"
    bench.arm.state = bench.arm.rest
    loop._thread.join(20)
    assert not bench.arm.torque
