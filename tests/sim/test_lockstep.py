"""Rollouts and demonstrations without a clock."""

import numpy as np
import pytest
import torch
from lerobot.policies.rtc import ActionQueue
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.utils.action_interpolator import ActionInterpolator

from sim.cameras import as_received, decode_frame
from sim.expert import UnreachableError, plan
from sim.lockstep import ChunkQueue, Interpolator, Observation, demonstrate, rollout_batch
from sim.plant import Plant, start_pose
from sim.tasks import COLORS, VERBS, Task, draw_scene

SCENES = 8


@pytest.mark.parametrize("verb", VERBS)
def test_the_scripted_person_does_every_task_through_the_servos(verb: str) -> None:
    plant, done, seed = Plant(), [], 0
    while len(done) < SCENES:
        seed += 1
        scene = draw_scene(seed, Task(verb, COLORS[seed % 4]))
        try:
            done.append(demonstrate(plant, scene, np.random.default_rng(seed), image_every=30).success)
        except UnreachableError:
            continue
    assert sum(done) >= SCENES - 1


def test_a_demonstration_shows_the_lag_between_leader_and_follower() -> None:
    scene = draw_scene(3, Task("push_left", "red"))
    shown = demonstrate(Plant(), scene, np.random.default_rng(0))
    assert len(shown.images) == len(shown.states) == len(shown.actions)
    same_time = np.abs(shown.states - shown.actions).mean()
    a_little_later = np.abs(shown.states[3:] - shown.actions[:-3]).mean()
    assert a_little_later < same_time / 2


def test_two_tries_of_a_person_differ_and_one_can_be_repeated() -> None:
    plant = Plant()
    scene = draw_scene(3, Task("pull", "green"))
    plant.reset(scene)
    first, again, other = (plan(plant, scene.task, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert first.shape != other.shape or not np.allclose(first, other)


def test_disturbance_shows_in_the_states_not_in_the_actions() -> None:
    scene, plant = draw_scene(3, Task("touch", "red")), Plant()
    clean, rough = (
        demonstrate(plant, scene, np.random.default_rng(0), disturbance=error, image_every=99)
        for error in (0, 3.0)
    )
    np.testing.assert_array_equal(clean.actions, rough.actions)
    assert np.abs(clean.states - rough.states).max() > 1


def chunk_of(number: int) -> np.ndarray:
    return number * 100 + np.arange(8, dtype=np.float32)[None, :, None] * np.ones((1, 1, 6), np.float32)


def test_the_queue_behaves_as_lerobots() -> None:
    ours, theirs = ChunkQueue(), ActionQueue(RTCConfig(execution_horizon=4))
    for number in range(3):
        new = chunk_of(number)
        ours.replace(new, new + 0.5, 1)
        theirs.merge(torch.from_numpy(new[0]), torch.from_numpy(new[0] + 0.5), 1)
        for _ in range(3):
            np.testing.assert_array_equal(ours.pop()[0], theirs.get().numpy())
        assert len(ours) == theirs.qsize()
        np.testing.assert_array_equal(ours.running()[0, 1:], theirs.get_left_over().numpy())


def test_the_interpolator_behaves_as_lerobots() -> None:
    ours, theirs = Interpolator(), ActionInterpolator(multiplier=3)
    actions = iter(np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32))
    for _ in range(12):
        assert ours.needs_action() == theirs.needs_new_action()
        if ours.needs_action():
            action = next(actions)
            ours.add(action[None])
            theirs.add(torch.from_numpy(action))
        np.testing.assert_allclose(ours.get()[0], theirs.get().numpy(), atol=1e-6)


class Recorder:
    """A policy that holds the state it sees and writes down how it was called."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int, np.ndarray | None]] = []

    def __call__(
        self, observations: list[Observation], delay: int, running: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        self.calls.append((len(observations), delay, running))
        states = np.stack([np.asarray(seen["state"]) for seen in observations])
        chunks = np.repeat(states[:, None], 8, axis=1)
        return chunks + len(self.calls), chunks


def test_a_chunk_is_asked_for_when_half_of_the_last_is_left() -> None:
    policy = Recorder()
    tasks = [Task("touch", "red"), Task("hover", "blue")]
    results = rollout_batch(policy, tasks, [11, 12], latency=3, max_s=2.0)
    assert [result.success for result in results] == [False, False]
    assert [result.steps for result in results] == [20, 20]
    sizes, delays, running = zip(*policy.calls, strict=True)
    assert set(sizes) == {2}
    assert delays[0] == 0
    assert set(delays[1:]) == {1}
    assert running[0] is None
    assert all(rest.shape == (2, 5, 6) for rest in running[1:])  # the action being executed, and four
    assert 6 <= len(policy.calls) <= 8  # three of eight actions of each chunk are executed


@pytest.mark.parametrize(("latency", "delay"), [(0, 0), (1, 1), (3, 1), (4, 2), (8, 3)])
def test_a_chunk_loses_an_action_for_each_that_was_begun_meanwhile(latency: int, delay: int) -> None:
    policy = Recorder()
    rollout_batch(policy, [Task("touch", "red")], [11], latency=latency, max_s=2.0)
    assert {asked for _, asked, _ in policy.calls[1:]} == {delay}
    first = policy.calls[1][2]
    assert first is not None
    assert first.shape[1] == 5  # at half a chunk, whatever was dropped


def test_nothing_moves_before_the_first_chunk_has_arrived() -> None:
    far = start_pose(draw_scene(11, Task("touch", "red"))) + 20

    def jump(
        observations: list[Observation], delay: int, running: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        seen.append(np.asarray(observations[0]["state"]))
        chunk = np.repeat(far[None, None], 8, axis=1)
        return chunk, chunk

    seen: list[np.ndarray] = []
    rollout_batch(jump, [Task("touch", "red")], [11], latency=12, max_s=0.5)
    first, when_it_arrives = seen
    assert np.abs(when_it_arrives - first).max() < 0.5
    rollout_batch(jump, [Task("touch", "red")], [11], latency=3, max_s=0.7)
    assert np.abs(seen[-1] - first).max() > 5


def test_lockstep_is_deterministic_and_batching_changes_nothing() -> None:
    scene = draw_scene(21, Task("touch", "red"))
    goals = start_pose(scene) + np.linspace(0, 8, 8)[:, None]

    def wave(
        observations: list[Observation], delay: int, running: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        chunks = np.repeat(goals[None], len(observations), axis=0)
        return chunks, chunks

    task = Task("touch", "red")
    alone = rollout_batch(wave, [task], [21], max_s=1.0, record=True)[0]
    batched = rollout_batch(wave, [task, task], [22, 21], max_s=1.0, record=True)[1]
    assert alone.steps == batched.steps
    np.testing.assert_array_equal(np.array(alone.frames), np.array(batched.frames))


def test_frames_take_the_cameras_round_trip() -> None:
    image = np.zeros((96, 96, 3), np.uint8)
    image[20:60, 20:60] = (220, 30, 40)
    back = as_received(image)
    assert back.shape == image.shape
    assert np.abs(back[40, 40].astype(int) - (220, 30, 40)).max() < 8  # channels in order
    with pytest.raises(ValueError, match="JPEG"):
        decode_frame(b"no image")
