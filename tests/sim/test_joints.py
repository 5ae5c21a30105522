"""Counts, units and radians say the same; the formulas are the driver's."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sim.joints import COUNTS_PER_TURN, GRIPPER, JOINTS, JointMap

JOINT_MAP = JointMap()
SHARES = hnp.arrays(np.float64, 6, elements=st.floats(0, 1))


def counts_at(shares: np.ndarray) -> np.ndarray:
    low, high = np.array(JOINT_MAP.range_min), np.array(JOINT_MAP.range_max)
    return np.rint(low + shares * (high - low)).astype(np.int64)


@given(SHARES)
def test_a_position_that_is_read_and_commanded_again_moves_at_most_one_count(shares: np.ndarray) -> None:
    counts = counts_at(shares)
    again = JOINT_MAP.units_to_counts(JOINT_MAP.counts_to_units(counts))
    assert np.abs(again - counts).max() <= 1  # the driver cuts off


@given(SHARES)
def test_radians_and_units_are_inverse(shares: np.ndarray) -> None:
    units = JOINT_MAP.counts_to_units(counts_at(shares))
    np.testing.assert_allclose(
        JOINT_MAP.radians_to_units(JOINT_MAP.units_to_radians(units)), units, atol=1e-9
    )


@given(SHARES)
def test_encoders_are_exact_at_their_steps(shares: np.ndarray) -> None:
    counts = counts_at(shares)
    np.testing.assert_array_equal(JOINT_MAP.radians_to_counts(JOINT_MAP.counts_to_radians(counts)), counts)


def test_the_middle_of_every_joint_is_zero_degrees() -> None:
    units = JOINT_MAP.counts_to_units(np.full(6, COUNTS_PER_TURN // 2))
    np.testing.assert_allclose(units[:GRIPPER], 0)


@pytest.mark.parametrize(("percent", "end"), [(-20.0, "range_min"), (0.0, "range_min"), (130.0, "range_max")])
def test_the_gripper_is_clipped_to_its_range(percent: float, end: str) -> None:
    units = np.zeros(6)
    units[GRIPPER] = percent
    assert JOINT_MAP.units_to_counts(units)[GRIPPER] == getattr(JOINT_MAP, end)[GRIPPER]


def test_the_calibration_file_is_what_the_driver_stores() -> None:
    stored = json.loads(JOINT_MAP.calibration_json())
    assert list(stored) == list(JOINTS)
    assert [entry["id"] for entry in stored.values()] == [1, 2, 3, 4, 5, 6]
    assert set(stored["gripper"]) == {"id", "drive_mode", "homing_offset", "range_min", "range_max"}
    assert all(0 <= entry["range_min"] < entry["range_max"] < COUNTS_PER_TURN for entry in stored.values())


def test_the_formulas_are_those_of_the_driver() -> None:
    lerobot = pytest.importorskip("lerobot.robots.so_follower")
    from lerobot.motors import MotorCalibration

    config = lerobot.SO101FollowerConfig(port="unused", use_degrees=True)
    bus = lerobot.SO101Follower(config).bus
    bus.calibration = {name: MotorCalibration(**entry) for name, entry in JOINT_MAP.calibration().items()}
    counts = counts_at(np.array([0.1, 0.35, 0.5, 0.61, 0.99, 0.2]))
    driver = bus._normalize(dict(enumerate(counts.tolist(), start=1)))
    np.testing.assert_allclose(JOINT_MAP.counts_to_units(counts), list(driver.values()))
    goals = np.array([12.3, -45.6, 78.9, -10.1, 0.05, 33.3])
    driver_goals = bus._unnormalize(dict(enumerate(goals.tolist(), start=1)))
    np.testing.assert_array_equal(JOINT_MAP.units_to_counts(goals), list(driver_goals.values()))
