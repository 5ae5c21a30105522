"""The register file of one Feetech STS3215 servo.

Addresses and power-on values are those of the STS series' memory table (Feetech, "STS servo memory table
analysis"; in LeRobot: `lerobot.motors.feetech.tables.STS_SMS_SERIES_CONTROL_TABLE`). Two-byte values are
little-endian, signed ones in sign-magnitude form. Nothing here touches a port or a clock.

What matters for software that calibrates an arm is the *lock* (register 55): addresses below 40 are EEPROM. A
write to them always takes effect at once, but survives a power cycle only if the lock was 0 at the time.

Torque_Enable leaves the goal alone: a servo whose torque returns drives to the goal it had. Whether firmware
3.10 does this is not documented; software that survives this reading survives the other one too.
"""

from dataclasses import dataclass
from enum import IntEnum

from sim.joints import COUNTS_PER_TURN
from sim.servo import ServoReading

REGISTER_COUNT = 128
EEPROM_END = 40  # addresses below are EEPROM
MODEL_STS3215 = 777
FIRMWARE = (3, 10)
SET_MIDDLE = 128  # written to Torque_Enable: make the present position 2048
MIDDLE = 2048
PHASE_FULL_ANGLE = 0x10  # Phase bit 4: report the full angle, not the position within one turn

POSITION_SIGN_BIT = 15
OFFSET_SIGN_BIT = 11
LOAD_SIGN_BIT = 10
MAX_OFFSET = (1 << OFFSET_SIGN_BIT) - 1

MOVING_COUNTS_PER_S = 5


class Register(IntEnum):
    """Addresses used by LeRobot's drivers or by the arm's health checks."""

    FIRMWARE_MAJOR = 0
    FIRMWARE_MINOR = 1
    MODEL = 3
    ID = 5
    RETURN_DELAY = 7
    RESPONSE_LEVEL = 8
    MIN_POSITION = 9
    MAX_POSITION = 11
    MAX_TEMPERATURE = 13
    MAX_VOLTAGE = 14
    MIN_VOLTAGE = 15
    MAX_TORQUE = 16
    PHASE = 18
    UNLOADING_CONDITION = 19
    LED_CONDITION = 20
    P_COEFFICIENT = 21
    D_COEFFICIENT = 22
    I_COEFFICIENT = 23
    STARTUP_FORCE = 24
    CW_DEAD_ZONE = 26
    CCW_DEAD_ZONE = 27
    PROTECTION_CURRENT = 28
    ANGULAR_RESOLUTION = 30
    HOMING_OFFSET = 31
    OPERATING_MODE = 33
    PROTECTIVE_TORQUE = 34
    PROTECTION_TIME = 35
    OVERLOAD_TORQUE = 36
    TORQUE_ENABLE = 40
    ACCELERATION = 41
    GOAL_POSITION = 42
    GOAL_TIME = 44
    GOAL_VELOCITY = 46
    TORQUE_LIMIT = 48
    LOCK = 55
    PRESENT_POSITION = 56
    PRESENT_VELOCITY = 58
    PRESENT_LOAD = 60
    PRESENT_VOLTAGE = 62
    PRESENT_TEMPERATURE = 63
    STATUS = 65
    MOVING = 66
    PRESENT_CURRENT = 69
    MAX_ACCELERATION = 85


class ErrorBit(IntEnum):
    """Bits of the status register (65) and of the error byte in every reply."""

    VOLTAGE = 1
    ANGLE = 2
    OVERHEAT = 4
    OVERCURRENT = 8
    OVERLOAD = 32


READ_ONLY = frozenset(range(5)) | frozenset(range(Register.PRESENT_POSITION, 75))

_POWER_ON_BYTES = {
    Register.RETURN_DELAY: 250,
    Register.RESPONSE_LEVEL: 1,
    Register.MAX_TEMPERATURE: 70,
    Register.MAX_VOLTAGE: 80,
    Register.MIN_VOLTAGE: 40,
    Register.PHASE: 12 | PHASE_FULL_ANGLE,
    Register.UNLOADING_CONDITION: 44,
    Register.LED_CONDITION: 47,
    Register.P_COEFFICIENT: 32,
    Register.D_COEFFICIENT: 32,
    Register.CW_DEAD_ZONE: 1,
    Register.CCW_DEAD_ZONE: 1,
    Register.ANGULAR_RESOLUTION: 1,
    Register.PROTECTIVE_TORQUE: 20,
    Register.PROTECTION_TIME: 200,
    Register.OVERLOAD_TORQUE: 80,
    Register.LOCK: 1,
    Register.PRESENT_VOLTAGE: 50,  # 5.0 V: the supply of the SO-101 kit's 7.4 V servos
    Register.PRESENT_TEMPERATURE: 30,
    Register.MAX_ACCELERATION: 150,
}
_POWER_ON_WORDS = {
    Register.MAX_TORQUE: 1000,
    Register.STARTUP_FORCE: 16,
    Register.PROTECTION_CURRENT: 500,
    Register.TORQUE_LIMIT: 1000,
}


def encode_sign_magnitude(value: int, sign_bit: int) -> int:
    """Integer to the servo's form: magnitude (clipped) below `sign_bit`, the sign in it."""
    magnitude = min(abs(value), (1 << sign_bit) - 1)
    return magnitude | (1 << sign_bit) if value < 0 else magnitude


def decode_sign_magnitude(raw: int, sign_bit: int) -> int:
    """Inverse of `encode_sign_magnitude`."""
    magnitude = raw & ((1 << sign_bit) - 1)
    return -magnitude if raw & (1 << sign_bit) else magnitude


@dataclass(frozen=True)
class Command:
    """What a servo is told to do. Positions in encoder counts *before* the homing offset."""

    torque: bool
    goal_counts: int
    acceleration: int  # register 41, in units of 100 counts/s^2; 0 = unlimited
    velocity: int  # register 46, counts/s; 0 = unlimited
    torque_limit: float  # fraction of the stall torque, 0..1


class ServoRegisters:
    """One servo's memory. `write` and `read` are what the bus does to it, `present` what the physics does.

    Args:
        servo_id: bus address.
        position_counts: encoder position at power-on, counts.
        limits: stored minimum and maximum position (counts), as a calibration leaves them.
    """

    def __init__(
        self, servo_id: int, position_counts: int = MIDDLE, limits: tuple[int, int] = (0, 4095)
    ) -> None:
        self._memory = bytearray(REGISTER_COUNT)
        self._encoder = position_counts
        self._errors = 0
        self._load: int | None = None
        for address, value in _POWER_ON_BYTES.items():
            self._memory[address] = value
        for address, value in _POWER_ON_WORDS.items():
            self._set_word(address, value)
        self._memory[Register.FIRMWARE_MAJOR], self._memory[Register.FIRMWARE_MINOR] = FIRMWARE
        self._set_word(Register.MODEL, MODEL_STS3215)
        self._memory[Register.ID] = servo_id
        self._set_word(Register.MIN_POSITION, limits[0])
        self._set_word(Register.MAX_POSITION, limits[1])
        self._eeprom = bytes(self._memory[:EEPROM_END])
        self._refresh_position()
        self._set_word(Register.GOAL_POSITION, self.word(Register.PRESENT_POSITION))

    # -- what the bus does ---------------------------------------------------------------------------------

    def read(self, address: int, length: int) -> bytes:
        """`length` bytes from `address`; bytes outside the memory read as 0."""
        return bytes(self._memory[address : address + length]).ljust(length, b"\0")

    def write(self, address: int, data: bytes) -> None:
        """What a bus master writes: read-only bytes are ignored, the lock decides what is kept."""
        unlocked = self._memory[Register.LOCK] == 0
        eeprom = bytearray(self._eeprom)
        for at, value in enumerate(data, start=address):
            if at >= REGISTER_COUNT or at in READ_ONLY:
                continue
            self._memory[at] = value
            if at < EEPROM_END and unlocked:
                eeprom[at] = value
        self._eeprom = bytes(eeprom)
        if self._memory[Register.TORQUE_ENABLE] == SET_MIDDLE:
            self._set_middle()
        self._refresh_position()

    def power_cycle(self) -> None:
        """Off and on again: EEPROM values return, torque is off, the goal is where the servo stands."""
        self._memory[:EEPROM_END] = self._eeprom
        self._memory[Register.TORQUE_ENABLE] = 0
        self._memory[Register.LOCK] = 1
        self._memory[Register.ACCELERATION] = 0
        self._set_word(Register.GOAL_VELOCITY, 0)
        self._set_word(Register.TORQUE_LIMIT, self.word(Register.MAX_TORQUE))
        self._refresh_position()
        self._set_word(Register.GOAL_POSITION, self.word(Register.PRESENT_POSITION))

    # -- what the physics does -----------------------------------------------------------------------------

    @property
    def command(self) -> Command:
        """Goal and limits as the firmware uses them: the goal is clamped to the position limits; an
        overloaded or overheated servo gives way (its unloading condition) whatever Torque_Enable says."""
        goal = decode_sign_magnitude(self.word(Register.GOAL_POSITION), POSITION_SIGN_BIT)
        low, high = self.word(Register.MIN_POSITION), self.word(Register.MAX_POSITION)
        if high > low:
            goal = min(max(goal, low), high)
        gives_way = self._errors & self._memory[Register.UNLOADING_CONDITION]
        return Command(
            torque=self._memory[Register.TORQUE_ENABLE] == 1 and not gives_way,
            goal_counts=goal + self.offset,
            acceleration=self._memory[Register.ACCELERATION],
            velocity=self.word(Register.GOAL_VELOCITY),
            torque_limit=min(self.word(Register.TORQUE_LIMIT), self.word(Register.MAX_TORQUE)) / 1000,
        )

    def present(self, reading: ServoReading) -> None:
        """New measurements."""
        self._encoder = reading.position
        self._refresh_position()
        velocity = encode_sign_magnitude(reading.velocity, POSITION_SIGN_BIT)
        self._set_word(Register.PRESENT_VELOCITY, velocity)
        load = reading.load if self._load is None else self._load
        self._set_word(Register.PRESENT_LOAD, encode_sign_magnitude(load, LOAD_SIGN_BIT))
        self._set_word(Register.PRESENT_CURRENT, reading.current)
        self._memory[Register.MOVING] = int(abs(reading.velocity) > MOVING_COUNTS_PER_S)

    def set_environment(
        self,
        voltage: float,
        temperature: float,
        overload: bool,
        *,
        voltage_limit: float = 8.0,
        errors: int = 0,
        load: int | None = None,
    ) -> None:
        """What surrounds the servo; sets the error bits.

        Args:
            voltage: Supply, volt.
            temperature: Of the case, degrees C.
            overload: The overload protection has tripped.
            voltage_limit: Register 14, volt.
            errors: Further `ErrorBit`s.
            load: What register 60 says instead of the measured load, permille.
        """
        self._memory[Register.MAX_VOLTAGE] = round(voltage_limit * 10)
        self._memory[Register.PRESENT_VOLTAGE] = max(0, min(255, round(voltage * 10)))
        self._memory[Register.PRESENT_TEMPERATURE] = max(0, min(255, round(temperature)))
        tenths = self._memory[Register.PRESENT_VOLTAGE]
        errors |= ErrorBit.OVERLOAD if overload else 0
        if not self._memory[Register.MIN_VOLTAGE] <= tenths <= self._memory[Register.MAX_VOLTAGE]:
            errors |= ErrorBit.VOLTAGE
        if temperature > self._memory[Register.MAX_TEMPERATURE]:
            errors |= ErrorBit.OVERHEAT
        self._errors = self._memory[Register.STATUS] = int(errors)
        self._load = load
        if load is not None:
            self._set_word(Register.PRESENT_LOAD, encode_sign_magnitude(load, LOAD_SIGN_BIT))

    def set_identity(self, model: int, firmware: tuple[int, int]) -> None:
        """What the servo claims to be (read-only over the bus)."""
        self._set_word(Register.MODEL, model)
        self._memory[Register.FIRMWARE_MAJOR], self._memory[Register.FIRMWARE_MINOR] = firmware

    # -- reading it directly -------------------------------------------------------------------------------

    @property
    def error(self) -> int:
        """Error byte of every reply (`ErrorBit`s)."""
        return self._errors

    @property
    def offset(self) -> int:
        """Homing offset in counts: present position = encoder - offset."""
        return decode_sign_magnitude(self.word(Register.HOMING_OFFSET), OFFSET_SIGN_BIT)

    def byte(self, address: int) -> int:
        """One register."""
        return self._memory[address]

    def word(self, address: int) -> int:
        """Two registers as an unsigned little-endian number."""
        return self._memory[address] | self._memory[address + 1] << 8

    def _set_word(self, address: int, value: int) -> None:
        self._memory[address], self._memory[address + 1] = value & 0xFF, value >> 8 & 0xFF

    def _set_middle(self) -> None:
        """Torque_Enable = 128: choose the offset that makes the present position the middle of the turn."""
        offset = max(-MAX_OFFSET, min(MAX_OFFSET, self._encoder - MIDDLE))
        self._set_word(Register.HOMING_OFFSET, encode_sign_magnitude(offset, OFFSET_SIGN_BIT))
        self._eeprom = bytes(self._memory[:EEPROM_END])
        self._memory[Register.TORQUE_ENABLE] = 0

    def _refresh_position(self) -> None:
        position = self._encoder - self.offset
        if not self._memory[Register.PHASE] & PHASE_FULL_ANGLE:
            position %= COUNTS_PER_TURN
        self._set_word(Register.PRESENT_POSITION, encode_sign_magnitude(position, POSITION_SIGN_BIT))
