"""No goal leaves the calibrated range, none steps further than allowed; and a rate that does not drift."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.robot.limits import MARGIN, Limits, limits_from_ranges
from agent.robot.loop import Ticker
from agent.robot.teleop import REFUSE_UNITS, check_agreement
from shared.errors import ArmfleetError

RANGES = [(1000, 3000), (800, 3200), (900, 3100), (900, 3100), (0, 4095), (1500, 3000)]
LIMITS = limits_from_ranges(RANGES, max_step=5.0)
units = st.lists(st.floats(-400, 400, width=32), min_size=6, max_size=6).map(
    lambda v: np.array(v, np.float32)
)


@given(units, units)
def test_goals_stay_in_range_and_step_no_further_than_allowed(goal, start):
    previous = np.clip(start, LIMITS.low, LIMITS.high)
    sent = LIMITS.clamp(goal, previous)
    assert (sent >= LIMITS.low - 1e-3).all()
    assert (sent <= LIMITS.high + 1e-3).all()
    assert np.abs(sent - previous).max() <= LIMITS.max_step + 1e-3


@given(units)
def test_a_goal_in_reach_is_sent_as_it_is(start):
    previous = np.clip(start, LIMITS.low, LIMITS.high)
    goal = np.clip(previous + 4.9, LIMITS.low, LIMITS.high)
    assert np.allclose(LIMITS.clamp(goal, previous), goal, atol=1e-3)


def test_an_arm_outside_its_range_is_led_back_step_by_step():
    limits = Limits(np.full(6, -10.0), np.full(6, 10.0), max_step=2.0)
    assert np.allclose(limits.clamp(np.full(6, 20.0), np.full(6, 15.0)), 13.0)


def test_what_is_not_a_number_is_never_sent():
    with pytest.raises(ValueError, match="not a number"):
        LIMITS.clamp(np.array([0, 0, np.nan, 0, 0, 0]), np.zeros(6))


def test_the_gripper_keeps_its_whole_range():
    assert (LIMITS.low[5], LIMITS.high[5]) == (0.0, 100.0)
    assert LIMITS.high[0] == pytest.approx(1000 * 360 / 4095 - MARGIN)


@given(st.lists(st.floats(0, 0.2), min_size=1, max_size=60))
def test_late_ticks_do_not_move_the_deadlines_after_them(works):
    now = [100.0]
    ticker = Ticker(30, clock=lambda: now[0])
    last = -1
    for work in works:
        tick, deadline = ticker.next_deadline()
        assert tick > last
        assert deadline == pytest.approx(100.0 + tick / 30)
        assert deadline > now[0] - 1 / 30 - 1e-9  # never a burst of ticks to catch up
        now[0] = max(now[0], deadline) + work
        last = tick


def test_arms_too_far_apart_are_not_brought_together():
    far = np.zeros(6)
    far[1] = REFUSE_UNITS + 20
    with pytest.raises(ArmfleetError, match=r"joint 2 \(shoulder_lift\) by 110"):
        check_agreement(np.zeros(6), far)
    assert check_agreement(np.zeros(6), np.full(6, 17.0)) == 17.0
