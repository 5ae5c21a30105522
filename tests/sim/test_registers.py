"""A servo's memory: lock, limits, homing offset, protection."""

from hypothesis import given
from hypothesis import strategies as st

from sim.registers import (
    MIDDLE,
    SET_MIDDLE,
    ErrorBit,
    Register,
    ServoRegisters,
    decode_sign_magnitude,
    encode_sign_magnitude,
)


def word(value: int) -> bytes:
    return value.to_bytes(2, "little")


@given(st.integers(-2047, 2047))
def test_sign_magnitude_is_reversible(value: int) -> None:
    assert decode_sign_magnitude(encode_sign_magnitude(value, 11), 11) == value


def test_a_locked_eeprom_write_works_until_the_power_goes() -> None:
    servo = ServoRegisters(1)
    servo.write(Register.MIN_POSITION, word(700))
    assert servo.word(Register.MIN_POSITION) == 700
    servo.power_cycle()
    assert servo.word(Register.MIN_POSITION) == 0


def test_an_unlocked_eeprom_write_survives_the_power_cycle_and_the_lock_returns() -> None:
    servo = ServoRegisters(1)
    servo.write(Register.LOCK, b"\0")
    servo.write(Register.MIN_POSITION, word(700))
    servo.power_cycle()
    assert servo.word(Register.MIN_POSITION) == 700
    assert servo.byte(Register.LOCK) == 1


def test_sram_is_writable_whatever_the_lock_says_and_lost_with_the_power() -> None:
    servo = ServoRegisters(1)
    servo.write(Register.TORQUE_ENABLE, b"\1")
    assert servo.command.torque
    servo.power_cycle()
    assert not servo.command.torque


def test_measurements_are_read_only_on_the_bus() -> None:
    servo = ServoRegisters(1, position_counts=1000)
    servo.write(Register.PRESENT_POSITION, word(5))
    servo.write(Register.MODEL, word(5))
    assert servo.word(Register.PRESENT_POSITION) == 1000
    assert servo.word(Register.MODEL) == 777


@given(st.integers(0, 4095), st.integers(-2047, 2047), st.integers(0, 4095))
def test_the_goal_is_clamped_and_the_offset_is_taken_from_the_position(
    encoder: int, offset: int, goal: int
) -> None:
    servo = ServoRegisters(1, position_counts=encoder, limits=(900, 3000))
    servo.write(Register.PHASE, b"\x0c")  # single turn, as LeRobot configures it
    servo.write(Register.HOMING_OFFSET, word(encode_sign_magnitude(offset, 11)))
    servo.write(Register.GOAL_POSITION, word(goal))
    assert servo.command.goal_counts == min(max(goal, 900), 3000) + offset
    assert servo.word(Register.PRESENT_POSITION) == (encoder - offset) % 4096


def test_set_middle_makes_the_present_position_the_middle_for_good() -> None:
    servo = ServoRegisters(1, position_counts=1234)
    servo.write(Register.TORQUE_ENABLE, bytes([SET_MIDDLE]))
    servo.power_cycle()
    assert servo.word(Register.PRESENT_POSITION) == MIDDLE
    assert not servo.command.torque


def test_an_overloaded_servo_says_so_and_gives_way() -> None:
    servo = ServoRegisters(1)
    servo.write(Register.TORQUE_ENABLE, b"\1")
    servo.set_environment(voltage=5.0, temperature=30, overload=True)
    assert servo.error == servo.byte(Register.STATUS) == ErrorBit.OVERLOAD
    assert not servo.command.torque
    servo.set_environment(voltage=5.0, temperature=30, overload=False)
    assert servo.command.torque


def test_low_voltage_is_reported_but_the_servo_still_holds() -> None:
    servo = ServoRegisters(1)
    servo.write(Register.TORQUE_ENABLE, b"\1")
    servo.set_environment(voltage=3.5, temperature=30, overload=False)
    assert servo.error == ErrorBit.VOLTAGE
    assert servo.byte(Register.PRESENT_VOLTAGE) == 35
    assert servo.command.torque


def test_a_hot_servo_gives_way() -> None:
    servo = ServoRegisters(1)
    servo.write(Register.TORQUE_ENABLE, b"\1")
    servo.set_environment(voltage=5.0, temperature=81, overload=False)
    assert servo.error == ErrorBit.OVERHEAT
    assert not servo.command.torque
