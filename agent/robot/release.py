"""Hold an arm where it is, then let go of it, with `scservo_sdk` alone.

For when the process that owned the port is dead: no torch, no LeRobot, no calibration, under two seconds.

    python -m agent.robot.release /dev/ttyACM0
"""

import argparse
import sys
import termios
import time
from collections.abc import Iterable
from pathlib import Path

import scservo_sdk
import serial

from agent.robot.joints import JOINTS, label
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode

# Registers of the STS3215 (Feetech memory table): address, length in bytes.
TORQUE_ENABLE, GOAL_POSITION, PRESENT_POSITION = 40, 42, 56
HOLD_S = 0.5
LIMIT_S = 1.8
"""The promise is two seconds; what is left is for starting Python."""
SETTLE_S = 0.03
"""A reply to the dead owner's last request may still be on the line."""
HOLD_TRIES, RELEASE_ROUNDS = 3, 12
"""Holding is best effort. Releasing goes round all servos that have not confirmed: a silent one delays no
other, and three replies in ten may be damaged (0.3^12 per servo)."""

PORT_ERRORS = (OSError, termios.error, serial.SerialException)


class _Line:
    """The six servos behind one port; every call is best effort until `deadline`."""

    def __init__(self, port: str, deadline: float) -> None:
        self.deadline = deadline
        self.port = scservo_sdk.PortHandler(port)
        self.packets = scservo_sdk.PacketHandler(0)
        self.port.openPort()
        time.sleep(SETTLE_S)
        self.port.ser.reset_input_buffer()

    def hold(self, servo: int) -> bool:
        """Make the present position the goal; False if the servo does not answer."""
        for _ in range(HOLD_TRIES):
            if not self._ready():
                return False
            value, result, _ = self.packets.read2ByteTxRx(self.port, servo, PRESENT_POSITION)
            if result == scservo_sdk.COMM_SUCCESS:
                result, _ = self.packets.write2ByteTxRx(self.port, servo, GOAL_POSITION, value)
            if result == scservo_sdk.COMM_SUCCESS:
                return True
        return False

    def let_go(self, servos: Iterable[int]) -> list[int]:
        """Switch torque off and read it back; returns the servos for which that could not be confirmed."""
        stiff = list(servos)
        for _ in range(RELEASE_ROUNDS):
            stiff = [servo for servo in stiff if not (self._ready() and self._lets_go(servo))]
        return stiff

    def _lets_go(self, servo: int) -> bool:
        self.packets.write1ByteTxRx(self.port, servo, TORQUE_ENABLE, 0)
        value, result, _ = self.packets.read1ByteTxRx(self.port, servo, TORQUE_ENABLE)
        return result == scservo_sdk.COMM_SUCCESS and value == 0

    def torque_on(self, servo: int) -> bool:
        value, result, _ = self.packets.read1ByteTxRx(self.port, servo, TORQUE_ENABLE)
        return result != scservo_sdk.COMM_SUCCESS or value != 0

    def let_go_of_all(self) -> None:
        """One packet to all servos, which none answers."""
        self.packets.write1ByteTxOnly(self.port, scservo_sdk.BROADCAST_ID, TORQUE_ENABLE, 0)

    def _ready(self) -> bool:
        """Forget what is left of the last exchange; False after the deadline."""
        if time.monotonic() > self.deadline:
            return False
        self.port.ser.reset_input_buffer()
        self.port.is_using = False
        return True

    def close(self) -> None:
        self.port.closePort()


def release(port: str, hold_s: float = HOLD_S) -> None:
    """Hold for `hold_s` seconds (an arm in motion stops), then switch torque off.

    Raises:
        ArmfleetError: PORT_MISSING, BUS_LOST (unplugged meanwhile) or SERVO_SILENT (torque of a named joint
            could not be confirmed to be off).
    """
    started = time.monotonic()
    if not Path(port).exists():
        raise ArmfleetError(
            f"the arm's port {port} is not there, so torque could not be switched off",
            do="if the arm is stiff, take its power off",
            code=ExitCode.PORT_MISSING,
        )
    servos = range(1, len(JOINTS) + 1)
    try:
        line = _Line(port, started + LIMIT_S)
        try:
            if any([line.torque_on(servo) for servo in servos]):
                for servo in servos:
                    line.hold(servo)
                time.sleep(max(0.0, min(hold_s, started + LIMIT_S / 2 - time.monotonic())))
            line.let_go_of_all()
            stiff = line.let_go(servos)
        finally:
            line.close()
    except PORT_ERRORS as error:
        raise ArmfleetError(
            f"the port {port} failed while torque was being switched off ({error})",
            do="if the arm is stiff, take its power off",
            code=ExitCode.BUS_LOST,
        ) from error
    if stiff:
        names = ", ".join(label(servo - 1) for servo in stiff)
        raise ArmfleetError(
            f"torque of {names} could not be confirmed to be off: no answer",
            do="check the cable of the last joint that answers; if the arm is stiff, take its power off",
            code=ExitCode.SERVO_SILENT,
        )


def main(port: str, hold_s: float = HOLD_S) -> int:
    """`release`, as an exit status; prints one line."""
    try:
        release(port, hold_s)
    except ArmfleetError as error:
        print(error, file=sys.stderr)
        return int(error.code)
    print(f"torque is off at {port}")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port")
    parser.add_argument("--hold-s", type=float, default=HOLD_S)
    options = parser.parse_args()
    sys.exit(main(options.port, options.hold_s))
