"""What is left out of a new chunk: the actions that were executed meanwhile, and no more. And what acts after
a pause: nothing of before."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lerobot.policies.rtc import ActionQueue
from lerobot.policies.rtc.configuration_rtc import RTCConfig

from agent.config import InferenceSection
from agent.inference.engine import ExecutedQueue, RolloutEngine
from agent.inference.proxy import PassThrough
from agent.robot.features import ROBOT_TYPE
from tests.agent.robot.process import wait_for

CHUNK = 8


def chunk(first):
    return torch.arange(first, first + CHUNK, dtype=torch.float32)[:, None].expand(CHUNK, 6)


def executing(kind, popped):
    """A queue in which the arm has executed `popped` of the first chunk, and one action just before it."""
    queue = kind(RTCConfig())
    queue.merge(chunk(0), chunk(0), 0, 0)
    for _ in range(popped):
        queue.get()
    return queue


@given(executed=st.integers(0, 3), under_way=st.booleans())
def test_while_the_arm_moves_it_is_lerobots_queue(executed, under_way):
    queues = [executing(kind, 2) for kind in (ActionQueue, ExecutedQueue)]
    for queue in queues:
        for _ in range(executed):
            queue.get()
        queue.merge(chunk(100), chunk(100), executed + under_way, 2)
    assert queues[0].get()[0] == queues[1].get()[0] == 100 + executed + under_way


def test_the_first_chunk_begins_where_the_arm_stands():
    queue = ExecutedQueue(RTCConfig())
    queue.merge(chunk(0), chunk(0), 5, 0)
    assert queue.get()[0] == 1


@pytest.mark.parametrize("steps", [8, 20])
def test_a_chunk_that_comes_late_goes_on_where_the_arm_has_stopped(steps):
    queue = executing(ExecutedQueue, CHUNK - 3)
    began = queue.get_action_index()
    for _ in range(3):
        queue.get()
    assert queue.get() is None, "starved"
    queue.merge(chunk(100), chunk(100), steps, began)
    assert queue.get()[0] == 104


class SlowPolicy:
    """Answers with the first joint of what it saw, eight times, when it is let go."""

    def __init__(self):
        self.asked, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self.left_over = []

    def __call__(self, batch, inference_delay=0, prev_chunk_left_over=None):
        self.left_over.append(prev_chunk_left_over)
        self.asked.release()
        assert self.go.acquire(timeout=20)
        return batch["observation.state"][0, 0].repeat(1, CHUNK, 6)


@pytest.fixture
def engine(tmp_path):
    arm = SimpleNamespace(device=SimpleNamespace(name=ROBOT_TYPE, robot_type=ROBOT_TYPE))
    made = RolloutEngine(arm, tmp_path / "policy.sock", "push", {"front": (4, 4, 3)}, InferenceSection())
    made.policy = SlowPolicy()
    made.proxy.predict_action_chunk = made.policy
    made._engine._postprocessor = PassThrough()
    yield made
    for _ in range(99):
        made.policy.go.release()
    made.stop()


def test_a_chunk_that_is_inferred_when_a_person_takes_over_never_acts(engine):
    def notify(value):
        engine.notify(np.full(6, value), {"front": np.zeros((4, 4, 3), np.uint8)}, 0.0)

    engine.start()
    notify(1.0)
    assert engine.policy.asked.acquire(timeout=20)
    engine.pause()
    engine.start()
    engine.policy.go.release()
    assert not engine.policy.asked.acquire(timeout=0.3), "nothing was seen since"
    assert engine.action() is None
    notify(2.0)
    assert engine.policy.asked.acquire(timeout=20)
    engine.policy.go.release()
    actions = []
    wait_for(lambda: actions.append(engine.action()) or actions[-1] is not None, 20, "no action came")
    assert actions[-1][0] == 2.0
    assert engine.policy.left_over[:2] == [None, None], "it joins nothing of before"
