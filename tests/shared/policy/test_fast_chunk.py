"""The fast path: LeRobot's actions from the same noise, for whatever structure, adapter and observation."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from loguru import logger
from peft import LoraConfig, get_peft_model
from torch import Tensor

from shared.policy import checked_chunk, fast_chunk, fast_layers
from shared.policy.adapter import adapter_parameters, add_adapter
from shared.policy.base import load_base
from shared.policy.checked_chunk import LARGEST_DIFFERENCE, LARGEST_DIFFERENCE_BF16, CheckedChunk
from shared.policy.chunker import Chunker
from shared.policy.conditioning import complete
from shared.policy.fast_chunk import FastChunk, obstacle
from shared.policy.initial import initial_adapter
from shared.recipe import PRESETS, Recipe

TASK = "push the red cube to the left"
EXPERT = r".*lm_expert.*(q|k|v|o|gate|up|down)_proj"
CAMERAS = ("front", "wrist", "side")


def make_policy(base: Path, cameras: int = 1, **changes: Any) -> SmolVLAPolicy:
    """The tiny base's configuration with changes, random weights."""
    config = copy.deepcopy(load_base(base).config)
    for camera in CAMERAS[:cameras]:
        config.input_features[f"observation.images.{camera}"] = PolicyFeature(FeatureType.VISUAL, (3, 96, 96))
    for name, value in changes.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    return SmolVLAPolicy(config).float().requires_grad_(False).eval()


def make_batch(policy: SmolVLAPolicy, rows: int = 2, seed: int = 0, cameras: int = 1) -> dict[str, Tensor]:
    """As it comes from the processors: sentences of different lengths, padded, in `rows` > 1."""
    generator = torch.Generator().manual_seed(seed)
    length = 7
    ends = torch.tensor([max(1, length - row) for row in range(rows)])
    batch = {
        "observation.state": torch.randn(rows, 6, generator=generator),
        "observation.language.tokens": torch.randint(0, 100, (rows, length), generator=generator),
        "observation.language.attention_mask": torch.arange(length)[None] < ends[:, None],
    }
    for camera in CAMERAS[:cameras]:
        batch[f"observation.images.{camera}"] = torch.rand(rows, 3, 72, 96, generator=generator)
    return batch


def make_noise(policy: SmolVLAPolicy, rows: int = 2, seed: int = 0) -> Tensor:
    size = (rows, policy.config.chunk_size, policy.config.max_action_dim)
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def difference(policy: SmolVLAPolicy, batch: dict[str, Tensor], noise: Tensor, **request: Any) -> float:
    assert obstacle(policy) is None
    stock = policy.predict_action_chunk(batch, noise=noise, **request)
    assert stock.std() > 0.1
    return float((FastChunk(policy).predict_action_chunk(batch, noise, **request) - stock).abs().max())


def adapt(policy: SmolVLAPolicy, seed: int = 0, **changes: Any) -> None:
    """LoRA with something in every matrix."""
    model = get_peft_model(policy, LoraConfig(r=4, lora_alpha=8, target_modules=EXPERT, **changes))
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapter_parameters(model).values():
        parameter.data += torch.randn(parameter.shape, generator=generator) * 0.1
    policy.requires_grad_(False)


@pytest.fixture
def log() -> Iterator[list[str]]:
    lines: list[str] = []
    handler = logger.add(lambda message: lines.append(str(message)), format="{level} {message}")
    yield lines
    logger.remove(handler)


@settings(max_examples=12, deadline=None)
@given(
    rows=st.integers(1, 3),
    cameras=st.integers(1, 2),
    mode=st.sampled_from(["cross_attn", "self_attn"]),
    every=st.integers(0, 2),
    chunk=st.integers(1, 9),
    steps=st.integers(1, 4),
    prefix_length=st.sampled_from([-1, 100]),
    width=st.sampled_from([0.5, 0.75]),
    seed=st.integers(0, 99),
)
def test_the_actions_are_lerobots(
    tiny_base: Path,
    rows: int,
    cameras: int,
    mode: str,
    every: int,
    chunk: int,
    steps: int,
    prefix_length: int,
    width: float,
    seed: int,
) -> None:
    policy = make_policy(
        tiny_base,
        cameras,
        attention_mode=mode,
        self_attn_every_n_layers=every,
        chunk_size=chunk,
        n_action_steps=1,
        num_steps=steps,
        prefix_length=prefix_length,
        expert_width_multiplier=width,
    )
    batch = make_batch(policy, rows, seed, cameras)
    assert difference(policy, batch, make_noise(policy, rows, seed)) <= LARGEST_DIFFERENCE


@pytest.mark.parametrize(
    "adapter",
    [{}, {"modules_to_save": ["state_proj", "action_out_proj"]}, {"use_dora": True}, {"lora_dropout": 0.5}],
    ids=["LoRA", "modules saved in full", "DoRA", "dropout of training"],
)
def test_with_an_adapter(tiny_base: Path, adapter: dict[str, Any]) -> None:
    policy = load_base(tiny_base)
    before = FastChunk(policy).predict_action_chunk(make_batch(policy), make_noise(policy))
    adapt(policy, **adapter)
    for seed in range(3):
        noise = make_noise(policy, seed=seed)
        assert difference(policy, make_batch(policy, seed=seed), noise) <= LARGEST_DIFFERENCE
    after = FastChunk(policy).predict_action_chunk(make_batch(policy), make_noise(policy))
    assert (after - before).abs().max() > 1e-2


def test_cameras_that_are_missing_or_masked(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded: list[int] = []

    def counted(vlm: Any, image: Tensor, positions: Tensor) -> Tensor:
        embedded.append(len(image))
        return fast_layers.embed_image(vlm, image, positions)

    monkeypatch.setattr(fast_chunk, "embed_image", counted)
    policy = make_policy(tiny_base, cameras=3, empty_cameras=1)
    batch, noise = make_batch(policy, cameras=2), make_noise(policy)
    assert difference(policy, batch, noise) <= LARGEST_DIFFERENCE
    assert len(embedded) == 2  # the third camera is LeRobot's black one
    masked = {"observation.images.front_padding_mask": torch.tensor([True, False])}
    assert difference(policy, batch | masked, noise) <= LARGEST_DIFFERENCE
    masked["observation.images.wrist_padding_mask"] = torch.tensor([False, False])
    assert difference(policy, batch | masked, noise) <= LARGEST_DIFFERENCE
    assert len(embedded) == 2 + 2 + 1


@pytest.mark.parametrize("adapted", [False, True])
def test_under_guidance(tiny_base: Path, adapted: bool) -> None:
    policy = load_base(tiny_base)
    policy.config.rtc_config = RTCConfig(execution_horizon=4)
    policy.init_rtc_processor()
    if adapted:
        adapt(policy)
    batch, noise = make_batch(policy), make_noise(policy)
    free = policy.predict_action_chunk(batch, noise=noise)
    request = {"inference_delay": 2, "prev_chunk_left_over": torch.full((2, 5, 6), 0.7)}
    assert difference(policy, batch, noise) <= LARGEST_DIFFERENCE
    assert difference(policy, batch, noise, **request) <= LARGEST_DIFFERENCE
    guided = FastChunk(policy).predict_action_chunk(batch, noise, **request)
    assert (guided - free).abs().max() > 0.1


@pytest.mark.parametrize("count", [1, 3])
def test_with_actions_given(tiny_base: Path, count: int) -> None:
    policy = load_base(tiny_base)
    adapt(policy)
    batch, noise, given = make_batch(policy), make_noise(policy), torch.full((2, count, 6), 0.7)
    wanted = complete(policy, batch, noise, given)
    assert (FastChunk(policy).complete(batch, noise, given) - wanted).abs().max() <= LARGEST_DIFFERENCE
    free = policy.predict_action_chunk(batch, noise=noise)
    assert (wanted - free)[:, count:].abs().max() > 1e-2


def test_in_bf16_it_is_as_near_to_float32_as_lerobot(tiny_base: Path) -> None:
    policy = make_policy(tiny_base)
    batch, noise = make_batch(policy), make_noise(policy)
    wanted = policy.predict_action_chunk(batch, noise=noise)
    policy.model.vlm_with_expert.bfloat16()
    adapt(policy)
    for parameter in adapter_parameters(policy).values():
        parameter.data.zero_()
    assert obstacle(policy) is None
    stock = policy.predict_action_chunk(batch, noise=noise)
    ours = FastChunk(policy).predict_action_chunk(batch, noise)
    assert 0 < (ours - wanted).abs().max() <= LARGEST_DIFFERENCE_BF16
    assert (ours - stock).abs().max() <= LARGEST_DIFFERENCE_BF16


def test_a_swap_in_place_is_seen(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chunker = Chunker(tiny_base)
    recipe = Recipe.model_validate(PRESETS["wide"])
    tensors, config = initial_adapter(tiny_base, recipe)
    rng = np.random.default_rng(0)
    seen = []
    for spread in (0.0, 0.1, 0.2):
        moved = {n: (t + rng.normal(0, spread, t.shape)).astype(np.float32) for n, t in tensors.items()}
        chunker.load_tensors(moved, config)
        chunker.reseed(0)
        image = np.zeros((1, 96, 96, 3), np.uint8)
        chunker.chunk(np.zeros((1, 6), np.float32), {"front": image}, [TASK])  # compared
        assert chunker._path.is_fast
        chunker.reseed(0)
        monkeypatch.setattr(chunker.policy, "predict_action_chunk", lambda *_, **__: pytest.fail("stock"))
        seen.append(chunker.chunk(np.zeros((1, 6), np.float32), {"front": image}, [TASK])[0])
        monkeypatch.undo()
    assert np.abs(seen[1] - seen[0]).max() > 1e-2
    assert np.abs(seen[2] - seen[1]).max() > 1e-2


def test_a_recipes_adapter_is_computed_from_the_live_tensors(tiny_base: Path) -> None:
    policy = load_base(tiny_base)
    model = add_adapter(policy, Recipe.model_validate(PRESETS["expert"]))
    policy.requires_grad_(False)
    batch, noise = make_batch(policy), make_noise(policy)
    fast = FastChunk(policy)
    before = fast.predict_action_chunk(batch, noise)
    for parameter in adapter_parameters(model).values():
        parameter.data += 0.05
    stock = policy.predict_action_chunk(batch, noise=noise)
    assert (fast.predict_action_chunk(batch, noise) - stock).abs().max() <= LARGEST_DIFFERENCE
    assert (stock - before).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"add_image_special_tokens": True}, "add_image_special_tokens is on"),
        ({"num_expert_layers": 1}, "its expert has another number of layers"),
    ],
)
def test_another_structure_is_left_to_lerobot(
    tiny_base: Path, log: list[str], changes: dict[str, Any], reason: str
) -> None:
    policy = make_policy(tiny_base, **changes)
    assert obstacle(policy) == reason
    path, batch, noise = CheckedChunk(policy), make_batch(policy), make_noise(policy)
    wanted = policy.predict_action_chunk(batch, noise=noise)
    for _ in range(2):
        torch.testing.assert_close(path.predict_action_chunk(batch, noise=noise), wanted, rtol=0, atol=0)
        path.renew()
    assert [line for line in log if reason in line] == [
        f"INFO LeRobot computes the action chunks of this base: {reason}\n"
    ]


def test_each_obstacle_has_its_words(tiny_base: Path) -> None:
    policy = load_base(tiny_base)
    assert obstacle(policy) is None
    policy.config.attention_mode = "other"
    assert obstacle(policy) == "its attention_mode is other"
    policy.config.attention_mode, policy.config.use_cache = "cross_attn", False
    assert obstacle(policy) == "use_cache is off"
    policy.config.use_cache = True
    policy.model.state_proj.bfloat16()
    assert obstacle(policy) == "its weights are of mixed precision"
    policy.model.__class__ = type("Other", (type(policy.model),), {})
    assert obstacle(policy) == "its model is not LeRobot's own SmolVLA"


@pytest.mark.parametrize("fault", ["wrong", "NaN", "error"])
def test_a_broken_fast_path_is_found_at_the_first_chunk(
    tiny_base: Path, log: list[str], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    policy = load_base(tiny_base)
    path, batch, noise = CheckedChunk(policy), make_batch(policy), make_noise(policy)
    wanted = policy.predict_action_chunk(batch, noise=noise)

    def broken(x: Tensor, table: Any) -> Tensor:
        if fault == "error":
            raise RuntimeError("no such kernel")
        return x if fault == "wrong" else x * torch.nan

    with monkeypatch.context() as patched:
        patched.setattr(fast_chunk, "rotate", broken)
        for _ in range(2):
            torch.testing.assert_close(path.predict_action_chunk(batch, noise=noise), wanted, rtol=0, atol=0)
            assert not path.is_fast
    assert len([line for line in log if line.startswith("WARNING") and "LeRobot computes" in line]) == 1
    path.compare_again()
    path.predict_action_chunk(batch, noise=noise)
    assert not path.is_fast  # it stays off
    path.renew()
    torch.testing.assert_close(path.predict_action_chunk(batch, noise=noise), wanted, rtol=0, atol=1e-5)
    assert path.is_fast


def test_the_stock_path_runs_once_per_kind_of_adapter(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = load_base(tiny_base)
    path, batch, noise = checked_chunk.CheckedChunk(policy), make_batch(policy), make_noise(policy)
    stock, calls = policy.predict_action_chunk, []
    monkeypatch.setattr(
        policy, "predict_action_chunk", lambda *args, **request: (calls.append(1), stock(*args, **request))[1]
    )
    for _ in range(3):
        path.predict_action_chunk(batch, noise=noise)
    assert len(calls) == 1
    path.compare_again()
    for _ in range(2):
        path.predict_action_chunk(batch, noise=noise)
    assert len(calls) == 2
    path.renew()
    path.predict_action_chunk(batch, noise=noise)
    assert len(calls) == 3


def frozen_precision(chunker: Chunker) -> torch.dtype:
    return next(chunker.policy.model.vlm_with_expert.parameters()).dtype


def test_a_chunker_goes_on_in_bf16_where_actions_stay_nearly_the_same(tiny_base: Path) -> None:
    exact, half = Chunker(tiny_base), Chunker(tiny_base, precision="bf16")
    assert (frozen_precision(exact), frozen_precision(half)) == (torch.float32, torch.bfloat16)
    tensors, config = initial_adapter(tiny_base, Recipe.model_validate(PRESETS["wide"]))
    assert exact.load_tensors(tensors, config) == half.load_tensors(tensors, config), "the same live tensors"
    image, state = np.zeros((1, 96, 96, 3), np.uint8), np.zeros((1, 6), np.float32)
    first, second = (each.chunk(state, {"front": image}, [TASK])[0] for each in (exact, half))
    assert 0 < np.abs(second - first).max() <= LARGEST_DIFFERENCE_BF16


def test_a_base_that_bf16_changes_too_much_stays_in_float32(
    tiny_base: Path, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.policy.chunker.LARGEST_DIFFERENCE_BF16", 0.0)
    chunker = Chunker(tiny_base, precision="bf16")
    assert frozen_precision(chunker) == torch.float32
    assert len([line for line in log if line.startswith("WARNING") and "float32 it is" in line]) == 1
    image, state = np.zeros((1, 96, 96, 3), np.uint8), np.zeros((1, 6), np.float32)
    found, wanted = (each.chunk(state, {"front": image}, [TASK])[0] for each in (chunker, Chunker(tiny_base)))
    np.testing.assert_array_equal(found, wanted)
