"""The one arm that both clocks drive."""

import numpy as np
import pytest

from sim.kinematics import Kinematics
from sim.plant import Plant, start_pose
from sim.tasks import Task, draw_scene

SCENE = draw_scene(1, Task("push_left", "red"))


@pytest.fixture
def plant() -> Plant:
    plant = Plant()
    plant.reset(SCENE)
    return plant


def test_the_start_pose_puts_the_fingertip_where_the_scene_says(plant: Plant) -> None:
    np.testing.assert_allclose(plant.tip(), SCENE.start_tip, atol=1e-3)
    np.testing.assert_allclose(plant.positions_units(), start_pose(SCENE), atol=0.1)


def test_powered_servos_hold_with_a_small_sag(plant: Plant) -> None:
    start = plant.positions_units()
    plant.advance(2.0)
    assert np.abs(plant.positions_units() - start).max() < 1.0
    assert abs(plant.reading(1).load) > 0


def test_a_limp_arm_falls_softly(plant: Plant) -> None:
    start = plant.tip()
    plant.torque[:] = False
    plant.advance(0.2)
    soon = plant.tip()
    plant.advance(2.0)
    assert start[2] - soon[2] < 0.06  # gear friction brakes the fall
    assert start[2] - plant.tip()[2] > 0.03
    assert plant.reading(1).load == 0


def test_a_servo_that_is_powered_again_starts_where_it_is(plant: Plant) -> None:
    plant.set_torque(1, False)
    plant.advance(0.4)
    fallen = plant.position_counts(1)
    plant.set_torque(1, True)
    plant.set_goal_counts(1, fallen)
    plant.advance(0.5)
    assert abs(plant.position_counts(1) - fallen) < 40


def test_the_follower_trails_a_moving_goal_by_about_a_tenth_of_a_second(plant: Plant) -> None:
    speed, goal = 45.0, plant.positions_units()
    for _ in range(30):
        goal[0] += speed / 30
        plant.set_goal_units(goal)
        plant.advance(1 / 30)
    lag_s = (goal[0] - plant.positions_units()[0]) / speed
    assert 0.04 < lag_s < 0.15


def test_goals_are_clipped_to_the_calibrated_range(plant: Plant) -> None:
    plant.set_goal_counts(0, 4095)
    assert plant.goal_counts(0) == plant.joints.range_max[0]


def test_time_that_is_too_short_for_a_step_is_not_lost(plant: Plant) -> None:
    other = Plant()
    other.reset(SCENE)
    goal = start_pose(SCENE) + 10
    for arm, steps in ((plant, 100), (other, 10)):
        arm.set_goal_units(goal)
        for _ in range(steps):
            arm.advance(0.1 / steps)
    np.testing.assert_allclose(plant.tip(), other.tip(), atol=2e-4)


def test_placing_a_scene_leaves_the_arm_alone(plant: Plant) -> None:
    before = plant.positions_units()
    scene = draw_scene(7, Task("pull", "blue"))
    plant.place(scene)
    np.testing.assert_array_equal(plant.positions_units(), before)
    np.testing.assert_allclose(plant.cubes()["blue"][:2], scene.positions[0])


def test_the_camera_sees_the_cubes(plant: Plant) -> None:
    image = plant.render()
    assert image.shape == (96, 96, 3)
    assert image.dtype == np.uint8
    red = (image[..., 0] > 120) & (image[..., 1] < 60) & (image[..., 2] < 60)
    assert 10 < red.sum() < 500


def test_inverse_kinematics_finds_the_way_back() -> None:
    kinematics = Kinematics.shared()
    target = np.array([0.21, 0.05, 0.05])
    pose, missed = kinematics.solve(target, kinematics.guess(target))
    assert missed < 1e-3
    np.testing.assert_allclose(kinematics.tip(pose), target, atol=1e-3)
