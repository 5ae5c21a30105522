"""The loss from a cached prefix is LeRobot's loss."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st
from peft import PeftModel

from agent.training.loss import (
    _with_state,
    draw,
    draw_given,
    embed_images,
    encode_prefix,
    flow_matching_loss,
    sample_actions,
)
from shared.policy.adapter import adapter_parameters, add_adapter, set_tensors
from shared.policy.base import load_base
from shared.policy.initial import initial_adapter
from shared.recipe import PRESETS, Recipe

ROWS = 5


@pytest.fixture(scope="module")
def model(tiny_base: Path) -> PeftModel:
    recipe = Recipe.model_validate(PRESETS["wide"])
    model = add_adapter(load_base(tiny_base), recipe)
    tensors, _ = initial_adapter(tiny_base, recipe)
    rng = np.random.default_rng(0)
    for name in tensors:  # with B = 0 most gradients would vanish
        if "lora_B" in name:
            tensors[name] = rng.normal(0, 0.05, tensors[name].shape).astype(np.float32)
    set_tensors(model, tensors)
    for parameter in adapter_parameters(model).values():
        parameter.requires_grad_(True)
    return model


@pytest.fixture(scope="module")
def rows() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return {
        "pixels": torch.randint(0, 255, (ROWS, 96, 96, 3), generator=g, dtype=torch.uint8),
        "state": torch.randn(ROWS, 6, generator=g),
        "action": torch.randn(ROWS, 8, 6, generator=g),
        "tokens": torch.randint(8, 50, (ROWS, 12), generator=g),
        "mask": torch.arange(12)[None] < torch.tensor([12, 5, 7, 12, 9])[:, None],
    }


def ours(
    model: PeftModel,
    rows: dict,
    noise: torch.Tensor,
    time: torch.Tensor,
    in_episode: torch.Tensor | None = None,
    given: torch.Tensor | None = None,
) -> torch.Tensor:
    policy = model.get_base_model()
    features = embed_images(policy, {"front": rows["pixels"]})
    prefix = encode_prefix(policy, features, rows["tokens"], rows["mask"])
    return flow_matching_loss(policy, prefix, rows["state"], rows["action"], noise, time, in_episode, given)


def lerobots(
    model: PeftModel, rows: dict, noise: torch.Tensor, time: torch.Tensor, reduction: str = "none"
) -> torch.Tensor:
    batch = {
        "observation.images.front": rows["pixels"].permute(0, 3, 1, 2).float() / 255,
        "observation.state": rows["state"],
        "action": rows["action"],
        "observation.language.tokens": rows["tokens"],
        "observation.language.attention_mask": rows["mask"],
    }
    batch |= {key: rows[key] for key in ("action_is_pad",) if key in rows}
    return model.get_base_model().forward(batch, noise=noise, time=time, reduction=reduction)[0]


def gradient(model: PeftModel, loss: torch.Tensor) -> torch.Tensor:
    parameters = list(adapter_parameters(model).values())
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])


def test_one_draw_equals_lerobots_forward(model: PeftModel, rows: dict) -> None:
    torch.manual_seed(0)
    noise, time = draw(model.get_base_model(), ROWS, 1)
    got, want = ours(model, rows, noise, time), lerobots(model, rows, noise[:, 0], time[:, 0])
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    a, b = gradient(model, got.mean()), gradient(model, want.mean())
    assert (a - b).norm() / b.norm() < 1e-5


def test_actions_past_the_end_are_left_out_as_lerobot_leaves_them_out(model: PeftModel, rows: dict) -> None:
    torch.manual_seed(0)
    noise, time = draw(model.get_base_model(), ROWS, 1)
    in_episode = torch.arange(8)[None] < torch.tensor([8, 1, 5, 8, 3])[:, None]
    padded = rows | {"action_is_pad": ~in_episode}
    got = ours(model, rows, noise, time, in_episode)
    want = lerobots(model, padded, noise[:, 0], time[:, 0])
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    count = in_episode.sum(1)
    mean = lerobots(model, padded, noise[:, 0], time[:, 0], reduction="mean")
    torch.testing.assert_close((got * count).sum() / count.sum(), mean, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(got, ours(model, rows, noise, time), rtol=1e-2)


def test_several_draws_are_their_mean(model: PeftModel, rows: dict) -> None:
    torch.manual_seed(0)
    noise, time = draw(model.get_base_model(), ROWS, 3)
    together = ours(model, rows, noise, time)
    single = torch.stack([lerobots(model, rows, noise[:, d], time[:, d]) for d in range(3)])
    torch.testing.assert_close(together, single.mean(0), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_without_given_actions_it_is_lerobots_step_bit_for_bit(model: PeftModel, rows: dict) -> None:
    policy = model.get_base_model()
    torch.manual_seed(0)
    noise, time = draw(policy, ROWS, 2)
    features = embed_images(policy, {"front": rows["pixels"]})
    prefix = encode_prefix(policy, features, rows["tokens"], rows["mask"])
    cache, valid = _with_state(policy, prefix, policy.prepare_state({"observation.state": rows["state"]}))
    cache.batch_repeat_interleave(2)
    actions = policy.prepare_action({"action": rows["action"]}).repeat_interleave(2, 0)
    flat, t = noise.flatten(0, 1), time.flatten()[:, None, None]
    step = policy.model.denoise_step(
        valid.repeat_interleave(2, 0), cache, t * flat + (1 - t) * actions, time.flatten()
    )
    squared = F.mse_loss(flat - actions, step, reduction="none")[..., :6]
    want = squared.mean(dim=(1, 2)).unflatten(0, (ROWS, 2)).mean(1)
    assert torch.equal(ours(model, rows, noise, time), want)
    none_given = torch.zeros(ROWS, 2, dtype=torch.int64)
    torch.testing.assert_close(ours(model, rows, noise, time, given=none_given), want, rtol=1e-5, atol=1e-6)


@for_all(counts=st.lists(st.integers(0, 7), min_size=ROWS, max_size=ROWS))
@settings(max_examples=10, deadline=None)
@torch.no_grad()
def test_given_actions_have_no_noise_and_do_not_count(
    model: PeftModel, rows: dict, counts: list[int]
) -> None:
    torch.manual_seed(0)
    noise, time = draw(model.get_base_model(), ROWS, 1)
    given = torch.tensor(counts)[:, None]
    loss = ours(model, rows, noise, time, given=given)
    is_given = torch.arange(8) < given
    noise[:, 0][is_given] += 1
    assert torch.equal(ours(model, rows, noise, time, given=given), loss)
    # They are seen, though: what follows depends on them.
    moved = rows | {"action": rows["action"] + 3 * is_given[..., None]}
    changed = (ours(model, moved, noise, time, given=given) - loss).abs() > 1e-6
    assert changed.tolist() == [count > 0 for count in counts]


@torch.no_grad()
def test_the_loss_after_given_actions_is_the_mean_over_the_others(model: PeftModel, rows: dict) -> None:
    """One row at a time: masking an action that is not given takes its share out of the mean."""
    torch.manual_seed(0)
    noise, time = draw(model.get_base_model(), ROWS, 1)
    given = torch.full((ROWS, 1), 3)

    def loss(actions: int) -> torch.Tensor:
        in_episode = (torch.arange(8) < actions).expand(ROWS, -1)
        return ours(model, rows, noise, time, in_episode, given)

    whole = ours(model, rows, noise, time, given=given)
    torch.testing.assert_close(loss(8), whole, rtol=1e-5, atol=1e-6)
    last = 5 * whole - 4 * loss(7)  # the sum over five actions less that over four
    assert bool((last > 0).all())
    moved = rows | {"action": rows["action"].clone()}
    moved["action"][:, 7] += 3  # a token sees no later one: the first four stay what they were
    changed = 5 * ours(model, moved, noise, time, given=given) - 4 * loss(7)
    assert bool(((changed - last).abs() > 1e-3).all())
    in_four = (torch.arange(8) < 7).expand(ROWS, -1)
    torch.testing.assert_close(ours(model, moved, noise, time, in_four, given), loss(7), rtol=1e-5, atol=1e-6)


def test_of_a_row_near_the_end_one_action_always_trains(model: PeftModel, rows: dict) -> None:
    torch.manual_seed(0)
    noise, time = draw(model.get_base_model(), ROWS, 1)
    in_episode = torch.arange(8)[None] < torch.tensor([8, 1, 5, 8, 3])[:, None]
    most = in_episode.sum(1, keepdim=True) - 1
    all_given = ours(model, rows, noise, time, in_episode, torch.full((ROWS, 1), 7))
    assert torch.equal(all_given, ours(model, rows, noise, time, in_episode, most))
    assert bool((all_given > 0).all())


def test_every_number_of_given_actions_is_drawn_alike() -> None:
    drawn = draw_given(1000, 4, 3, seed=5)
    assert torch.equal(drawn, draw_given(1000, 4, 3, seed=5))
    assert torch.bincount(drawn.flatten(), minlength=4).sub(1000).abs().max() < 130  # five deviations
    assert drawn.min() == 0
    assert drawn.max() == 3


def test_sampled_actions_are_lerobots(model: PeftModel, rows: dict) -> None:
    policy = model.get_base_model()
    torch.manual_seed(0)
    noise = draw(policy, ROWS, 1)[0][:, 0]
    prefix = encode_prefix(
        policy, embed_images(policy, {"front": rows["pixels"]}), rows["tokens"], rows["mask"]
    )
    got = sample_actions(policy, prefix, rows["state"], noise)
    batch = {
        "observation.images.front": rows["pixels"].permute(0, 3, 1, 2).float() / 255,
        "observation.state": rows["state"],
        "observation.language.tokens": rows["tokens"],
        "observation.language.attention_mask": rows["mask"],
    }
    with torch.no_grad():
        want = policy.predict_action_chunk(batch, noise=noise)
    assert got.shape == (ROWS, 8, 6)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_the_policy_still_embeds_pixels_afterwards(model: PeftModel, rows: dict) -> None:
    torch.manual_seed(0)
    noise, time = draw(model.get_base_model(), ROWS, 1)
    before = lerobots(model, rows, noise[:, 0], time[:, 0])
    ours(model, rows, noise, time)
    torch.testing.assert_close(lerobots(model, rows, noise[:, 0], time[:, 0]), before)
