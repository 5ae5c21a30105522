"""One arm behind LeRobot's driver: every fault a sentence that names the joint, no stale reading, no
surprise."""

import json
import time

import numpy as np
import pytest

from agent.robot.driver import Arm
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from sim.registers import Register
from tests.agent.robot.conftest import reconnected

REST = [0, 0, 0, 0, 0, 50.0]


def arm_on(bench, role="follower"):
    return Arm(role, bench.path, "so100", bench.calibrations)


@pytest.fixture
def arm(bench):
    made = arm_on(bench)
    made.connect()
    yield made
    made.close()


def refused(bench):
    with pytest.raises(ArmfleetError) as caught:
        arm_on(bench).connect()
    assert caught.value.do
    assert caught.value.kept
    return caught.value


def edit_calibration(bench, **joints):
    path = bench.calibrations / "so100.json"
    values = json.loads(path.read_text())
    for joint, changes in joints.items():
        values[joint] |= changes
    path.write_text(json.dumps(values))


@pytest.mark.parametrize("role", ["follower", "leader"])
def test_connecting_leaves_the_arm_limp_and_still(bench, role):
    bench.stand([10, -20, 30, 5, -5, 20])
    arm = arm_on(bench, role)
    arm.connect()
    assert not any(bench.torque())
    assert np.abs(arm.read() - [10, -20, 30, 5, -5, 20]).max() < 0.2
    arm.close()


def test_the_calibration_is_written_when_the_servos_hold_another(bench):
    assert bench.bus.registers(0).word(Register.MIN_POSITION) == 0
    arm = arm_on(bench)
    arm.connect()
    wanted = bench.joints.calibration()
    for index, values in enumerate(wanted.values()):
        assert bench.bus.registers(index).word(Register.MIN_POSITION) == values["range_min"]
        assert bench.bus.registers(index).word(Register.MAX_POSITION) == values["range_max"]
    arm.close()


def test_torque_comes_on_where_the_arm_is(bench, arm):
    bench.stand([15, 0, 0, 0, 0, 50])
    arm.engage()
    assert all(bench.torque())
    assert np.abs(np.array(bench.goals()) - bench.counts([15, 0, 0, 0, 0, 50])).max() <= 2
    arm.release()
    assert not any(bench.torque())


def test_goals_reach_the_servos(bench, arm):
    arm.engage()
    goal = np.array([5, -10, 20, 0, 30, 80], np.float32)
    arm.send(goal)
    arm.read()  # the bus answers in order: the goal has been obeyed by now
    assert np.abs(np.array(bench.goals()) - bench.counts(goal)).max() <= 2


def test_a_port_that_is_not_there(bench):
    bench.port.unplug()
    error = refused(bench)
    assert error.code is ExitCode.PORT_MISSING
    assert bench.path in error.what


def test_a_servo_that_does_not_answer(bench):
    bench.fault(dead={4})
    error = refused(bench)
    assert error.code is ExitCode.SERVO_SILENT
    assert "joint 4 (wrist_flex)" in error.what


def test_a_bus_on_which_nobody_answers(bench):
    bench.fault(silent=True)
    error = refused(bench)
    assert error.code is ExitCode.BUS_LOST
    assert "power" in error.do


def test_a_wrong_model(bench):
    bench.fault(models={6: 1284})
    error = refused(bench)
    assert error.code is ExitCode.SERVO_MODEL
    assert "joint 6 (gripper) has model 1284" in error.what


def test_a_firmware_mix(bench):
    bench.fault(firmware={2: (3, 9)})
    error = refused(bench)
    assert error.code is ExitCode.FIRMWARE_MIX
    assert "joint 2 (shoulder_lift) 3.9" in error.what


def test_a_calibration_that_does_not_fit(bench):
    bench.stand([80, 0, 0, 0, 0, 50])
    edit_calibration(bench, shoulder_pan={"range_min": 1800, "range_max": 2300})
    before = bench.bus.registers(0).word(Register.MIN_POSITION)
    error = refused(bench)
    assert error.code is ExitCode.CALIBRATION_MISMATCH
    assert "joint 1 (shoulder_pan)" in error.what
    assert bench.bus.registers(0).word(Register.MIN_POSITION) == before


@pytest.mark.parametrize(
    ("contents", "part"),
    [(None, "no calibration"), ("{", "can't be used"), ("{}", "another arm")],
)
def test_a_calibration_file_that_is_missing_or_damaged(bench, contents, part):
    path = bench.calibrations / "so100.json"
    path.unlink() if contents is None else path.write_text(contents)
    error = refused(bench)
    assert error.code is ExitCode.CALIBRATION_MISMATCH
    assert part in error.what


def test_a_calibrated_range_no_arm_has(bench):
    edit_calibration(bench, elbow_flex={"range_min": 2000, "range_max": 2100})
    assert "joint 3 (elbow_flex)" in refused(bench).what


def test_no_reading_is_stale_after_a_stall(bench, arm):
    bench.fault(delay_s=0.08)
    with pytest.raises(ArmfleetError):
        arm.read()  # every reply comes after the driver's time-out of 50 ms
    assert not arm.connected, "a port on which nobody answers is not kept open"
    bench.fault()
    time.sleep(2.0)  # the late replies of all that was asked arrive
    reconnected(arm)
    for step in range(20):
        bench.stand([float(step), 0, 0, 0, 0, 50])
        assert abs(arm.read()[0] - step) < 0.2
    assert arm.counters.stale_bytes > 0
    assert sum(joint.stale for joint in arm.counters.joints.values()) > 0


def test_one_stall_within_a_read_does_not_hand_out_the_late_reply(bench, arm, monkeypatch):
    """The first reply was true when it was made, and arrives after the time-out; the arm has moved since."""
    bench.stand([1, 0, 0, 0, 0, 50])
    answer, stalls = bench.bus.handle, iter([0.08])

    def handle(packet):
        reply = answer(packet)
        if stall := next(stalls, 0):
            bench.stand([9, 0, 0, 0, 0, 50])
            time.sleep(stall)
        return reply

    monkeypatch.setattr(bench.bus, "handle", handle)
    assert abs(arm.read()[0] - 9) < 0.2
    assert arm.counters.retries >= 1


def test_damaged_replies_are_repeated_and_counted(bench, arm):
    bench.fault(corrupt=0.02)
    for step in range(150):
        bench.stand([step / 10, 0, 0, 0, 0, 50])
        assert abs(arm.read()[0] - step / 10) < 0.2
    assert arm.counters.retries > 0


def test_a_servo_that_dies_later_is_named(bench, arm):
    bench.fault(dead={5})
    with pytest.raises(ArmfleetError, match=r"joint 5 \(wrist_roll\)") as caught:
        arm.read()
    assert caught.value.code is ExitCode.SERVO_SILENT


def test_unplugging_is_a_lost_bus_and_plugging_in_heals_it(bench, arm):
    bench.port.unplug()
    with pytest.raises(ArmfleetError) as caught:
        arm.read()
    assert caught.value.code is ExitCode.BUS_LOST
    assert not arm.connected
    with pytest.raises(ArmfleetError) as caught:
        arm.reconnect()
    assert caught.value.code is ExitCode.PORT_MISSING
    bench.port.plug()
    arm.reconnect()
    assert np.abs(arm.read() - REST).max() < 0.2
    assert arm.counters.reconnects == 1


def test_commanding_an_unplugged_arm_is_not_silent_for_longer_than_one_read(bench, arm):
    arm.engage()
    bench.port.unplug()
    with pytest.raises(ArmfleetError):
        arm.send(np.zeros(6, np.float32))
        arm.read()


def test_a_servo_in_overload_is_reported(bench, arm):
    bench.fault(overload={6})
    with pytest.raises(ArmfleetError, match=r"fault|Overload"):
        arm.engage()
