"""The emulated bus against LeRobot's unmodified driver, and each fault as that driver sees it."""

import os
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lerobot.motors import Motor, MotorCalibration, MotorNormMode
from lerobot.motors.feetech import FeetechMotorsBus

from sim.bus import BusPort, ServoBus
from sim.faults import BusFaults
from sim.packets import Instruction, Packet, encode_instruction, encode_status
from sim.registers import Register
from sim.servo import ServoReading

NAMES = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
POSITIONS = (2000, 2100, 2200, 1900, 2047, 1500)


@pytest.fixture
def port(tmp_path: Path) -> Iterator[BusPort]:
    port = BusPort(ServoBus(POSITIONS), tmp_path / "ttyARM")
    port.plug()
    yield port
    port.unplug()


def driver_for(port: BusPort) -> FeetechMotorsBus:
    motors = {name: Motor(i, "sts3215", MotorNormMode.DEGREES) for i, name in enumerate(NAMES, start=1)}
    calibration = {name: MotorCalibration(i, 0, 0, 0, 4095) for i, name in enumerate(NAMES, start=1)}
    return FeetechMotorsBus(str(port.link), motors, calibration)


@pytest.fixture
def driver(port: BusPort) -> Iterator[FeetechMotorsBus]:
    driver = driver_for(port)
    driver.connect()
    yield driver
    driver.port_handler.closePort()


def standing_at(counts: int) -> list[ServoReading]:
    return [ServoReading(counts, 0, 0, 0)] * 6


def positions(driver: FeetechMotorsBus) -> list[int]:
    return [int(v) for v in driver.sync_read("Present_Position", normalize=False).values()]


def test_the_driver_connects_reads_and_moves(port: BusPort, driver: FeetechMotorsBus) -> None:
    assert positions(driver) == list(POSITIONS)
    driver.configure_motors()
    driver.enable_torque()
    driver.sync_write("Goal_Position", dict.fromkeys(NAMES, 2500), normalize=False)
    driver.read("Present_Position", "gripper")  # the line is serial: the write before it has been obeyed
    commands = port.bus.commands()
    assert all(command.torque for command in commands)
    assert [command.goal_counts for command in commands] == [2500] * 6
    assert port.bus.registers(0).byte(Register.ACCELERATION) == 254


def test_measurements_reach_the_driver(port: BusPort, driver: FeetechMotorsBus) -> None:
    port.bus.present([ServoReading(1000 + 100 * i, velocity=-50, load=250, current=40) for i in range(6)])
    assert positions(driver) == [1000, 1100, 1200, 1300, 1400, 1500]
    assert driver.read("Present_Velocity", "gripper") == -50
    assert driver.read("Present_Load", "gripper") == 250
    assert driver.read("Moving", "gripper") == 1
    assert driver.read("Present_Current", "gripper") == 40


def test_negative_positions_of_the_full_angle_mode(port: BusPort, driver: FeetechMotorsBus) -> None:
    port.bus.present(standing_at(-7))
    assert positions(driver) == [-7] * 6
    driver.configure_motors()  # clears the full angle mode
    assert positions(driver) == [4089] * 6


def test_a_half_turn_homing_survives_the_power_cycle(port: BusPort, driver: FeetechMotorsBus) -> None:
    driver.disable_torque()  # unlocks the EEPROM too
    driver.set_half_turn_homings()
    port.bus.power_cycle()
    assert positions(driver) == [2047] * 6


def test_a_calibration_written_to_a_locked_servo_is_gone_after_the_power_cycle(
    port: BusPort, driver: FeetechMotorsBus
) -> None:
    driver.enable_torque()  # locks the EEPROM
    wanted = {name: MotorCalibration(i, 0, 5, 900, 3000) for i, name in enumerate(NAMES, start=1)}
    driver.write_calibration(wanted)
    assert driver.is_calibrated
    port.bus.power_cycle()
    assert not driver.is_calibrated


def test_dead_servos_are_named(port: BusPort) -> None:
    port.set_faults(BusFaults(dead=frozenset({2, 5})))
    driver = driver_for(port)
    with pytest.raises(RuntimeError, match=r"Missing motor IDs:\s+- 2 .*\s+- 5 "):
        driver.connect()
    driver.port_handler.closePort()


def test_a_wrong_model_is_named(port: BusPort) -> None:
    port.set_faults(BusFaults(models={3: 2825}))
    driver = driver_for(port)
    with pytest.raises(RuntimeError, match="expected 777, found 2825"):
        driver.connect()
    driver.port_handler.closePort()


def test_mixed_firmware_is_refused(port: BusPort) -> None:
    port.set_faults(BusFaults(firmware={6: (3, 9)}))
    driver = driver_for(port)
    with pytest.raises(RuntimeError, match="different firmware"):
        driver.connect()
    driver.port_handler.closePort()


def test_a_silent_bus_still_obeys(port: BusPort, driver: FeetechMotorsBus) -> None:
    port.set_faults(BusFaults(silent=True))
    with pytest.raises(ConnectionError):
        positions(driver)
    driver.sync_write("Goal_Position", dict.fromkeys(NAMES, 1234), normalize=False)
    port.set_faults(BusFaults())
    driver.read("Present_Position", "gripper")
    assert port.bus.commands()[0].goal_counts == 1234


def test_corrupt_replies_are_noticed_and_cured_by_a_retry(port: BusPort, driver: FeetechMotorsBus) -> None:
    port.set_faults(BusFaults(corrupt=1.0))
    with pytest.raises(ConnectionError, match="Incorrect status packet"):
        driver.read("Present_Position", "gripper")
    port.set_faults(BusFaults())
    driver.port_handler.ser.reset_input_buffer()
    assert positions(driver) == list(POSITIONS)


def test_late_replies_make_the_next_observation_stale_until_the_buffer_is_cleared(
    port: BusPort, driver: FeetechMotorsBus
) -> None:
    port.set_faults(BusFaults(delay_s=0.08))  # longer than the driver's 50 ms
    with pytest.raises(ConnectionError):
        positions(driver)
    port.set_faults(BusFaults())
    deadline = time.monotonic() + 2
    while driver.port_handler.ser.in_waiting < 6 * 8 and time.monotonic() < deadline:
        time.sleep(0.01)
    port.bus.present(standing_at(3000))
    assert positions(driver) == list(POSITIONS)  # the driver's defect, reproduced
    driver.port_handler.ser.reset_input_buffer()
    assert positions(driver) == [3000] * 6


@pytest.mark.parametrize(
    ("faults", "sentence"),
    [
        (BusFaults(voltage=3.2), "Input voltage error"),
        (BusFaults(overload=frozenset({6})), "Overload error"),
        (BusFaults(temperature={6: 80.0}), "Overheat error"),
    ],
)
def test_the_error_byte_reaches_the_driver(
    port: BusPort, driver: FeetechMotorsBus, faults: BusFaults, sentence: str
) -> None:
    port.set_faults(faults)
    with pytest.raises(RuntimeError, match=sentence):
        driver.write("Torque_Enable", "gripper", 1)
    assert positions(driver) == list(POSITIONS)  # sync_read does not look at it
    assert driver.sync_read("Status", normalize=False)["gripper"] != 0


def test_a_dead_servo_is_limp_and_an_overloaded_one_gives_way(
    port: BusPort, driver: FeetechMotorsBus
) -> None:
    driver.enable_torque()
    port.set_faults(BusFaults(dead=frozenset({1}), overload=frozenset({2})))
    assert [command.torque for command in port.bus.commands()] == [False, False, True, True, True, True]


def test_unplugging_raises_and_keeps_the_torque_and_plugging_in_gives_the_same_name(
    port: BusPort, driver: FeetechMotorsBus
) -> None:
    driver.enable_torque()
    port.set_faults(BusFaults(unplugged=True))
    assert not port.link.exists()
    with pytest.raises((OSError, termios.error)):
        positions(driver)
    assert all(command.torque for command in port.bus.commands())
    port.set_faults(BusFaults())
    again = driver_for(port)
    again.connect()
    assert positions(again) == list(POSITIONS)
    again.disconnect(disable_torque=False)


def test_a_client_that_never_reads_does_not_stop_the_bus(port: BusPort) -> None:
    client = os.open(port.link, os.O_RDWR | os.O_NOCTTY)
    ping = bytes([0xFF, 0xFF, 1, 2, 1, 0xFB])
    for _ in range(3000):
        os.write(client, ping)
    os.write(client, encode_instruction(Packet(1, Instruction.WRITE, bytes([Register.TORQUE_ENABLE, 1]))))
    deadline = time.monotonic() + 5
    while not port.bus.commands()[0].torque and time.monotonic() < deadline:
        time.sleep(0.01)
    os.close(client)
    driver = driver_for(port)
    driver.connect()
    assert positions(driver) == list(POSITIONS)
    driver.disconnect()


def test_a_stalled_line_loses_nothing(port: BusPort, driver: FeetechMotorsBus) -> None:
    port.set_faults(BusFaults(stalls=1.0, stall_s=0.01))
    started = time.monotonic()
    assert positions(driver) == list(POSITIONS)
    assert time.monotonic() - started > 0.01


def test_what_was_told_is_remembered(port: BusPort, driver: FeetechMotorsBus) -> None:
    before = time.time()
    positions(driver)
    told = port.bus.told()[-1]
    assert told.positions == POSITIONS
    assert before <= told.wall <= time.time()


def test_a_12_v_servo_has_another_limit_and_a_load_may_be_given(port: BusPort) -> None:
    servo = port.bus.registers(2)
    port.set_faults(BusFaults(voltage=12.0, voltage_limit=14.0, load={3: -300}, errors={3: 2}))
    assert servo.error == 2
    assert servo.byte(Register.PRESENT_VOLTAGE) == 120
    assert servo.word(Register.PRESENT_LOAD) == 300 | 1 << 10
    port.set_faults(BusFaults(voltage=12.0))
    assert servo.error == 1


def test_broadcasts_and_staged_writes_as_in_the_manual() -> None:
    bus = ServoBus(POSITIONS)
    assert bus.handle(Packet(0xFE, Instruction.PING, b"")) == b"".join(
        encode_status(i, 0) for i in range(1, 7)
    )
    goal = bytes([Register.GOAL_POSITION, 0x00, 0x08])
    assert bus.handle(Packet(1, Instruction.REG_WRITE, goal)) == encode_status(1, 0)
    assert bus.commands()[0].goal_counts == 2000
    assert bus.handle(Packet(0xFE, Instruction.ACTION, b"")) == b""
    assert bus.commands()[0].goal_counts == 0x800
    assert bus.handle(Packet(0xFE, Instruction.WRITE, bytes([Register.TORQUE_ENABLE, 1]))) == b""
    assert all(command.torque for command in bus.commands())


def test_a_changed_id_is_used_at_once() -> None:
    bus = ServoBus(POSITIONS)
    assert bus.handle(Packet(6, Instruction.WRITE, bytes([Register.ID, 9]))) == encode_status(6, 0)
    assert bus.handle(Packet(6, Instruction.PING, b"")) == b""
    assert bus.handle(Packet(9, Instruction.PING, b"")) == encode_status(9, 0)


def test_a_truncated_instruction_is_ignored() -> None:
    bus = ServoBus(POSITIONS)
    for instruction in Instruction:
        bus.handle(Packet(1, instruction, b""))
    assert bus.handle(Packet(1, Instruction.PING, b"")) == encode_status(1, 0)


def test_response_level_zero_silences_writes_only() -> None:
    bus = ServoBus(POSITIONS)
    bus.handle(Packet(1, Instruction.WRITE, bytes([Register.RESPONSE_LEVEL, 0])))
    assert bus.handle(Packet(1, Instruction.WRITE, bytes([Register.TORQUE_ENABLE, 1]))) == b""
    assert bus.handle(Packet(1, Instruction.READ, bytes([Register.TORQUE_ENABLE, 1]))) == encode_status(
        1, 0, b"\1"
    )
