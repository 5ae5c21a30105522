"""Teleoperation and rollouts, also taken over, as plain state machines: no bus, no clock."""

import numpy as np
import pytest

from agent.inference.bounds import bounds
from agent.inference.fault import bad_actions
from agent.robot.first_chunk import Cut
from agent.robot.loop import Observation
from agent.robot.rollout import FIRST_ACTION_S, STARVED_LIMIT_S, Rollout
from agent.robot.rollout import Phase as RolloutPhase
from agent.robot.teleop import ALIGN_SPEED, REFUSE_UNITS, Phase, Teleoperation
from shared.errors import ArmfleetError

FPS = 30


def seen(state, leader=None, tick=0):
    leader = None if leader is None else np.array(leader, np.float32)
    return Observation(tick, 0.0, 1 / FPS, 0.0, np.array(state, np.float32), leader, {}, 0)


class Sink:
    def __init__(self):
        self.rows = []

    def add(self, seen, action):
        self.rows.append((seen.state.copy(), action.copy()))


def run_teleop(teleop, state, leader):
    goal = teleop.step(seen(state, leader))
    teleop.sent(seen(state, leader), goal)
    return goal


def test_the_follower_comes_slowly_and_is_not_recorded_until_it_mirrors():
    teleop, sink = Teleoperation(FPS), Sink()
    teleop.attach(sink)
    teleop.begin(np.zeros(6, np.float32))
    goals = [np.zeros(6)]
    while teleop.phase is Phase.ALIGNING:
        goals.append(run_teleop(teleop, goals[-1], [40, 0, 0, 0, 0, 50]))
    assert np.abs(np.diff(goals, axis=0)).max() <= ALIGN_SPEED / FPS + 1e-4
    assert len(goals) / FPS == pytest.approx(47 / ALIGN_SPEED, abs=0.1)
    assert teleop.aligned.is_set()
    before = len(sink.rows)
    run_teleop(teleop, [1] * 6, [45, 0, 0, 0, 0, 50])
    assert len(sink.rows) == before + 1
    assert np.array_equal(sink.rows[-1][1], [45, 0, 0, 0, 0, 50])
    teleop.detach()
    run_teleop(teleop, [1] * 6, [46, 0, 0, 0, 0, 50])
    assert len(sink.rows) == before + 1


def test_a_leader_that_leaves_while_aligning_is_not_chased():
    teleop = Teleoperation(FPS)
    teleop.begin(np.zeros(6, np.float32))
    run_teleop(teleop, [0] * 6, [40, 0, 0, 0, 0, 0])
    with pytest.raises(ArmfleetError, match="shoulder_pan"):
        run_teleop(teleop, [0] * 6, [140, 0, 0, 0, 0, 0])


class Actions:
    bounds, chunk = bounds(None, ()), 8

    def __init__(self, first_after=3):
        self.calls, self.fault, self.started, self.gap = 0, None, False, False
        self.first_after, self.taken_at, self.trouble = first_after, [], "nobody answers"
        self.log = []

    def start(self):
        self.started = True
        self.log.append("start")

    def pause(self):
        self.log.append("pause")

    def notify(self, state, images, taken_at):
        self.taken_at.append(taken_at)

    def action(self):
        self.calls += 1
        return (
            None if self.calls <= self.first_after or self.gap else np.full(6, float(self.calls), np.float32)
        )


class Run:
    """A rollout with a clock of its own."""

    def __init__(self, pose=None, max_s=1.0, **actions):
        self.now, self.actions, self.trace = 0.0, Actions(**actions), Sink()
        self.ends, self.cuts = [], []
        self.rollout = Rollout(
            self.actions,
            self.trace,
            pose,
            max_s,
            FPS,
            lambda *a: self.ends.append(a),
            self.cuts.append,
            clock=lambda: self.now,
        )
        self.rollout.begin(np.zeros(6, np.float32))
        self.state = np.zeros(6, np.float32)

    def tick(self, follow=True, leader=None):
        observation = seen(self.state, leader if self.rollout.needs_leader else None)
        goal = self.rollout.step(observation)
        self.now += 1 / FPS
        if goal is not None and follow:
            self.state = goal
        self.rollout.sent(observation, self.state)
        return goal

    def until_done(self, limit=3000, **tick):
        for _ in range(limit):
            if self.rollout.done:
                return self.rollout.done
            self.tick(**tick)
        raise AssertionError("the rollout never ended")


def test_time_counts_from_the_first_action():
    run = Run(max_s=1.0, first_after=10)
    assert run.until_done() == "time_up"
    assert run.rollout.ticks == FPS == len(run.trace.rows)


def test_it_goes_to_the_start_pose_slowly_and_only_then_asks_the_policy():
    pose = np.array([40, -20, 0, 0, 0, 10], np.float32)
    run = Run(pose=pose)
    while run.rollout.phase is RolloutPhase.TO_START:
        assert not run.actions.started
        before = run.state
        run.tick()
        assert np.abs(run.state - before).max() <= 2.01
    assert np.allclose(run.state, pose)
    assert run.until_done() == "time_up"


def test_an_obstacle_before_the_start_pose_ends_it():
    run = Run(pose=np.full(6, 40, np.float32))
    assert run.until_done(follow=False) == "start_pose_unreachable"
    assert not run.actions.started


def test_a_policy_that_says_nothing_ends_it():
    run = Run(first_after=10**9)
    assert run.until_done() == "policy_silent"
    assert run.now == pytest.approx(FIRST_ACTION_S, abs=0.2)
    assert run.trace.rows == []


def test_a_policy_that_talks_nonsense_ends_it_at_once_and_is_named():
    run = Run(max_s=60)
    for _ in range(20):
        run.tick()
    run.actions.fault = bad_actions(7)
    assert run.tick() is None
    assert run.rollout.done == "bad_actions"
    run.rollout.end("bad_actions", None)
    assert "version 7" in run.ends[0][1].what


def test_a_stop_that_comes_with_a_fault_is_the_operators():
    run = Run(max_s=60)
    run.actions.fault = bad_actions(7)
    run.tick()
    run.rollout.end("operator", None)
    assert run.ends == [("operator", None)]


def test_starving_holds_and_ends_after_a_while():
    run = Run(max_s=60)
    for _ in range(20):
        run.tick()
    run.actions.gap = True
    start = run.now
    assert run.tick() is None
    assert run.until_done() == "starved"
    assert run.now - start == pytest.approx(STARVED_LIMIT_S, abs=0.2)
    run.rollout.end("starved", None)
    assert "nobody answers" in run.ends[0][1].what


def test_the_first_chunk_is_held_to_its_bounds_from_where_the_arm_stands_and_the_rest_is_not():
    run = Run(max_s=60, pose=np.full(6, 40, np.float32))
    run.actions.bounds = bounds((np.full(6, 40.0), np.full(6, 1.0)), ())  # 34 to 46
    run.actions.action = lambda: np.full(6, 100, np.float32)
    while run.rollout.phase is not RolloutPhase.RUNNING:
        goal = run.tick()
    held = [goal, *(run.tick() for _ in range(8 * 3 - 1))]
    assert (np.array(held) == 46).all()
    assert run.cuts == [Cut(0, 100.0, 46.0)]
    assert (run.tick() == 100).all()
    assert run.rollout.bounded == 24


def test_a_start_pose_beyond_what_the_loop_allows_is_not_waited_for_for_ever():
    run = Run(pose=np.full(6, 40, np.float32))
    observation, cut = seen([20] * 6), np.full(6, 20, np.float32)
    for _ in range(300):
        if run.rollout.done:
            break
        run.rollout.step(observation)
        run.rollout.sent(observation, cut)
    assert run.rollout.done == "start_pose_unreachable"


def test_its_end_is_told_once():
    run = Run()
    run.rollout.end("time_up", None)
    assert run.ends == [("time_up", None)]


def taken_over(run, leader, max_s=60.0):
    """The teleoperation that has come to the leader in a rollout that acts, and where its rows go."""
    sink = Sink()
    while run.rollout.phase is not RolloutPhase.RUNNING:
        run.tick()
    teleop = run.rollout.take_over(max_s)
    teleop.attach(sink)
    held = run.tick(leader=leader)
    assert np.array_equal(held, run.state), "it holds first"
    while run.rollout.phase is RolloutPhase.ALIGNING:
        before = run.state
        run.tick(leader=leader)
        assert np.abs(run.state - before).max() <= ALIGN_SPEED / FPS + 1e-4
        assert len(sink.rows) <= 1, "nothing is recorded before it follows"
    return teleop, sink


def test_a_person_takes_over_slowly_and_the_policy_goes_on_with_nothing_of_before():
    run = Run(max_s=60)
    leader = [30, 0, 0, 0, 0, 0]
    teleop, sink = taken_over(run, leader)
    assert run.actions.log == ["start", "pause"]
    assert not run.rollout.limited, "a person's own goals are not limited"
    calls, ticks, traced = run.actions.calls, run.rollout.ticks, len(run.trace.rows)
    for step in range(10):
        goal = run.tick(leader=[30 + step, 0, 0, 0, 0, 0])
        assert goal[0] == 30 + step
    assert (run.actions.calls, run.rollout.ticks, len(run.trace.rows)) == (calls, ticks, traced)
    teleop.detach()
    recorded = len(sink.rows)
    assert recorded == 11
    run.rollout.hand_back()
    assert run.tick(leader=leader) is None, "it holds until the policy has something to say"
    assert run.actions.log == ["start", "pause", "start"]
    assert (run.rollout.phase, run.rollout.limited) == (RolloutPhase.WAITING, True)
    run.tick()
    assert run.rollout.phase is RolloutPhase.RUNNING
    assert len(sink.rows) == recorded


def test_the_first_chunk_after_a_takeover_is_held_to_its_bounds_again():
    run = Run(max_s=60)
    run.actions.bounds = bounds((np.zeros(6), np.full(6, 10.0)), ())  # -60 to 60
    run.actions.action = lambda: np.full(6, 100, np.float32)
    taken_over(run, [30, 0, 0, 0, 0, 0])
    before = run.rollout.bounded
    run.rollout.hand_back()
    run.tick(leader=[30, 0, 0, 0, 0, 0])
    assert (np.array([run.tick() for _ in range(8 * 3)]) == 60).all()
    assert run.rollout.bounded == before + 24
    assert (run.tick() == 100).all()
    assert len(run.cuts) == 1, "it is told once"


def test_a_policy_that_does_not_come_back_after_a_takeover_ends_the_rollout():
    run = Run(max_s=60)
    taken_over(run, [30, 0, 0, 0, 0, 0])
    run.rollout.hand_back()
    run.actions.gap, handed_back = True, run.now
    assert run.until_done() == "policy_silent"
    assert run.now - handed_back == pytest.approx(FIRST_ACTION_S, abs=0.2)


def test_a_leader_far_away_is_waited_for_and_named():
    run = Run(max_s=60)
    run.tick()
    run.rollout.take_over(60)
    far = [0, 0, REFUSE_UNITS + 40, 0, 0, 0]
    run.tick(leader=far)
    before = run.state
    for _ in range(30):
        assert run.tick(leader=far) is None
    assert "elbow_flex" in run.rollout.apart
    assert run.tick(leader=[0, 0, REFUSE_UNITS - 40, 0, 0, 0])[2] == pytest.approx(
        before[2] + ALIGN_SPEED / FPS
    )
    assert run.rollout.apart == ""


def test_a_takeover_as_long_as_an_episode_may_be_ends_the_rollout():
    run = Run(max_s=60)
    _, sink = taken_over(run, [30, 0, 0, 0, 0, 0], max_s=1.0)
    while not run.rollout.done:
        run.tick(leader=[30, 0, 0, 0, 0, 0])
    assert run.rollout.done == "time_up"
    assert len(sink.rows) == FPS


def test_what_the_policy_says_wrong_while_a_person_drives_ends_the_rollout_only_afterwards():
    run = Run(max_s=60)
    leader = [30, 0, 0, 0, 0, 0]
    taken_over(run, leader)
    run.actions.fault = bad_actions(7)
    run.tick(leader=leader)
    assert run.rollout.done is None
    run.rollout.hand_back()
    run.tick()
    run.tick()
    assert run.rollout.done == "bad_actions"
