"""Calibration files: where LeRobot keeps them, whether they make sense, whether they fit the arm on the port.

Torch-free and LeRobot-free: the daemon and `armfleet doctor` use it too.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from agent.robot.joints import JOINTS, label
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.files import sha256

Role = Literal["follower", "leader"]

LEROBOT_FOLDER: dict[Role, str] = {"follower": "robots/so_follower", "leader": "teleoperators/so_leader"}
"""Below `~/.cache/huggingface/lerobot/calibration`, LeRobot's default."""

SLACK = 60
"""Counts (5 degrees) that a joint may stand outside its calibrated range: play, and hands at the end stop."""

MIN_RANGE = 300
"""Counts (26 degrees); no joint of the arm moves less than that between its stops."""

USUAL_RANGE = {
    "shoulder_pan": 2503,
    "shoulder_lift": 2276,
    "elbow_flex": 2204,
    "wrist_flex": 2162,
    "gripper": 1252,
}
"""Counts between the stops of an SO-101 (joint limits of `so101_new_calib.xml`); wrist_roll has none."""
UNUSUAL = (0.6, 1.4)
"""Shares of USUAL_RANGE outside which a range is worth a second look: a stop was not reached, or passed."""


class JointCalibration(BaseModel):
    """One joint, as LeRobot writes it. Counts of 4096 per turn."""

    model_config = ConfigDict(frozen=True)

    id: int
    drive_mode: int = 0
    homing_offset: int = Field(ge=-2047, le=2047)
    range_min: int = Field(ge=0, le=4095)
    range_max: int = Field(ge=0, le=4095)


Calibration = dict[str, JointCalibration]


def calibration_path(folder: Path, arm_id: str, role: Role) -> Path:
    """`ID.json` in LeRobot's own tree below `folder` where that exists, else `folder/ID.json`."""
    own = folder / LEROBOT_FOLDER[role] / f"{arm_id}.json"
    return own if own.exists() else folder / f"{arm_id}.json"


def target_path(folder: Path, arm_id: str, role: Role) -> Path:
    """Where a new calibration goes: to the file in use, or to LeRobot's own tree below `folder` if there is
    none or the other arm uses the same one."""
    present = calibration_path(folder, arm_id, role)
    other: Role = "leader" if role == "follower" else "follower"
    alone = present.exists() and present != calibration_path(folder, arm_id, other)
    return present if alone else folder / LEROBOT_FOLDER[role] / f"{arm_id}.json"


def to_json(calibration: Calibration) -> str:
    """Contents of a calibration file, byte for byte as LeRobot writes it (draccus, indent 4)."""
    return json.dumps({joint: values.model_dump() for joint, values in calibration.items()}, indent=4)


def unusual_ranges(calibration: Calibration) -> dict[str, float]:
    """Joints whose range is much smaller or larger than an SO-101's, with its share of the usual one."""
    shares = {
        joint: (calibration[joint].range_max - calibration[joint].range_min) / usual
        for joint, usual in USUAL_RANGE.items()
    }
    return {joint: share for joint, share in shares.items() if not UNUSUAL[0] <= share <= UNUSUAL[1]}


def load_calibration(path: Path, role: Role) -> Calibration:
    """Read and check a calibration file.

    Raises:
        ArmfleetError: CALIBRATION_MISMATCH: no file, not LeRobot's format, or values no arm can have.
    """
    advice = f"calibrate the {role}: armfleet calibrate {role}"
    try:
        calibration = TypeAdapter(Calibration).validate_json(path.read_bytes())
    except OSError as error:
        raise _misfit(
            f"there is no calibration of the {role} at {path} ({error.strerror})", advice
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _misfit(f"the calibration {path} can't be used: {where}: {first['msg']}", advice) from error
    if sorted(calibration) != sorted(JOINTS):
        missing = sorted(set(JOINTS) - set(calibration)) or sorted(set(calibration) - set(JOINTS))
        raise _misfit(f"the calibration {path} is of another arm: {', '.join(missing)} differ", advice)
    for joint, values in calibration.items():
        if values.range_max - values.range_min < MIN_RANGE:
            raise _misfit(
                f"{label(joint)} of the {role} has a calibrated range of only "
                f"{values.range_max - values.range_min} counts in {path}",
                advice,
            )
    return calibration


def check_fit(
    calibration: Calibration, positions: Mapping[str, int], offsets: Mapping[str, int], role: Role, path: Path
) -> None:
    """Refuse a calibration in which the arm stands where it can't.

    Args:
        positions: Present positions as the servos report them, counts.
        offsets: Homing offsets stored in the servos now: position = encoder - offset.

    Raises:
        ArmfleetError: CALIBRATION_MISMATCH, naming each joint. Nothing was written to the arm.
    """
    outside = []
    for joint, values in calibration.items():
        position = (positions[joint] + offsets[joint] - values.homing_offset) % 4096
        if not values.range_min - SLACK <= position <= values.range_max + SLACK:
            outside.append(f"{label(joint)} at {position}, range {values.range_min}..{values.range_max}")
    if outside:
        raise _misfit(
            f"the calibration {path} doesn't fit the {role} on this port: {'; '.join(outside)}",
            f"check that leader and follower ports are not swapped, then calibrate the {role} again",
        )


def calibration_digest(paths: list[Path]) -> str:
    """SHA-256 over the values of the files in order; goes with every episode, so that a new calibration
    shows."""
    values = [json.loads(path.read_text()) for path in paths]
    return sha256(json.dumps(values, sort_keys=True).encode())


def _misfit(what: str, do: str) -> ArmfleetError:
    return ArmfleetError(
        what, kept="nothing was written to the arm", do=do, code=ExitCode.CALIBRATION_MISMATCH
    )
