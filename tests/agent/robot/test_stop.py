"""A stop wins against everything within one tick; an unsafe arm comes down whatever the activity wants."""

import threading
import time
from dataclasses import replace
from enum import Enum

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.robot.health import HEAT
from agent.robot.limits import Limits
from agent.robot.loop import Activity, ControlLoop
from agent.robot.lowering import Lowering
from agent.robot.safety import UnsafeArm
from agent.robot.watch import HealthWatch
from tests.agent.robot.fakes import FINE, FakeArm

FPS = 1000
WANTED = 50.0  # the activity's goals are above, the arm stands at 0


class Phase(Enum):
    ON = "on"


class Pushy(Activity):
    """Wants to move in every tick, for ever; may ask for the stop itself, and take its time."""

    name, phase, limited = "pushy", Phase.ON, False

    def __init__(self, stop_at=None, slow_s=0.0):
        self.stop_at, self.slow_s, self.ticks, self.loop = stop_at, slow_s, 0, None
        self.moving = threading.Event()

    def begin(self, position):
        pass

    def step(self, seen):
        self.ticks += 1
        self.moving.set()
        if self.ticks == self.stop_at:
            self.loop.request_stop("own wish")
        time.sleep(self.slow_s)
        return np.full(6, WANTED + self.ticks, np.float32)

    @property
    def done(self):
        return None


class Noting(FakeArm):
    """Remembers every goal."""

    def __init__(self):
        super().__init__()
        self.goals = []

    def send(self, goal):
        self.goals.append(float(goal[0]))


def loop_of(arm, limits=None, fps=FPS, **options):
    return ControlLoop(arm, FakeArm("leader"), {}, limits, fps, lambda *end: None, **options)


def moves(arm):
    return [goal for goal in arm.goals if goal >= WANTED]


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 0.02), st.sampled_from([0.0, 0.0, 0.003]))
def test_after_a_stop_was_asked_for_the_activity_sends_no_goal_any_more(delay_s, slow_s):
    arm, activity = Noting(), Pushy(slow_s=slow_s)
    loop = loop_of(arm)
    loop.start(activity)
    assert activity.moving.wait(10)
    time.sleep(delay_s)
    loop.request_stop("operator")
    before = len(moves(arm))
    loop._thread.join(10)
    assert not loop.running
    assert len(moves(arm)) == before
    assert arm.goals[-1] == 0.0, "the arm holds where it is"


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 20))
def test_a_stop_within_a_tick_drops_the_goal_of_that_tick(tick):
    arm, activity = Noting(), Pushy(stop_at=tick)
    loop = activity.loop = loop_of(arm)
    loop.start(activity)
    loop._thread.join(10)
    assert len(moves(arm)) == tick - 1


def test_a_stop_ends_the_lowering_too_and_the_arm_is_let_go():
    arm = Noting()
    loop = loop_of(arm)
    loop.start(Lowering(np.full(6, 500.0, np.float32), frozenset(), FPS))
    deadline = time.monotonic() + 10
    while not arm.goals and time.monotonic() < deadline:
        time.sleep(0.001)
    loop.halt("operator", wait_s=10)
    assert not arm.torque


def unsafe_loop(arm, rest):
    events, fps = [], 60  # slow enough for pauses in which health is sampled
    loop = loop_of(
        arm,
        fps=fps,
        watch=HealthWatch(arm, events.append),
        descent=lambda error: Lowering(rest, frozenset(), fps),
        on_error=events.append,
    )
    return loop, events


def test_an_unsafe_arm_holds_is_lowered_and_let_go_in_this_order():
    arm, activity = Noting(), Pushy()
    rest = np.full(6, -3.0, np.float32)
    loop, events = unsafe_loop(arm, rest)
    loop.start(activity)
    assert activity.moving.wait(10)
    arm.healths = [replace(FINE, temperature=80, errors=HEAT)] * 6
    deadline = time.monotonic() + 10
    while loop.running and time.monotonic() < deadline:
        arm.state = np.full(6, max(-3.0, min(0.0, arm.goals[-1] if arm.goals else 0.0)), np.float32)
        time.sleep(0.001)
    assert not arm.torque
    told = [event for event in events if isinstance(event, UnsafeArm)]
    assert len(told) == 1
    after = arm.goals[arm.goals.index(moves(arm)[-1]) + 1 :]
    assert after[0] == 0.0, "it holds first"
    assert after[-1] == pytest.approx(-3.0, abs=0.1)
    assert arm.done[-1] == "release"


def test_a_pause_too_short_is_left_alone_and_a_long_one_asks_one_joint_after_the_other():
    arm, asked = FakeArm(), []
    arm.probe = lambda joint, limit_s: asked.append((joint, limit_s)) or FINE
    watch = HealthWatch(arm, lambda texts: None)
    assert watch.sample(0.009) is None
    for _ in range(7):
        watch.sample(0.030)
    assert [joint for joint, _ in asked] == [0, 1, 2, 3, 4, 5, 0]
    assert max(limit_s for _, limit_s in asked) <= 0.005
    assert set(watch.status()["joints"]) == {
        "shoulder_pan",
        "shoulder_lift",
        "elbow_flex",
        "wrist_flex",
        "wrist_roll",
        "gripper",
    }


def test_warnings_are_told_when_they_come_and_when_they_go_and_not_in_between():
    arm, told, now = FakeArm(), [], [0.0]
    watch = HealthWatch(arm, told.append, clock=lambda: now[0])
    for temperature in (61, 62, 63, 61, 61, 61, 61, 40, 40):
        arm.healths = [replace(FINE, temperature=temperature)] * 6
        watch.sample_all()
        watch.check()
        now[0] += 0.5
    assert [len(texts) for texts in told] == [6, 0]
    assert "joint 6 (gripper) of the follower is warm: 63 degrees C" in told[0][5]


class Jumpy(Activity):
    """A policy that has gone mad: any goal in any tick."""

    name, phase = "jumpy", Phase.ON

    def __init__(self, goals):
        self.left = list(goals)

    def begin(self, position):
        pass

    def step(self, seen):
        return self.left.pop(0)

    @property
    def done(self):
        return None if self.left else "over"


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.none(),
            st.lists(st.floats(-400, 400), min_size=6, max_size=6).map(lambda v: np.array(v, np.float32)),
        ),
        min_size=1,
        max_size=15,
    )
)
def test_whatever_an_activity_wants_its_goals_stay_within_range_step_and_speed(goals):
    class Timed(FakeArm):
        def __init__(self):
            super().__init__()
            self.sent = []

        def send(self, goal):
            self.sent.append((time.monotonic(), np.array(goal)))

    arm = Timed()
    limits = Limits(np.full(6, -90.0), np.full(6, 90.0), max_step=15.0, max_speed=270.0)
    loop = loop_of(arm, limits)
    began = time.monotonic()
    loop.start(Jumpy(goals))
    loop._thread.join(10)
    previous, path = np.zeros(6), 0.0
    for _, goal in arm.sent[:-1]:  # the last one is the hold
        assert np.abs(goal).max() <= 90.0 + 1e-3
        assert np.abs(goal - previous).max() <= 15.0 + 1e-3
        path += np.abs(goal - previous).max()
        previous = goal
    assert path <= 270.0 * (time.monotonic() - began) + 1e-3
