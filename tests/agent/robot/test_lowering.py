"""Coming down is slow, ends, and does not push against what is in the way."""

import numpy as np
import pytest

from agent.robot.loop import Observation
from agent.robot.lowering import HELD_UP_UNITS, LIMIT_S, SPEED, Lowering

FPS = 30
REST = np.array([0, -100, 90, 60, 0, 10], np.float32)


def come_down(lowering, start, follow=lambda state, goal: goal):
    """Reason, and all goals sent."""
    state, goals = np.array(start, np.float32), [np.array(start, np.float32)]
    lowering.begin(state)
    while lowering.done is None:
        goal = lowering.step(Observation(0, 0.0, 1 / FPS, 0.0, state, None, {}, 0))
        if goal is not None:
            goals.append(goal)
            state = follow(state, goal)
        assert len(goals) < 10_000
    return lowering.done, goals


def test_it_goes_slowly_to_where_the_arm_lay_limp():
    reason, goals = come_down(Lowering(REST, frozenset(), FPS), np.zeros(6))
    assert reason == "lowered"
    assert np.allclose(goals[-1], REST, atol=1e-3)
    assert np.abs(np.diff(goals, axis=0)).max() <= SPEED / FPS + 1e-4
    assert len(goals) / FPS == pytest.approx(100 / SPEED, abs=0.2)


def test_it_stays_where_it_meets_something():
    blocked = lambda state, goal: np.maximum(goal, [-999, -30, -999, -999, -999, -999])  # noqa: E731
    reason, goals = come_down(Lowering(REST, frozenset(), FPS), np.zeros(6), blocked)
    assert reason == "held_up"
    assert goals[-1][1] >= -30 - HELD_UP_UNITS - SPEED / FPS


def test_a_servo_that_gave_way_already_is_not_waited_for():
    fallen = lambda state, goal: np.array([*goal[:2], 99.0, *goal[3:]], np.float32)  # noqa: E731
    assert come_down(Lowering(REST, frozenset({2}), FPS), np.zeros(6), fallen)[0] == "lowered"


def test_it_ends_in_time_whatever_the_arm_does():
    almost = lambda state, goal: goal + 5  # noqa: E731
    reason, goals = come_down(Lowering(REST, frozenset(), FPS), np.zeros(6), almost)
    assert reason == "time_up"
    assert len(goals) <= LIMIT_S * FPS + 1


def test_where_no_rest_pose_is_known_the_arm_is_let_go_where_it_is():
    reason, goals = come_down(Lowering(None, frozenset(), FPS), np.zeros(6))
    assert (reason, len(goals)) == ("no_rest_pose_known", 1)
