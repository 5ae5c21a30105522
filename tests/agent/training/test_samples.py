"""Chunks, batches and the sampler."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agent.training.samples import rows_of_step
from shared.policy.rtc import in_episode, target_indices


@given(st.integers(1, 200), st.integers(1, 40), st.integers(0, 50), st.integers(0, 2**31))
def test_a_pass_takes_every_frame_once(frames: int, batch: int, epoch: int, seed: int) -> None:
    first = epoch * frames // batch
    steps = range(first, first + 2 * (frames // batch + 2))
    position = np.arange(steps.start * batch, steps.stop * batch)
    rows = np.concatenate([rows_of_step(frames, batch, step, seed) for step in steps])
    complete = rows[position // frames == epoch + 1]
    assert len(complete) == frames
    assert sorted(complete) == list(range(frames))


def test_a_step_is_a_function_of_its_number() -> None:
    assert rows_of_step(100, 8, 3, seed=5).tolist() == rows_of_step(100, 8, 3, seed=5).tolist()
    assert rows_of_step(100, 8, 3, seed=5).tolist() != rows_of_step(100, 8, 3, seed=6).tolist()


@given(st.integers(1, 300), st.integers(1, 50), st.data())
def test_chunks_look_ahead_at_10_hz_and_hold_at_the_end(frames: int, chunk: int, data: st.DataObject) -> None:
    frame = data.draw(st.integers(0, frames - 1))
    targets = target_indices(frame, frames, chunk)
    assert len(targets) == chunk
    assert targets[0] == frame
    assert all(a <= b for a, b in itertools.pairwise(targets))
    assert max(targets) <= frames - 1
    inside = [t for t in targets if t < frames - 1]
    assert all(b - a == 3 for a, b in itertools.pairwise(inside))
    commanded = in_episode(frame, frames, chunk)
    assert commanded[0]
    assert [frame + 3 * k for k in range(chunk) if commanded[k]] == targets[: sum(commanded)]
    assert all(target == frames - 1 for target in targets[sum(commanded) :])
