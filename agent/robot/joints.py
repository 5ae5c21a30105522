"""The six joints of an SO-100/SO-101, in LeRobot's order; arrays of joint values follow it everywhere.

Units are those of LeRobot's drivers with `use_degrees=True`: degrees, zero in the middle of the calibrated
range, and 0..100 for the gripper.
"""

from collections.abc import Mapping

import numpy as np

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
GRIPPER = JOINTS.index("gripper")
POSITION_KEYS = tuple(f"{joint}.pos" for joint in JOINTS)

FULL_TURN = 4095
"""Encoder counts of one turn as LeRobot's normalisation has it (resolution 4096 minus one)."""


def to_array(values: Mapping[str, float]) -> np.ndarray:
    """`{"shoulder_pan.pos": …}` -> (6,) float32."""
    return np.array([values[key] for key in POSITION_KEYS], dtype=np.float32)


def to_action(units: np.ndarray) -> dict[str, float]:
    """(6,) -> `{"shoulder_pan.pos": …}`, as `send_action` takes it."""
    return {key: float(value) for key, value in zip(POSITION_KEYS, units, strict=True)}


def listed(units: np.ndarray) -> list[float]:
    """(6,) units for JSON, to two decimals."""
    return [round(float(value), 2) for value in units]


def label(joint: int | str) -> str:
    """How a joint is named to people: "joint 6 (gripper)"; ids count from 1."""
    index = JOINTS.index(joint) if isinstance(joint, str) else joint
    return f"joint {index + 1} ({JOINTS[index]})"
