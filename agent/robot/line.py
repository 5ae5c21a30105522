"""The six servos behind one port, asked and told through `scservo_sdk` alone: no torch, no LeRobot.

For what must look at an arm or set it up while no control loop runs (`armfleet doctor`, `armfleet
calibrate`). Every transaction starts with an empty input buffer and is repeated a few times, so that a late
or damaged reply is never taken for an answer. Nothing is written unless `write` is called.
"""

import termios
import time
from contextlib import suppress
from enum import Enum
from pathlib import Path

import scservo_sdk
import serial

from agent.robot.joints import label
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode

PORT_ERRORS = (OSError, termios.error, serial.SerialException)
TRIES = 4
PATIENCE_S = 0.8
"""Longest search for an answer, after at least TRIES requests: a busy PC stalls for a third of a second."""
REPLY_MS = 150.0
"""Wait for a reply: stalls of 80 ms are common, and within the SDK's own 34 ms a late one counts as none."""
READ_S = 0.004
"""The SDK asks the port again and again; here each asking sleeps this long, or until bytes come."""
NOISE_S = 0.003
"""After a damaged reply: its rest arrives within this time (250 bytes at 1 Mbaud)."""
SCAN_S = 0.1
"""Listening time after a ping to all ids; six replies of 6 bytes take 0.4 ms at 1 Mbaud."""

POSITION_SIGN, OFFSET_SIGN = 1 << 15, 1 << 11
"""Sign bits of positions and of the homing offset: both are kept as sign and magnitude."""
MAX_OFFSET = OFFSET_SIGN - 1
FULL_ANGLE = 0x10
"""Bit 4 of Phase: positions count on over several turns; cleared by LeRobot when it configures an arm."""


class Register(Enum):
    """Address and length in bytes (Feetech, memory table of the STS series)."""

    FIRMWARE = (0, 2)
    MODEL = (3, 2)
    MIN_POSITION = (9, 2)
    MAX_POSITION = (11, 2)
    MAX_TEMPERATURE = (13, 1)
    MAX_VOLTAGE = (14, 1)
    MIN_VOLTAGE = (15, 1)
    PHASE = (18, 1)
    HOMING_OFFSET = (31, 2)
    OPERATING_MODE = (33, 1)
    TORQUE_ENABLE = (40, 1)
    LOCK = (55, 1)
    PRESENT_POSITION = (56, 2)
    PRESENT_VOLTAGE = (62, 1)
    PRESENT_TEMPERATURE = (63, 1)
    STATUS = (65, 1)
    PRESENT_CURRENT = (69, 2)


_SIGNS = {Register.PRESENT_POSITION: POSITION_SIGN, Register.HOMING_OFFSET: OFFSET_SIGN}


def decode(register: Register, data: bytes) -> int:
    """The value of a register's bytes (little-endian; signed where the servo says so)."""
    raw = int.from_bytes(data, "little")
    sign = _SIGNS.get(register)
    if sign is None:
        return raw
    magnitude = raw & (sign - 1)
    return -magnitude if raw & sign else magnitude


def encode(register: Register, value: int) -> bytes:
    """Inverse of `decode`.

    Raises:
        ValueError: the register can't hold the value.
    """
    length, sign = register.value[1], _SIGNS.get(register)
    if sign is not None:
        if abs(value) >= sign:
            raise ValueError(f"{register.name} can't hold {value}")
        value = abs(value) | (sign if value < 0 else 0)
    return value.to_bytes(length, "little")


class _PatientPort(scservo_sdk.PortHandler):
    """The SDK's port, waiting without burning the processor."""

    def openPort(self) -> bool:
        opened = bool(super().openPort())
        self.ser.timeout = READ_S
        return opened

    def setPacketTimeout(self, packet_length: int) -> None:
        self.setPacketTimeoutMillis(REPLY_MS)


class Line:
    """An open port. Use it as a context manager.

    Args:
        port: Serial device.
        who: How the arm is named in errors, for instance "follower".

    Raises:
        ArmfleetError: PORT_MISSING, it is not there or can't be opened.
    """

    def __init__(self, port: str, who: str) -> None:
        self.port, self.who = port, who
        self.retries = 0
        """Transactions that had to be repeated."""
        self._handler = _PatientPort(port)
        self._packets = scservo_sdk.PacketHandler(0)
        try:
            self._handler.openPort()
        except PORT_ERRORS as error:
            raise _unusable(port, who, error) from error
        time.sleep(NOISE_S)  # the last owner's reply may still be on the line

    def __enter__(self) -> "Line":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the port; never fails."""
        if self._handler.is_open:
            with suppress(*PORT_ERRORS):
                self._handler.closePort()
        self._handler.is_open = False

    # -- asking --------------------------------------------------------------------------------------------

    def read(self, servo: int, register: Register) -> int:
        """One register of one servo (ids from 1).

        Raises:
            ArmfleetError: SERVO_SILENT, or BUS_LOST when the port fails.
        """
        data = self._try(servo, register)
        if data is None:
            raise self._silent(servo)
        return decode(register, data)

    def look(self, servo: int, registers: tuple[Register, ...]) -> dict[Register, int] | None:
        """Several registers of one servo; None if it does not answer. Raises BUS_LOST as `read`."""
        values = {}
        for register in registers:
            if (data := self._try(servo, register)) is None:
                return None
            values[register] = decode(register, data)
        return values

    def scan(self) -> set[int]:
        """Ids that answer a ping to all; a crowded line may lose some, so absence proves nothing."""
        try:
            self._fresh()
            ping = [0xFF, 0xFF, scservo_sdk.BROADCAST_ID, 2, 1, 0]
            self._packets.txPacket(self._handler, ping)
            self._handler.is_using = False
            heard, deadline = b"", time.monotonic() + SCAN_S
            while time.monotonic() < deadline:
                heard += bytes(self._handler.readPort(250))
        except PORT_ERRORS as error:
            raise self._lost(error) from error
        return _pinged(heard)

    # -- telling -------------------------------------------------------------------------------------------

    def write(self, servo: int, register: Register, value: int) -> None:
        """Write one register and read it back.

        Raises:
            ArmfleetError: SERVO_SILENT, BUS_LOST, or the servo holds another value afterwards.
        """
        address, length = register.value
        data = encode(register, value)
        for _ in range(TRIES):
            try:
                self._fresh()
                self._packets.writeTxRx(self._handler, servo, address, length, list(data))
            except IndexError:  # a reply too short for the SDK; reading back tells
                self.retries += 1
            except PORT_ERRORS as error:
                raise self._lost(error) from error
            held = self._try(servo, register)
            if held == data:
                return
            if held is None:
                raise self._silent(servo)
        raise ArmfleetError(
            f"{label(servo - 1)} of the {self.who} did not take {register.name.lower()} = {value}",
            do="take the arm's power off and on, then try again",
            code=ExitCode.SERVO_SILENT,
        )

    # -- inside --------------------------------------------------------------------------------------------

    def _try(self, servo: int, register: Register) -> bytes | None:
        address, length = register.value
        deadline, tries = time.monotonic() + PATIENCE_S, 0
        while tries < TRIES or time.monotonic() < deadline:
            tries += 1
            try:
                self._fresh()
                data, result, _ = self._packets.readTxRx(self._handler, servo, address, length)
            except IndexError:
                data, result = [], scservo_sdk.COMM_RX_CORRUPT
            except PORT_ERRORS as error:
                raise self._lost(error) from error
            if result == scservo_sdk.COMM_SUCCESS and len(data) == length:
                return bytes(data)
            self.retries += 1
            time.sleep(NOISE_S)
        return None

    def _fresh(self) -> None:
        self._handler.ser.reset_input_buffer()
        self._handler.is_using = False

    def _silent(self, servo: int) -> ArmfleetError:
        return ArmfleetError(
            f"{label(servo - 1)} of the {self.who} on {self.port} doesn't answer",
            do=f"check the cable to {label(servo - 1)} and the servo's id, then the power supply",
            code=ExitCode.SERVO_SILENT,
        )

    def _lost(self, error: BaseException) -> ArmfleetError:
        self.close()
        return ArmfleetError(
            f"the {self.who}'s port {self.port} failed ({type(error).__name__}: {error})",
            do="check its USB cable and its power",
            code=ExitCode.BUS_LOST,
        )


def _pinged(heard: bytes) -> set[int]:
    """Ids in the status packets `FF FF id 2 error checksum` of a byte stream; damaged ones are skipped."""
    found, at = set(), 0
    while (at := heard.find(b"\xff\xff", at)) >= 0 and at + 6 <= len(heard):
        body = heard[at + 2 : at + 5]
        if body[1] == 2 and ~sum(body) & 0xFF == heard[at + 5]:
            found.add(body[0])
            at += 6
        else:
            at += 1
    return found


def _unusable(port: str, who: str, error: BaseException) -> ArmfleetError:
    there = Path(port).exists()
    return ArmfleetError(
        f"the {who}'s port {port} {'can not be opened' if there else 'is not there'}"
        + (f" ({error})" if there else ""),
        do="see `armfleet doctor`"
        if there
        else "check cable and power; `ls -l /dev/serial/by-id` lists ports",
        code=ExitCode.PORT_MISSING,
    )
