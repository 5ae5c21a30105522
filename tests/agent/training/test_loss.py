"""The loss from a cached prefix is LeRobot's loss."""

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel

from agent.training.loss import draw, embed_images, encode_prefix, flow_matching_loss, sample_actions
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
) -> torch.Tensor:
    policy = model.get_base_model()
    features = embed_images(policy, {"front": rows["pixels"]})
    prefix = encode_prefix(policy, features, rows["tokens"], rows["mask"])
    return flow_matching_loss(policy, prefix, rows["state"], rows["action"], noise, time, in_episode)


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
