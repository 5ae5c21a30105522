"""No reading is older than the call that asked for it, whatever the line does; each trouble has its joint."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.robot.counters import since
from agent.robot.driver import Arm
from agent.robot.joints import JOINTS
from agent.robot.release import release
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from sim.faults import BusFaults
from sim.packets import Instruction, Packet
from sim.registers import ErrorBit, Register
from tests.agent.robot.conftest import reconnected


@pytest.fixture(scope="module")
def moving(tmp_path_factory):
    """An arm that is somewhere else in every single packet, and its driver."""
    from tests.agent.robot.conftest import Bench

    bench = Bench(tmp_path_factory.mktemp("moving"))
    answer, steps = bench.bus.handle, [0]

    def handle(packet):
        steps[0] += 1
        bench.stand([steps[0] % 180 / 2 - 45.0] * 5 + [50.0])
        return answer(packet)

    arm = Arm("follower", bench.path, "so100", bench.calibrations)
    arm.connect()
    bench.bus.handle = handle
    yield bench, arm
    arm.close()
    bench.port.unplug()


def assert_fresh(bench, state, asked):
    """The state is what the bus was told in an answer to a request made since `asked`."""
    counts = bench.counts(np.asarray(state, np.float64) + 1e-3)[:5]
    answers = [told for told in bench.bus.told() if told.wall >= asked]
    assert any(np.abs(np.array(told.positions[:5]) - counts).max() <= 1 for told in answers)


@settings(max_examples=8, deadline=None)
@given(
    corrupt=st.sampled_from([0.0, 0.02, 0.1]),
    lost=st.sampled_from([0.0, 0.02]),
    stalls=st.sampled_from([0.0, 0.1, 0.3]),
    stall_s=st.sampled_from([0.08, 0.06, 0.2]),
)
def test_recorded_states_are_never_stale(moving, corrupt, lost, stalls, stall_s):
    bench, arm = moving
    reconnected(arm)
    bench.port.set_faults(BusFaults(corrupt=corrupt, lost=lost, stalls=stalls, stall_s=stall_s))
    try:
        for _ in range(10):
            asked = time.time()
            assert_fresh(bench, arm.read(), asked)
    except ArmfleetError:
        pass  # refusing is allowed, lying is not
    finally:
        bench.port.set_faults(BusFaults())


def test_stalls_longer_than_any_wait_for_a_late_reply_leave_nothing_behind(moving, monkeypatch):
    bench, arm = moving
    reconnected(arm)
    stalls = iter([0.3, 0.3])
    monkeypatch.setattr(bench.bus, "pause_s", lambda: next(stalls, 0.0))
    stale = sum(joint.stale for joint in arm.counters.joints.values())
    for _ in range(10):
        asked = time.time()
        assert_fresh(bench, arm.read(), asked)
    assert sum(joint.stale for joint in arm.counters.joints.values()) > stale


@pytest.fixture
def arm(bench):
    made = Arm("follower", bench.path, "so100", bench.calibrations, supply_v=5.0)
    made.connect()
    yield made
    made.close()


def test_each_trouble_is_counted_for_its_joint(bench, arm, monkeypatch):
    answer, tries = bench.bus.handle, iter([True])

    def handle(packet):
        reply = answer(packet)
        if packet.instruction == Instruction.SYNC_READ and next(tries, False):
            damaged = bytearray(reply)
            length = len(reply) // 6
            damaged[3 * length - 1] ^= 0x55  # the checksum of joint 3
            del damaged[5 * length :]  # joint 6 says nothing
            return bytes(damaged)
        return reply

    monkeypatch.setattr(bench.bus, "handle", handle)
    before = arm.counters.snapshot()
    arm.read()
    counts = since(before, arm.counters.snapshot())
    assert counts == {"elbow_flex": {"retries": 1, "checksum": 1}, "gripper": {"retries": 1, "timeouts": 1}}


def test_the_error_byte_of_each_joint_comes_with_the_positions(bench, arm):
    bench.fault(overload={2}, errors={4: ErrorBit.ANGLE})
    arm.read()
    assert arm.errors == [0, ErrorBit.OVERLOAD, 0, ErrorBit.ANGLE, 0, 0]
    bench.fault()
    arm.read()
    assert arm.errors == [0] * 6


def test_health_is_read_in_one_piece(bench, arm):
    bench.fault(voltage=4.7, temperature={3: 48}, load={3: -250})
    health = arm.probe(2, 0.05)
    assert (health.voltage, health.temperature, health.load, health.errors) == (4.7, 48, -250, 0)


def test_a_silent_line_does_not_hold_the_loop_up_for_longer_than_allowed(bench, arm):
    bench.fault(silent=True)
    started = time.monotonic()
    assert arm.probe(0, 0.005) is None
    assert time.monotonic() - started < 0.045  # on a busy machine; the driver's own time-out is 50 ms
    bench.fault()
    assert np.isfinite(arm.read()).all()


def test_an_answer_about_health_that_comes_late_is_no_position(bench, arm):
    bench.fault(delay_s=0.02)
    assert arm.probe(0, 0.005) is None
    bench.fault()
    bench.stand([7, 0, 0, 0, 0, 50])
    assert abs(arm.read()[0] - 7) < 0.2


@pytest.mark.parametrize(
    ("faults", "code", "words"),
    [
        ({"overload": {2}}, ExitCode.SERVO_PROTECTION, r"joint 2 \(shoulder_lift\) .* is in overload"),
        ({"temperature": {6: 75}}, ExitCode.SERVO_HOT, r"joint 6 \(gripper\) .* is too hot: 75"),
        ({"voltage": 12.0}, ExitCode.SUPPLY_VOLTAGE, r"supply gives 12.0 V .*supply_v says 5 V"),
        ({"voltage": 3.0}, ExitCode.SUPPLY_VOLTAGE, r"supply gives 3.0 V"),
    ],
)
def test_an_arm_that_must_not_be_switched_on_is_refused_by_name_and_left_limp(bench, faults, code, words):
    for servo in range(1, 7):
        bench.bus.handle(Packet(servo, Instruction.WRITE, bytes([Register.TORQUE_ENABLE, 1])))
    bench.fault(**faults)
    with pytest.raises(ArmfleetError, match=words) as caught:
        Arm("follower", bench.path, "so100", bench.calibrations, supply_v=5.0).connect()
    assert caught.value.code is code
    deadline = time.monotonic() + 5
    while any(bench.torque()) and time.monotonic() < deadline:
        time.sleep(0.01)  # the packet is still on the line
    assert not any(bench.torque())
    bench.fault()
    assert not any(bench.torque()), "and not because the servo gave way"


def test_a_5_v_supply_on_a_12_v_arm_is_refused(bench):
    with pytest.raises(ArmfleetError, match=r"supply gives 5.0 V .*supply_v says 12 V"):
        Arm("follower", bench.path, "so100", bench.calibrations, supply_v=12.0).connect()
    bench.fault(voltage=12.0, voltage_limit=14.0)
    arm = Arm("follower", bench.path, "so100", bench.calibrations, supply_v=12.0)
    arm.connect()
    arm.close()


def test_a_stiff_arm_stays_stiff_when_its_adapter_comes_back(bench, arm):
    bench.stand([15, 0, 0, 0, 0, 50])
    arm.engage()
    assert np.abs(arm.rest - [15, 0, 0, 0, 0, 50]).max() < 0.2
    bench.port.unplug()
    with pytest.raises(ArmfleetError):
        arm.read()
    bench.port.plug()
    arm.reconnect()
    assert arm.torque
    assert all(bench.torque())
    assert np.abs(np.array(bench.goals()) - bench.counts([15, 0, 0, 0, 0, 50])).max() <= 2
    assert np.abs(arm.rest - [15, 0, 0, 0, 0, 50]).max() < 0.2, "it is still known where it lay"
    arm.release()
    assert not any(bench.torque())


def test_a_servo_in_overload_and_one_that_is_dead_keep_no_other_joint_stiff(bench, arm):
    arm.engage()
    bench.fault(overload={1})
    arm.release()
    bench.fault()
    assert not any(bench.torque())
    arm.engage()
    bench.fault(dead={3})
    with pytest.raises(ArmfleetError, match=r"joint 3 \(elbow_flex\)"):
        arm.release()
    bench.fault()
    assert [name for name, on in zip(JOINTS, bench.torque(), strict=True) if on] == ["elbow_flex"]
    release(bench.path)
