"""Chunks whose first actions are given: LeRobot's own arithmetic with a flow time per action."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.policy.chunker import Chunker
from shared.policy.conditioning import _observed, complete, velocity
from shared.policy.initial import initial_adapter
from shared.policy.rtc import Guidance, joining
from shared.recipe import PRESETS, Recipe

ROWS, CHUNK = 2, 8
TASKS = ["push the red cube to the left", "pull the blue cube back"]
WIDE = Recipe.model_validate(PRESETS["wide"])


@pytest.fixture(scope="module")
def chunker(tiny_base: Path) -> Chunker:
    """A policy that was trained for a delay of three actions, by its own account."""
    chunker = Chunker(tiny_base)
    tensors, config = initial_adapter(tiny_base, WIDE)
    rng = np.random.default_rng(4)
    moved = {name: (t + rng.normal(0, 0.05, t.shape)).astype(np.float32) for name, t in tensors.items()}
    chunker.load_tensors(moved, config, delay=3)
    return chunker


def observation() -> tuple[np.ndarray, dict[str, np.ndarray], list[str]]:
    rng = np.random.default_rng(3)
    state = rng.normal(0, 20, (ROWS, 6)).astype(np.float32)
    return state, {"front": rng.integers(0, 255, (ROWS, 96, 96, 3), dtype=np.uint8)}, TASKS


@pytest.fixture(scope="module")
def batch(chunker: Chunker) -> dict[str, torch.Tensor]:
    return chunker._processors[0](chunker._batch(*observation()))


def noise_of(chunker: Chunker, seed: int) -> torch.Tensor:
    size = (ROWS, CHUNK, chunker.policy.config.max_action_dim)
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def previous(actions: int, seed: int = 9) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, (ROWS, actions, 6)).astype(np.float32)


@given(time=st.floats(0, 1, width=32), seed=st.integers(0, 100))
@settings(max_examples=10, deadline=None)
@torch.no_grad()
def test_with_the_same_time_for_all_actions_it_is_lerobots_step(
    chunker: Chunker, batch: dict[str, torch.Tensor], time: float, seed: int
) -> None:
    flow, x_t = chunker.policy.model, noise_of(chunker, seed)
    valid, cache = _observed(chunker.policy, batch)
    want = flow.denoise_step(valid, cache, x_t, torch.full((ROWS,), time))
    got = velocity(flow, valid, cache, x_t, torch.full((ROWS, CHUNK), time))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert cache.get_seq_length() == valid.shape[1]


@given(place=st.integers(0, CHUNK - 1))
@settings(max_examples=CHUNK, deadline=None)
@torch.no_grad()
def test_an_actions_time_matters_to_itself_and_to_later_actions(
    chunker: Chunker, batch: dict[str, torch.Tensor], place: int
) -> None:
    flow, x_t = chunker.policy.model, noise_of(chunker, 0)
    valid, cache = _observed(chunker.policy, batch)
    times = torch.full((ROWS, CHUNK), 0.7)
    before = velocity(flow, valid, cache, x_t, times)
    times[:, place] = 0
    changed = (velocity(flow, valid, cache, x_t, times) - before).abs().amax(dim=(0, 2)) > 1e-5
    assert changed.tolist() == [later >= place for later in range(CHUNK)]


def test_with_no_action_given_it_is_lerobots_chunk(chunker: Chunker, batch: dict[str, torch.Tensor]) -> None:
    noise = noise_of(chunker, 1)
    want = chunker.policy.predict_action_chunk(batch, noise=noise)
    got = complete(chunker.policy, batch, noise, torch.zeros(ROWS, 0, 6))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@given(delay=st.integers(1, CHUNK - 1), seed=st.integers(0, 100))
@settings(max_examples=10, deadline=None)
def test_given_actions_stay_and_only_they_count(
    chunker: Chunker, batch: dict[str, torch.Tensor], delay: int, seed: int
) -> None:
    """Not the noise in their place; and all later actions follow them."""
    noise, actions = noise_of(chunker, seed), torch.from_numpy(previous(delay))
    got = complete(chunker.policy, batch, noise, actions)
    assert torch.equal(got[:, :delay], actions)
    noise[:, :delay] += 1
    assert torch.equal(complete(chunker.policy, batch, noise, actions), got)
    other = complete(chunker.policy, batch, noise, actions + 1)
    assert bool(((other - got).abs()[:, delay:].amax(dim=(0, 2)) > 1e-5).all())


@pytest.mark.parametrize(
    ("enabled", "trained", "delay", "way"),
    [
        (True, 0, 0, "guidance"),
        (True, 0, 2, "guidance"),
        (True, 3, 0, "prefix"),
        (True, 3, 3, "prefix"),
        (True, 3, 4, "guidance"),
        (False, 3, 2, "none"),
    ],
)
def test_a_version_is_joined_as_it_was_trained(enabled: bool, trained: int, delay: int, way: str) -> None:
    assert joining(Guidance(enabled=enabled), trained, delay) == way


def chunk(chunker: Chunker, delay: int, prev_chunk: np.ndarray | None) -> np.ndarray:
    chunker.reseed(0)
    return chunker.chunk(*observation(), inference_delay=delay, prev_chunk=prev_chunk)[0]


@pytest.mark.parametrize("delay", [1, 3])
def test_a_chunk_continues_what_is_executed_meanwhile(chunker: Chunker, delay: int) -> None:
    running = previous(5)
    original = chunk(chunker, delay, running)
    np.testing.assert_array_equal(original[:, :delay], running[:, :delay])
    np.testing.assert_array_equal(chunk(chunker, delay, running[:, :delay]), original)


def test_units_are_those_of_the_given_actions(chunker: Chunker) -> None:
    running = previous(5)
    chunker.reseed(0)
    original, units = chunker.chunk(*observation(), inference_delay=3, prev_chunk=running)
    _, postprocess = chunker._processors
    np.testing.assert_allclose(units, postprocess(torch.from_numpy(original)).numpy(), rtol=1e-5, atol=1e-4)


def test_an_arm_that_has_run_dry_holds_the_last_action(chunker: Chunker) -> None:
    running = previous(1)
    original = chunk(chunker, 3, running)
    np.testing.assert_array_equal(original[:, :3], np.repeat(running, 3, axis=1))


def test_without_a_delay_nothing_is_given(chunker: Chunker) -> None:
    np.testing.assert_array_equal(chunk(chunker, 0, previous(5)), chunk(chunker, 0, None))


def test_a_longer_delay_than_trained_for_is_left_to_guidance(chunker: Chunker, tiny_base: Path) -> None:
    running = previous(5)
    guided = chunk(chunker, 4, running)
    assert np.abs(guided[:, :4] - running[:, :4]).max() > 1e-3
    chunker.delay = 0
    try:
        np.testing.assert_array_equal(guided, chunk(chunker, 4, running))
    finally:
        chunker.delay = 3


def test_the_next_version_is_run_as_it_was_trained(tiny_base: Path) -> None:
    chunker, running = Chunker(tiny_base), previous(5)
    base = chunk(chunker, 2, running)
    adapter = initial_adapter(tiny_base, WIDE)
    chunker.load_tensors(*adapter, delay=3)
    np.testing.assert_array_equal(chunk(chunker, 2, running)[:, :2], running[:, :2])
    chunker.load_tensors(*adapter)
    np.testing.assert_array_equal(chunk(chunker, 2, running), base)
    chunker.load_tensors(*adapter, delay=3)
    chunker.load_version(None)
    np.testing.assert_array_equal(chunk(chunker, 2, running), base)
