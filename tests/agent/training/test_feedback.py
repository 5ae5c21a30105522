"""What a codec leaves out of an update goes with the next one."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.training.checkpoint import Progress, State, load_checkpoint
from agent.training.feedback import left_out, owed, with_residual
from agent.training.trainer import CHECKPOINT
from shared.adapters import Tensors
from shared.codec import decode, encode
from shared.policy.initial import initial_adapter
from shared.recipe import Recipe

INT4 = Recipe(codec="int4-zstd")
SHAPES = {"m.lora_A.weight": (3, 50), "m.weight": (7,)}


def progress(recipe: Recipe = INT4, base: str = "b" * 64) -> Progress:
    return Progress(
        update_id="0" * 32,
        base_digest=base,
        base_version=0,
        recipe=recipe,
        learning_rate=1e-3,
        episodes=[],
        first_step=0,
    )


def length(tensors: Tensors) -> float:
    return float(np.sqrt(sum((array.astype(float) ** 2).sum() for array in tensors.values())))


@given(st.integers(0, 1000), st.lists(st.floats(1e-6, 1.0), min_size=2, max_size=12))
@settings(max_examples=50, deadline=None)
def test_what_was_sent_in_all_is_what_was_learnt_but_for_one_residual(seed: int, sizes: list[float]) -> None:
    rng = np.random.default_rng(seed)
    learnt = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    sent = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    residual: dict[str, torch.Tensor] = {}
    share = longest = 0.0
    for size in sizes:
        delta = {name: (size * rng.normal(size=shape)).astype(np.float32) for name, shape in SHAPES.items()}
        wanted = with_residual(delta, residual)
        data = encode(wanted, "int4-zstd")
        residual = left_out(wanted, data, "int4-zstd")
        decoded = decode(data, wanted, "int4-zstd")
        for name in SHAPES:
            learnt[name] += delta[name]
            sent[name] += decoded[name]
        left = {name: tensor.numpy() for name, tensor in residual.items()}
        share, longest = max(share, length(left) / length(wanted)), max(longest, length(delta))
    for name in SHAPES:
        np.testing.assert_allclose(sent[name] + left[name], learnt[name], atol=1e-5 * max(sizes))
    assert share < 0.2
    assert length(left) <= share / (1 - share) * longest * 1.001


@pytest.mark.parametrize(
    ("now", "shapes"),
    [
        (progress(Recipe()), SHAPES),
        (progress(base="c" * 64), SHAPES),
        (progress(), SHAPES | {"m.weight": (8,)}),
        (progress(), SHAPES | {"n.weight": (7,)}),
    ],
    ids=["other codec", "other base", "other shape", "other names"],
)
def test_a_residual_of_something_else_is_dropped(now: Progress, shapes: dict[str, tuple[int, ...]]) -> None:
    residual = {name: torch.ones(shape) for name, shape in SHAPES.items()}
    last: tuple[Progress, State] = (progress(), {"residual": residual})
    fitting = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    assert owed(last, progress(), fitting) is residual
    assert owed(last, now, {name: np.zeros(shape) for name, shape in shapes.items()}) == {}


def test_the_next_update_carries_what_this_one_left_out(
    trainer: Callable, tiny_base: Path, recipe: Recipe, tmp_path: Path
) -> None:
    coarse = recipe.model_copy(update={"codec": "int4-zstd", "steps": 2})
    tensors = initial_adapter(tiny_base, coarse)[0]
    trained = trainer(tmp_path)

    def update(version: int, with_recipe: Recipe) -> tuple[Tensors, Tensors, State]:
        made = trained.train(tensors, version, with_recipe, 2e-3)
        loaded = load_checkpoint(tmp_path / CHECKPOINT)
        assert loaded is not None
        state = loaded[1]
        learnt = {name: (state["now"][name] - state["start"][name]).numpy() for name in tensors}
        assert made.header.codec == with_recipe.codec
        return learnt, decode(made.delta, tensors, made.header.codec), state

    first, sent, state = update(0, coarse)
    left = {name: tensor.numpy() for name, tensor in state["residual"].items()}
    assert 0 < length(left) < 0.2 * length(first)
    for name in tensors:
        np.testing.assert_array_equal(first[name] - sent[name], left[name])
    second, sent, state = update(1, coarse)
    for name in tensors:
        wanted = second[name] + left[name]
        np.testing.assert_array_equal(wanted - sent[name], state["residual"][name].numpy())
    exact, sent, state = update(2, coarse.model_copy(update={"codec": "fp16-zstd"}))
    assert "residual" not in state
    for name in tensors:
        np.testing.assert_array_equal(exact[name].astype(np.float16), sent[name])
