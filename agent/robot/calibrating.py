"""The procedure of a calibration, as LeRobot's drivers have it, without their waiting for keys.

    middle      every joint stands in the middle of its range: its homing offset makes that count 2047
    ranges      every joint but wrist_roll is moved from stop to stop: smallest and largest count
    commit      offsets and ranges go to the servos, then to the file

LeRobot zeroes and rewrites the servos' EEPROM while the person moves the arm. Here the same numbers are
computed from what the servos report, and nothing but torque is written before `commit`: a calibration that is
cancelled, or killed, leaves file and servos as they were. A failing commit restores the servos.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from loguru import logger

from agent.robot.calibration import (
    MIN_RANGE,
    USUAL_RANGE,
    Calibration,
    JointCalibration,
    Role,
    target_path,
    to_json,
)
from agent.robot.joints import FULL_TURN, JOINTS, label
from agent.robot.line import FULL_ANGLE, MAX_OFFSET, Register
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.files import write_atomic

MODEL_STS3215 = 777
TURN = FULL_TURN + 1
HALF_TURN = FULL_TURN // 2
"""Count of a joint in the middle of its range (LeRobot: `_get_half_turn_homings`)."""
FULL_TURN_JOINT = "wrist_roll"
"""Turns without a stop: its range is the whole turn, as LeRobot has it."""
POSITION_MODE = 0

KEPT = (
    Register.OPERATING_MODE,
    Register.PHASE,
    Register.HOMING_OFFSET,
    Register.MIN_POSITION,
    Register.MAX_POSITION,
)
"""What a calibration changes, in the order in which it is written."""


class Servos(Protocol):
    """What the procedure needs of `agent.robot.line.Line`."""

    def read(self, servo: int, register: Register) -> int: ...
    def look(self, servo: int, registers: tuple[Register, ...]) -> dict[Register, int] | None: ...
    def write(self, servo: int, register: Register, value: int) -> None: ...


@dataclass
class JointTrack:
    """How far one joint has been moved, counts of the calibration to be; before `middle` only `position`."""

    position: int
    low: int
    high: int
    passed_end: bool = False
    """It went through the end of the turn: it did not stand in the middle of its range."""

    @property
    def moved(self) -> int:
        """Counts between the extremes."""
        return self.high - self.low

    def see(self, position: int) -> None:
        """A new position; nobody moves a joint by half a turn between two readings."""
        self.passed_end |= abs(position - self.position) > TURN // 2
        self.position = position
        self.low, self.high = min(self.low, position), max(self.high, position)


class Calibrating:
    """One calibration of one arm.

    Args:
        line: The open port.
        role: Which arm.
    """

    def __init__(self, line: Servos, role: Role) -> None:
        self._line, self.role = line, role
        self._before: dict[str, dict[Register, int]] = {}
        self._offsets: dict[str, int] = {}
        self.tracks: dict[str, JointTrack] = {}

    def begin(self) -> None:
        """Look at the servos and switch torque off.

        Raises:
            ArmfleetError: SERVO_SILENT, SERVO_MODEL, BUS_LOST, or CALIBRATION_MISMATCH: a joint has been
            turned beyond its encoder's turn.
        """
        silent, foreign = [], []
        for servo, joint in enumerate(JOINTS, start=1):
            seen = self._line.look(servo, (Register.MODEL, Register.LOCK, *KEPT))
            if seen is None:
                silent.append(joint)
                continue
            if seen[Register.MODEL] != MODEL_STS3215:
                foreign.append(f"{label(joint)} has model {seen[Register.MODEL]}")
            self._before[joint] = seen
        if silent:
            raise self._refused(
                f"{_names(silent)} of the {self.role} {'does' if len(silent) == 1 else 'do'} not answer",
                f"check the cable to {label(silent[0])} and the power supply",
                ExitCode.SERVO_SILENT,
            )
        if foreign:
            what = f"the {self.role} has a servo that is no STS3215: {', '.join(foreign)}"
            raise self._refused(what, "check that the port is that of an SO-100/SO-101", ExitCode.SERVO_MODEL)
        self._check_turn()
        for servo in range(1, len(JOINTS) + 1):
            if self._line.read(servo, Register.TORQUE_ENABLE):
                self._line.write(servo, Register.TORQUE_ENABLE, 0)
        self._look_around()

    @property
    def middle_taken(self) -> bool:
        """The ranges are being recorded."""
        return bool(self._offsets)

    def restart(self) -> None:
        """Forget middle and ranges."""
        self._offsets = {}

    def take_middle(self) -> None:
        """Every joint stands in the middle of its range now.

        Raises:
            ArmfleetError: CALIBRATION_MISMATCH, the encoder of a named joint stands at its end.
        """
        offsets = {joint: position - HALF_TURN for joint, position in self._encoders().items()}
        if too_far := [joint for joint, offset in offsets.items() if abs(offset) > MAX_OFFSET]:
            raise self._refused(
                f"{_names(too_far)}: the encoder is at the end of its turn, out of a homing offset's reach",
                "move the joint a little, then take the middle again",
            )
        self._offsets = offsets
        self.tracks = {joint: JointTrack(HALF_TURN, HALF_TURN, HALF_TURN) for joint in JOINTS}

    def poll(self) -> Mapping[str, JointTrack]:
        """Read all joints once; call it until the person is done."""
        if not self._offsets:
            return self._look_around()
        for joint, position in self._encoders().items():
            self.tracks[joint].see((position - self._offsets[joint]) % TURN)
        return self.tracks

    def faults(self) -> list[str]:
        """What is wrong with the movement so far, a sentence per joint; empty when `commit` may follow."""
        found = []
        for joint in USUAL_RANGE:
            track = self.tracks[joint]
            if track.passed_end:
                found.append(f"{label(joint)} passed the end of its turn: it did not stand in the middle")
            elif track.moved < MIN_RANGE:
                found.append(f"{label(joint)} moved only {track.moved} counts, {MIN_RANGE} are the least")
        return found

    def calibration(self) -> Calibration:
        """The result.

        Raises:
            ArmfleetError: CALIBRATION_MISMATCH, naming each joint that moved too little or too far.
        """
        if not self._offsets or (faults := self.faults()):
            what = "; ".join(faults) if self._offsets else "the middle was not taken"
            raise self._refused(what, "calibrate again, moving every joint from stop to stop")
        return {joint: self._result(servo, joint) for servo, joint in enumerate(JOINTS, start=1)}

    def commit(self, calibration_dir: Path, arm_id: str, now: datetime) -> tuple[Path, Path | None]:
        """Write the servos, then the file.

        Args:
            calibration_dir, arm_id: See `agent.robot.calibration`.
            now: Names the copy of the file that is replaced.

        Returns:
            The new file, and the copy of the old one if there was one.

        Raises:
            ArmfleetError: as `calibration`; SERVO_SILENT, BUS_LOST, or DISK_FULL (the file can't be written):
            the servos got their old values back, or the sentence says which did not.
        """
        calibration = self.calibration()
        path = target_path(calibration_dir, arm_id, self.role)
        try:
            for servo, joint in enumerate(JOINTS, start=1):
                values = calibration[joint]
                phase = self._before[joint][Register.PHASE] & ~FULL_ANGLE
                new = (POSITION_MODE, phase, values.homing_offset, values.range_min, values.range_max)
                self._store(servo, dict(zip(KEPT, new, strict=True)))
                self._line.write(servo, Register.LOCK, 1)
            return path, _replace(path, to_json(calibration), now)
        except BaseException as error:
            self._restore(error)
            raise

    # -- inside --------------------------------------------------------------------------------------------

    def _result(self, servo: int, joint: str) -> JointCalibration:
        track = self.tracks[joint]
        low, high = (0, FULL_TURN) if joint == FULL_TURN_JOINT else (track.low, track.high)
        return JointCalibration(
            id=servo, drive_mode=0, homing_offset=self._offsets[joint], range_min=low, range_max=high
        )

    def _encoders(self) -> dict[str, int]:
        """Where the encoders stand, counts before any homing offset: the servos report encoder - offset."""
        encoders = {}
        for servo, joint in enumerate(JOINTS, start=1):
            position = self._line.read(servo, Register.PRESENT_POSITION)
            encoders[joint] = (position + self._before[joint][Register.HOMING_OFFSET]) % TURN
        return encoders

    def _look_around(self) -> Mapping[str, JointTrack]:
        self.tracks = {joint: JointTrack(count, count, count) for joint, count in self._encoders().items()}
        return self.tracks

    def _check_turn(self) -> None:
        """A servo that counts several turns must stand in the first: the homing offset reaches no further."""
        outside = []
        for servo, joint in enumerate(JOINTS, start=1):
            before = self._before[joint]
            position = self._line.read(servo, Register.PRESENT_POSITION) + before[Register.HOMING_OFFSET]
            if before[Register.PHASE] & FULL_ANGLE and not 0 <= position <= FULL_TURN:
                outside.append(f"{label(joint)} at {position}")
        if outside:
            raise self._refused(
                f"joints of the {self.role} stand outside 0..{FULL_TURN}: {', '.join(outside)}",
                "move them near the middle, take the arm's power off and on, then calibrate",
            )

    def _store(self, servo: int, values: Mapping[Register, int]) -> None:
        self._line.write(
            servo, Register.LOCK, 0
        )  # values written under the lock are gone after a power cycle
        self._line.write(servo, Register.TORQUE_ENABLE, 0)
        for register, value in values.items():
            if self._line.read(servo, register) != value:
                self._line.write(servo, register, value)

    def _restore(self, cause: BaseException) -> None:
        """Give the servos their old values back; raises if one can't be reached."""
        lost = []
        for servo, joint in enumerate(JOINTS, start=1):
            before = self._before[joint]
            try:
                self._store(servo, {register: before[register] for register in KEPT})
                self._line.write(servo, Register.LOCK, before[Register.LOCK])
            except ArmfleetError as error:
                logger.error("{}", error)
                lost.append(joint)
        if lost:
            raise ArmfleetError(
                f"the calibration failed ({cause}) and {_names(lost)} may hold new values now",
                kept="the calibration file is unchanged; whoever connects next writes it to the servos",
                do="check cable and power, then calibrate again",
                code=ExitCode.SERVO_SILENT,
            ) from cause

    def _refused(self, what: str, do: str, code: ExitCode = ExitCode.CALIBRATION_MISMATCH) -> ArmfleetError:
        return ArmfleetError(what, kept="calibration file and servos are as they were", do=do, code=code)


def check_writable(calibration_dir: Path, arm_id: str, role: Role) -> Path:
    """Where the new file will be, asked before anybody moves a joint.

    Raises:
        ArmfleetError: CONFIG_INVALID, it can't be made there.
    """
    path = target_path(calibration_dir, arm_id, role)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = path.with_name(f".{path.name}.probe")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ArmfleetError(
            f"the calibration can't be written to {path.parent} ({error.strerror})",
            kept="calibration file and servos are as they were",
            do="run it as the owner of that folder: sudo -u armfleet armfleet calibrate …",
            code=ExitCode.CONFIG_INVALID,
        ) from error
    return path


def _replace(path: Path, text: str, now: datetime) -> Path | None:
    """Write the file; what was there is kept beside it, with the date."""
    try:
        kept = path.with_name(f"{path.name}.{now:%Y-%m-%dT%H-%M-%S}") if path.exists() else None
        path.parent.mkdir(parents=True, exist_ok=True)
        if kept is not None:
            write_atomic(kept, path.read_bytes())
        write_atomic(path, text)
    except OSError as error:
        raise ArmfleetError(
            f"{path} can't be written ({error.strerror})",
            kept="calibration file and servos are as they were",
            do="make room on the disk and check the folder's owner, then calibrate again",
            code=ExitCode.DISK_FULL,
        ) from error
    return kept


def _names(joints: list[str]) -> str:
    return ", ".join(label(joint) for joint in joints)
