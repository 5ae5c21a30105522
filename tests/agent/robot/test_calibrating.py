"""The procedure beside stock LeRobot's on one emulated arm, moved by the same hand; and what it refuses."""

import json
from collections.abc import Iterator
from datetime import datetime

import pytest

from agent.robot.calibrating import Calibrating
from agent.robot.calibration import calibration_path, load_calibration, target_path
from agent.robot.line import Line
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from sim.bus import BusPort, ServoBus
from sim.faults import BusFaults
from sim.packets import Instruction
from sim.registers import PHASE_FULL_ANGLE, Register
from sim.servo import ServoReading

MIDDLE = (2100, 1800, 4050, 2047, 300, 3500)
"""Encoder counts with every joint in its middle: elbow and gripper pass the encoder's zero when moved."""
REACH = ((-1200, 1190), (-1100, 1105), (-1080, 1100), (-1000, 1060), (-50, 1500), (-600, 640))
NOW = datetime(2026, 11, 24, 14, 26, 13)
OLD = [{"offset": 100 * i, "low": 500 + i, "high": 3500 + i} for i in range(6)]


def movement() -> Iterator[list[int]]:
    """Encoder positions while a person moves one joint after the other from stop to stop, and back."""
    for joint, (low, high) in enumerate(REACH):
        for reach in (low, high):
            for share in (0.0, 0.33, 1.0, 0.5, 0.0):
                place = list(MIDDLE)
                place[joint] += round(share * reach)
                yield place


class Hand:
    """An arm on a port, and what moves it."""

    def __init__(self, folder) -> None:
        self.bus = ServoBus(MIDDLE)
        self.port = BusPort(self.bus, folder / "tty")
        self.port.plug()
        self.written: list[tuple[int, int]] = []
        handle = self.bus.handle

        def note(packet):
            if packet.instruction not in (Instruction.PING, Instruction.READ, Instruction.SYNC_READ):
                self.written.append((packet.servo_id, packet.parameters[0]))
            return handle(packet)

        self.bus.handle = note
        for joint, old in enumerate(OLD):
            servo = self.bus.registers(joint)
            servo.write(Register.LOCK, b"\0")
            for register, value in zip(
                (Register.HOMING_OFFSET, Register.MIN_POSITION, Register.MAX_POSITION),
                old.values(),
                strict=True,
            ):
                servo.write(register, value.to_bytes(2, "little"))
            servo.write(Register.LOCK, b"\1")

    def put(self, encoders) -> None:
        self.bus.present([ServoReading(count % 4096, 0, 0, 0) for count in encoders])

    def eeprom(self) -> list[bytes]:
        """What survives a power cycle, of each servo: calibration registers, phase and mode."""
        self.bus.power_cycle()
        servos = [self.bus.registers(joint) for joint in range(6)]
        return [servo.read(9, 4) + servo.read(18, 1) + servo.read(31, 3) for servo in servos]

    def calibrate(self, role, steps=movement) -> Calibrating:
        """Up to and without the commit."""
        made = Calibrating(Line(str(self.port.link), role), role)
        made.begin()
        self.put(MIDDLE)
        made.take_middle()
        for place in steps():
            self.put(place)
            made.poll()
        return made


@pytest.fixture
def hand(tmp_path):
    made = Hand(tmp_path)
    yield made
    made.port.unplug()


def stock(hand, role, folder, monkeypatch):
    """LeRobot's own procedure, with its two questions answered by the hand."""
    from lerobot.motors import motors_bus
    from lerobot.robots.so_follower import SO101Follower, SO101FollowerConfig
    from lerobot.teleoperators.so_leader import SO101Leader, SO101LeaderConfig

    places = list(movement())

    def answer(prompt=""):
        hand.put(MIDDLE)
        return ""

    def pressed():
        if places:
            hand.put(places.pop(0))
            return False
        return True

    monkeypatch.setattr("builtins.input", answer)
    monkeypatch.setattr(motors_bus, "enter_pressed", pressed)
    monkeypatch.setattr(motors_bus.time, "sleep", lambda seconds: None)
    common = {"port": str(hand.port.link), "id": "arm", "calibration_dir": folder}
    if role == "follower":
        device = SO101Follower(SO101FollowerConfig(**common))
    else:
        device = SO101Leader(SO101LeaderConfig(**common))
    # LeRobot asks once and waits for 50 ms: a machine that stands still for longer is no fault of the servos.
    handler = device.bus.port_handler
    handler.setPacketTimeout = lambda length: handler.setPacketTimeoutMillis(5000)
    device.connect(calibrate=False)
    device.calibrate()
    device.disconnect()


@pytest.mark.parametrize("role", ["follower", "leader"])
def test_file_and_servos_are_what_stock_lerobot_makes(hand, role, tmp_path, monkeypatch):
    ours = tmp_path / "ours"
    path, kept = hand.calibrate(role).commit(ours, "arm", NOW)
    registers = hand.eeprom()
    stock(hand, role, tmp_path / "stock", monkeypatch)
    assert path.read_bytes() == (tmp_path / "stock" / "arm.json").read_bytes()
    assert path == calibration_path(ours, "arm", role)
    assert kept is None
    assert registers == hand.eeprom()
    assert any(values.homing_offset for values in load_calibration(path, role).values())
    assert not any(command.torque for command in hand.bus.commands())


def test_nothing_but_torque_is_written_before_the_commit(hand, tmp_path):
    before = hand.eeprom()
    hand.written.clear()
    hand.bus.registers(2).write(Register.TORQUE_ENABLE, b"\1")
    hand.calibrate("leader")  # and cancelled, or killed, here
    assert hand.written == [(3, Register.TORQUE_ENABLE)]
    assert hand.eeprom() == before
    assert not list(tmp_path.glob("**/*.json"))


def test_the_old_file_is_kept_with_its_date(hand, tmp_path):
    path = target_path(tmp_path, "arm", "leader")
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    new, kept = hand.calibrate("leader").commit(tmp_path, "arm", NOW)
    assert new == path
    assert kept is not None
    assert (kept.name, kept.read_text()) == ("arm.json.2026-11-24T14-26-13", "{}")
    load_calibration(new, "leader")


def test_a_file_that_the_other_arm_uses_too_is_left_to_it(hand, tmp_path):
    shared_file = tmp_path / "arm.json"
    shared_file.write_text("{}")
    new, kept = hand.calibrate("leader").commit(tmp_path, "arm", NOW)
    assert (shared_file.read_text(), kept) == ("{}", None)
    assert calibration_path(tmp_path, "arm", "leader") == new
    assert calibration_path(tmp_path, "arm", "follower") == shared_file
    assert target_path(tmp_path, "arm", "follower") == shared_file  # it is the follower's alone now


def test_joints_that_moved_too_little_are_named(hand, tmp_path):
    def timid():
        for place in movement():
            yield [*place[:3], MIDDLE[3] + (place[3] - MIDDLE[3]) // 10, *place[4:]]

    before = hand.eeprom()
    made = hand.calibrate("leader", timid)
    with pytest.raises(ArmfleetError, match=r"joint 4 \(wrist_flex\) moved only \d+ counts") as caught:
        made.commit(tmp_path, "arm", NOW)
    assert "joint 3" not in str(caught.value)
    assert caught.value.code is ExitCode.CALIBRATION_MISMATCH
    assert hand.eeprom() == before


def test_a_joint_that_did_not_begin_in_its_middle_is_named(hand):
    def far():
        for angle in range(0, 2600, 200):
            yield [MIDDLE[0] + angle, *MIDDLE[1:]]

    faults = hand.calibrate("leader", far).faults()
    assert "joint 1 (shoulder_pan) passed the end of its turn" in faults[0]


def test_a_joint_outside_its_turn_is_refused(hand):
    servo = hand.bus.registers(4)
    assert servo.byte(Register.PHASE) & PHASE_FULL_ANGLE, "as delivered, before LeRobot configures it"
    hand.put(MIDDLE)
    hand.bus.present([ServoReading(5000 if i == 4 else 2000, 0, 0, 0) for i in range(6)])
    with pytest.raises(ArmfleetError, match=r"outside 0\.\.4095: joint 5 \(wrist_roll\) at 5000") as caught:
        Calibrating(Line(str(hand.port.link), "leader"), "leader").begin()
    assert "servos are as they were" in caught.value.kept


def test_silent_and_foreign_servos_are_named(hand):
    hand.port.set_faults(BusFaults(dead=frozenset({2, 6})))
    with pytest.raises(ArmfleetError, match=r"joint 2 \(shoulder_lift\), joint 6 \(gripper\).*do not answer"):
        Calibrating(Line(str(hand.port.link), "leader"), "leader").begin()
    hand.port.set_faults(BusFaults(models={3: 1}))
    with pytest.raises(ArmfleetError, match=r"joint 3 \(elbow_flex\) has model 1"):
        Calibrating(Line(str(hand.port.link), "leader"), "leader").begin()


def test_a_commit_that_fails_half_way_restores_servos_and_keeps_the_file(hand, tmp_path):
    before = hand.eeprom()
    made = hand.calibrate("leader")
    note, left = hand.bus.handle, [20]

    def unplugged_for_a_moment(packet):
        if packet.instruction == Instruction.WRITE and packet.servo_id == 4:
            left[0] -= 1
            if left[0] > 0:
                return b""  # never obeyed
        return note(packet)

    hand.bus.handle = unplugged_for_a_moment
    with pytest.raises(ArmfleetError, match=r"joint 4 \(wrist_flex\)"):
        made.commit(tmp_path, "arm", NOW)
    hand.bus.handle = note
    assert hand.eeprom() == before
    assert not target_path(tmp_path, "arm", "leader").exists()


def test_a_file_that_cannot_be_written_restores_the_servos(hand, tmp_path):
    before = hand.eeprom()
    made = hand.calibrate("leader")
    (tmp_path / "teleoperators").write_text("in the way of a folder")
    with pytest.raises(ArmfleetError, match="can't be written"):
        made.commit(tmp_path, "arm", NOW)
    assert hand.eeprom() == before


def test_a_noisy_line_changes_nothing(hand, tmp_path):
    hand.port.set_faults(BusFaults(corrupt=0.02))
    path, _ = hand.calibrate("leader").commit(tmp_path, "arm", NOW)
    offsets = [values["homing_offset"] for values in json.loads(path.read_text()).values()]
    assert offsets == [count - 2047 for count in MIDDLE]
