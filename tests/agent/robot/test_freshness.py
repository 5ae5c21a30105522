"""What a tick sees is as old as its oldest part; a frozen camera does not make it young."""

import numpy as np

from agent.robot.cameras import Frame
from agent.robot.freshness import MOVED, Freshness
from agent.robot.loop import Observation


def picture(seed):
    return np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8)


def seen(pan, **frames):
    """`frames`: name -> (picture, when it came)."""
    state = np.array([pan, 0, 0, 0, 0, 50], np.float32)
    shots = {name: Frame(image, 0.0, 0.0, False, at) for name, (image, at) in frames.items()}
    return Observation(0, 0.0, 1 / 30, 0.0, state, None, shots, 0)


def test_without_cameras_it_is_as_new_as_the_state():
    assert Freshness().taken_at(seen(0), 5.0) == 5.0


def test_the_oldest_camera_counts():
    sight = seen(0, front=(picture(1), 4.9), wrist=(picture(2), 4.6))
    assert Freshness().taken_at(sight, 5.0) == 4.6


def test_a_still_arm_before_a_still_scene_is_no_frozen_camera():
    freshness = Freshness()
    for tick in range(90):
        assert freshness.taken_at(seen(tick % 3, front=(picture(1), tick / 30)), 9.0) == tick / 30


def test_a_picture_that_outlives_a_motion_counts_from_when_it_was_new_until_another_comes():
    freshness = Freshness()
    ages = [
        tick / 30 - freshness.taken_at(seen(2.0 * tick, front=(picture(1), tick / 30)), tick / 30)
        for tick in range(20)
    ]
    moved = int(MOVED / 2) + 1
    assert ages[:moved] == [0.0] * moved
    assert ages[moved:] == [tick / 30 for tick in range(moved, 20)]
    assert freshness.taken_at(seen(0.0, front=(picture(1), 0.7)), 0.7) == 0.0, "also when it moves back"
    assert freshness.taken_at(seen(0.0, front=(picture(2), 0.8)), 0.8) == 0.8
