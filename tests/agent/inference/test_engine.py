"""What is left out of a new chunk: the actions that were executed meanwhile, and no more."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lerobot.policies.rtc import ActionQueue
from lerobot.policies.rtc.configuration_rtc import RTCConfig

from agent.inference.engine import ExecutedQueue

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
