"""The six joints of an SO-101 and the three languages their positions are spoken in.

*Counts* are what the servos know (4096 a turn), *units* are what LeRobot's drivers hand to a policy with
`use_degrees=True` (degrees; the gripper 0 closed .. 100 open), *radians* are what the physics knows. The
formulas are those of `lerobot.motors.motors_bus.MotorsBus._normalize` and `_unnormalize` (the driver divides
a turn into 4095 steps where the servo has 4096: the 0.02 % between the two is kept, as on a real arm).
"""

import json
import math
from dataclasses import dataclass

import numpy as np

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
"""LeRobot's order; servo ids are 1..6 in the same order."""

COUNTS_PER_TURN = 4096
CENTER = 2048
"""The count at zero radians: the middle of the turn, where LeRobot's homing puts it."""

GRIPPER = 5
_DRIVER_STEPS = COUNTS_PER_TURN - 1
_RADIANS_PER_COUNT = 2 * math.pi / COUNTS_PER_TURN

_LIMITS = (1.9199, 1.7453, 1.6900, 1.6581, 2.7438)
"""Half the range in radians of the first five joints (`so101_new_calib.xml`; wrist_roll's smaller side)."""
_GRIPPER_LIMITS = (-0.174533, 1.745329)


def _counts(radians: float) -> int:
    return CENTER + round(radians / _RADIANS_PER_COUNT)


@dataclass(frozen=True)
class JointMap:
    """Calibration of one arm: the ranges in counts, homing offset 0 and drive mode 0 for every joint.

    All conversions take and return arrays of shape (..., 6) in the order of `JOINTS`.
    """

    range_min: tuple[int, ...] = (*(_counts(-limit) for limit in _LIMITS), _counts(_GRIPPER_LIMITS[0]))
    range_max: tuple[int, ...] = (*(_counts(limit) for limit in _LIMITS), _counts(_GRIPPER_LIMITS[1]))

    @property
    def _middle(self) -> np.ndarray:
        return (np.array(self.range_min) + np.array(self.range_max)) / 2

    def units_to_counts(self, units: np.ndarray) -> np.ndarray:
        """Goal counts (int64) as the driver would write them: the gripper clipped to 0..100, cut off, not
        rounded."""
        units = np.asarray(units, np.float64)
        counts = units * _DRIVER_STEPS / 360 + self._middle
        low, high = self.range_min[GRIPPER], self.range_max[GRIPPER]
        counts[..., GRIPPER] = np.clip(units[..., GRIPPER], 0, 100) / 100 * (high - low) + low
        return counts.astype(np.int64)

    def counts_to_units(self, counts: np.ndarray) -> np.ndarray:
        """Units (float64) as the driver would read them: the gripper clipped to its range."""
        counts = np.asarray(counts, np.float64)
        units = (counts - self._middle) * 360 / _DRIVER_STEPS
        low, high = self.range_min[GRIPPER], self.range_max[GRIPPER]
        units[..., GRIPPER] = (np.clip(counts[..., GRIPPER], low, high) - low) / (high - low) * 100
        return units

    def counts_to_radians(self, counts: np.ndarray) -> np.ndarray:
        """Joint angles (float64) of servo counts."""
        return (np.asarray(counts, np.float64) - CENTER) * _RADIANS_PER_COUNT

    def radians_to_counts(self, radians: np.ndarray) -> np.ndarray:
        """What the magnetic encoders report (int64): the nearest count."""
        return np.rint(np.asarray(radians, np.float64) / _RADIANS_PER_COUNT).astype(np.int64) + CENTER

    def units_to_radians(self, units: np.ndarray) -> np.ndarray:
        """Joint angles (float64) without the rounding to counts."""
        units = np.asarray(units, np.float64)
        counts = units * _DRIVER_STEPS / 360 + self._middle
        low, high = self.range_min[GRIPPER], self.range_max[GRIPPER]
        counts[..., GRIPPER] = units[..., GRIPPER] / 100 * (high - low) + low
        return self.counts_to_radians(counts)

    def radians_to_units(self, radians: np.ndarray) -> np.ndarray:
        """Units (float64) without the rounding to counts."""
        return self.counts_to_units(np.asarray(radians, np.float64) / _RADIANS_PER_COUNT + CENTER)

    def calibration(self) -> dict[str, dict[str, int]]:
        """The arm's calibration as LeRobot stores it; leader and follower share it."""
        return {
            name: {
                "id": index + 1,
                "drive_mode": 0,
                "homing_offset": 0,
                "range_min": self.range_min[index],
                "range_max": self.range_max[index],
            }
            for index, name in enumerate(JOINTS)
        }

    def calibration_json(self) -> str:
        """Contents of LeRobot's calibration file."""
        return json.dumps(self.calibration(), indent=4)
