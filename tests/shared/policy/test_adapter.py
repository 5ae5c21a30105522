"""Adapters: version 0, live tensors, and folders that stock PEFT loads over stock LeRobot."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shared import adapters
from shared.adapters import Contribution, Manifest, Tensors
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.module_patterns import either
from shared.normalisation import Statistics, measured
from shared.policy.adapter import add_adapter, get_tensors, live_digest, set_tensors
from shared.policy.base import action_spread, load_base, load_processors
from shared.policy.chunker import Chunker
from shared.policy.digest import base_digest
from shared.policy.initial import initial_adapter, peft_config
from shared.policy.rtc import Guidance
from shared.recipe import ATTENTION, PRESETS, Recipe

TASKS = ["push the red cube to the left", "pull the blue cube back"]
WIDE = Recipe.model_validate(PRESETS["wide"])
OWN = measured(*np.random.default_rng(5).normal(3, 12, (2, 200, 6)))
"""Statistics unlike the base's."""


def observation(rows: int = 2) -> tuple[np.ndarray, dict[str, np.ndarray], list[str]]:
    rng = np.random.default_rng(3)
    state = rng.normal(0, 20, (rows, 6)).astype(np.float32)
    images = {"front": rng.integers(0, 255, (rows, 96, 96, 3), dtype=np.uint8)}
    return state, images, TASKS[:rows]


@pytest.fixture(scope="module")
def trained(tiny_base: Path) -> Tensors:
    """Version 0 with a change in every tensor."""
    tensors, _ = initial_adapter(tiny_base, WIDE)
    rng = np.random.default_rng(4)
    return {n: (t + rng.normal(0, 0.05, t.shape)).astype(np.float32) for n, t in tensors.items()}


@pytest.fixture(scope="module")
def folder(tiny_base: Path, trained: Tensors, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("adapter")
    manifest = Manifest(
        version=7,
        parent=6,
        base_digest=base_digest(tiny_base),
        tensors_digest=adapters.digest(trained),
        recipe=WIDE,
        created="2026-01-01T00:00:00Z",
    )
    adapters.write_adapter(path, trained, peft_config(tiny_base, WIDE), manifest)
    return path


@pytest.fixture
def chunker(tiny_base: Path) -> Chunker:
    return Chunker(tiny_base)


def test_version_0_changes_nothing(chunker: Chunker, tiny_base: Path) -> None:
    before, _ = chunker.chunk(*observation())
    digest = chunker.load_identity(WIDE)
    chunker.reseed(0)
    after, _ = chunker.chunk(*observation())
    np.testing.assert_array_equal(before, after)
    assert digest == adapters.digest(initial_adapter(tiny_base, WIDE)[0])


def test_version_0_follows_from_the_seed(tiny_base: Path) -> None:
    first, again = initial_adapter(tiny_base, WIDE)[0], initial_adapter(tiny_base, WIDE)[0]
    other, _ = initial_adapter(tiny_base, WIDE.model_copy(update={"seed": 1}))
    assert adapters.digest(first) == adapters.digest(again) != adapters.digest(other)
    a = first["base_model.model.model.vlm_with_expert.lm_expert.layers.0.self_attn.q_proj.lora_A.weight"]
    assert a.shape[0] == WIDE.rank
    assert 0.5 < a.std() * np.sqrt(3 * a.shape[1]) < 1.5  # uniform in ±1/sqrt(inputs)


def test_names_are_those_peft_saves(tiny_base: Path, trained: Tensors, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    model = add_adapter(load_base(tiny_base), WIDE)
    set_tensors(model, trained)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert adapters.digest(saved) == adapters.digest(trained) == live_digest(model)


@pytest.fixture(scope="module")
def normalised(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same version with statistics of its own."""
    tensors, config, manifest = adapters.read_adapter(folder)
    assert manifest is not None
    changes = {"normalisation": OWN, "tensors_digest": adapters.digest(tensors, OWN)}
    path = tmp_path_factory.mktemp("normalised")
    adapters.write_adapter(path, tensors, config, manifest.model_copy(update=changes))
    return path


@pytest.mark.parametrize("own", [None, OWN], ids=["statistics of the base", "statistics of the version"])
def test_stock_peft_over_stock_lerobot_gives_the_same_actions(
    chunker: Chunker, tiny_base: Path, folder: Path, normalised: Path, own: Statistics | None
) -> None:
    from lerobot.policies.factory import make_pre_post_processors
    from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
    from peft import PeftModel

    chunker.load_version(normalised if own else folder)
    ours_normal, ours_units = chunker.chunk(*observation())

    overrides: dict[str, Any] = {}
    if own is not None:
        stats = {
            key: {"mean": np.array(of.mean, np.float32), "std": of.std.astype(np.float32)}
            for key, of in {"observation.state": own.state, "action": own.action}.items()
        }
        overrides = {
            "preprocessor_overrides": {"normalizer_processor": {"stats": stats}},
            "postprocessor_overrides": {"unnormalizer_processor": {"stats": stats}},
        }
    policy = SmolVLAPolicy.from_pretrained(tiny_base)
    model = PeftModel.from_pretrained(policy, folder)
    preprocess, postprocess = make_pre_post_processors(
        policy.config, pretrained_path=str(tiny_base), **overrides
    )
    state, images, tasks = observation()
    batch = preprocess(
        {
            "observation.state": torch.from_numpy(state),
            "observation.images.front": torch.from_numpy(images["front"]).permute(0, 3, 1, 2).float() / 255,
            "task": tasks,
        }
    )
    noise = torch.randn((2, 8, policy.config.max_action_dim), generator=torch.Generator().manual_seed(0))
    theirs = model.predict_action_chunk(batch, noise=noise)
    np.testing.assert_allclose(ours_normal, theirs.numpy(), atol=1e-5)
    np.testing.assert_allclose(ours_units, postprocess(theirs).numpy(), rtol=1e-5, atol=1e-4)


def test_statistics_are_swapped_with_their_version(
    chunker: Chunker, folder: Path, normalised: Path, trained: Tensors
) -> None:
    def units() -> np.ndarray:
        chunker.reseed(0)
        return chunker.chunk(*observation())[1]

    chunker.load_version(folder)
    before = units()
    assert chunker.load_version(normalised) == adapters.digest(trained, OWN) != adapters.digest(trained)
    assert np.abs(units() - before).max() > 1
    chunker.load_version(folder)
    np.testing.assert_array_equal(units(), before)
    chunker.load_version(normalised)
    assert chunker.load_version(None) is None
    assert chunker.normalisation is None


def test_a_version_that_does_not_fit_leaves_the_statistics_as_they_were(
    chunker: Chunker, folder: Path, normalised: Path
) -> None:
    chunker.load_version(folder)
    before = chunker.chunk(*observation())[1]
    tensors, config, _ = adapters.read_adapter(normalised)
    wrong = {name: array for name, array in tensors.items() if "action_out_proj" not in name}
    with pytest.raises(ArmfleetError, match="does not fit"):
        chunker.load_tensors(wrong, config, OWN)
    chunker.reseed(0)
    np.testing.assert_array_equal(chunker.chunk(*observation())[1], before)


def test_the_spread_of_actions_is_that_of_the_live_version(
    chunker: Chunker, folder: Path, normalised: Path
) -> None:
    chunker.load_version(normalised)
    assert chunker.spread is not None
    for told, own in zip(chunker.spread, (OWN.action.mean, OWN.action.std), strict=True):
        np.testing.assert_allclose(told, own)
    chunker.load_version(folder)
    assert chunker.spread is not None
    assert chunker.spread[1] == pytest.approx([10, 14, 18, 22, 26, 30]), "the base's"


def test_a_base_without_deviations_has_no_spread(tiny_base: Path) -> None:
    _, postprocessor = load_processors(tiny_base)
    for step in postprocessor.steps:
        if hasattr(step, "stats"):
            step.stats = {"action": {"min": np.zeros(6), "max": np.ones(6)}}
    assert action_spread(postprocessor) is None


def test_a_base_that_normalises_otherwise_takes_no_statistics(tiny_base: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    file = base / "policy_preprocessor.json"
    file.write_text(file.read_text().replace("MEAN_STD", "MIN_MAX"))
    with pytest.raises(ArmfleetError, match="normalises by MIN_MAX") as error:
        load_processors(base, normalisation=OWN)
    assert error.value.code is ExitCode.BASE_MISMATCH


def test_swaps_are_in_place_and_complete(chunker: Chunker, folder: Path, trained: Tensors) -> None:
    base, _ = chunker.chunk(*observation())
    chunker.load_identity(WIDE)
    module_ids = [id(module) for module in chunker.policy.modules()]
    assert chunker.load_version(folder) == adapters.digest(trained)
    assert [id(module) for module in chunker.policy.modules()] == module_ids
    chunker.reseed(0)
    changed, _ = chunker.chunk(*observation())
    assert np.abs(changed - base).max() > 1e-3
    assert chunker.load_version(None) is None
    chunker.reseed(0)
    np.testing.assert_array_equal(chunker.chunk(*observation())[0], base)


def test_an_adapter_of_another_recipe_is_swapped_too(chunker: Chunker, folder: Path, tiny_base: Path) -> None:
    chunker.load_version(folder)
    narrow = Recipe(rank=4, alpha=8)
    digest = chunker.load_tensors(*initial_adapter(tiny_base, narrow))
    assert digest == adapters.digest(initial_adapter(tiny_base, narrow)[0])


def test_a_version_of_another_base_is_refused(chunker: Chunker, folder: Path, tmp_path: Path) -> None:
    tensors, config, manifest = adapters.read_adapter(folder)
    assert manifest is not None
    foreign = manifest.model_copy(update={"base_digest": "f" * 64})
    adapters.write_adapter(tmp_path, tensors, config, foreign)
    with pytest.raises(ArmfleetError, match="version 7 was made for the base ffffffffffff") as error:
        chunker.load_version(tmp_path)
    assert error.value.code is ExitCode.BASE_MISMATCH


def test_what_a_version_was_trained_for_comes_with_its_folder(
    chunker: Chunker, folder: Path, tmp_path: Path
) -> None:
    tensors, config, manifest = adapters.read_adapter(folder)
    assert manifest is not None
    part = Contribution(update_id="u", node="a", weight=1.0, staleness=0)
    changes = {"recipe": WIDE.model_copy(update={"delay": 3}), "contributions": [part]}
    adapters.write_adapter(tmp_path, tensors, config, manifest.model_copy(update=changes))
    chunker.load_version(tmp_path)
    running = np.random.default_rng(0).normal(size=(2, 5, 6)).astype(np.float32)
    original, _ = chunker.chunk(*observation(), inference_delay=3, prev_chunk=running)
    np.testing.assert_array_equal(original[:, :3], running[:, :3])
    chunker.load_version(folder)
    assert chunker.delay == 0


def test_a_partial_adapter_changes_nothing(tiny_base: Path, trained: Tensors) -> None:
    model = add_adapter(load_base(tiny_base), WIDE)
    before = live_digest(model)
    wrong = dict(trained)
    wrong.popitem()
    with pytest.raises(ArmfleetError, match="1 tensors differ"):
        set_tensors(model, wrong)
    assert live_digest(model) == before
    assert get_tensors(model).keys() == trained.keys()


def test_a_recipe_that_does_not_fit_the_base_is_refused(tiny_base: Path) -> None:
    with pytest.raises(ArmfleetError, match="nothing matches"):
        initial_adapter(tiny_base, Recipe(target_modules=r"no\.such\.module"))
    listed = Recipe(target_modules=either([ATTENTION, r".*\.misspelt"]))
    with pytest.raises(ArmfleetError, match=r"nothing matches \(\?:\.\*\\\.misspelt\)\. "):
        initial_adapter(tiny_base, listed)
    with pytest.raises(ArmfleetError, match="it has no imagined_proj"):
        initial_adapter(tiny_base, Recipe(modules_to_save=("action_out_proj", "imagined_proj")))


@pytest.mark.parametrize(
    ("fields", "first"),
    [
        ({"target_modules": r".*\.(q_proj|v_proj)"}, r"target_modules reaches .* text_model\.layers"),
        ({"target_modules": either([ATTENTION, r".*\.modality_projection\.proj"])}, r".* connector\."),
        ({"target_modules": either([ATTENTION, r".*\.vision_model\..*\.fc1"])}, r".* vision_model\."),
        ({"modules_to_save": ("action_out_proj", "norm")}, r"modules_to_save reaches .* text_model\.norm"),
    ],
)
def test_a_recipe_that_trains_what_is_frozen_is_refused(tiny_base: Path, fields: dict, first: str) -> None:
    recipe = Recipe.model_validate(fields)
    first = first.replace(".* ", r".*first with model\.vlm_with_expert\.vlm\.model\.")
    with pytest.raises(ArmfleetError, match=first) as refused:
        initial_adapter(tiny_base, recipe)
    assert refused.value.code is ExitCode.BASE_MISMATCH
    policy = load_base(tiny_base)
    modules = [name for name, _ in policy.named_modules()]
    with pytest.raises(ArmfleetError, match="reaches into the frozen"):
        add_adapter(policy, recipe)
    assert [name for name, _ in policy.named_modules()] == modules


def test_a_module_of_the_expert_with_a_frozen_namesake_is_saved_by_its_full_name(tiny_base: Path) -> None:
    tensors, _ = initial_adapter(tiny_base, Recipe(modules_to_save=("lm_expert.norm",)))
    assert [name for name in tensors if "lora" not in name] == [
        "base_model.model.model.vlm_with_expert.lm_expert.norm.weight"
    ]


def test_a_list_of_modules_is_what_peft_adapts_too(tiny_base: Path) -> None:
    layer = "model.vlm_with_expert.lm_expert.layers.0.self_attn."
    recipe = Recipe(target_modules=either([layer + "q_proj", r".*lm_expert.*\.v_proj"]))
    tensors, _ = initial_adapter(tiny_base, recipe)
    model = add_adapter(load_base(tiny_base), recipe)
    set_tensors(model, tensors)
    adapted = {name.split(".lora_A")[0].rpartition(".")[2] for name in tensors if ".lora_A." in name}
    assert adapted == {"q_proj", "v_proj"}
    assert sum(".q_proj.lora_A." in name for name in tensors) == 1


def test_no_local_path_travels_with_an_adapter(tiny_base: Path) -> None:
    assert peft_config(tiny_base, WIDE)["base_model_name_or_path"] == "tiny"
    assert peft_config("lerobot/smolvla_base", WIDE)["base_model_name_or_path"] == "lerobot/smolvla_base"


def test_guidance_pulls_towards_the_rest_of_the_last_chunk(chunker: Chunker, tiny_base: Path) -> None:
    rest = np.full((2, 5, 6), 0.7, np.float32)
    rest[:, 0] = -2  # being executed: guidance begins with the next one
    free, _ = chunker.chunk(*observation())
    chunker.reseed(0)
    guided, _ = chunker.chunk(*observation(), inference_delay=2, prev_chunk=rest)
    near, far = np.abs(guided[:, :2] - 0.7).mean(), np.abs(free[:, :2] - 0.7).mean()
    assert near < 0.7 * far
    plain = Chunker(tiny_base, guidance=Guidance(enabled=False))
    np.testing.assert_array_equal(plain.chunk(*observation(), inference_delay=2, prev_chunk=rest)[0], free)


def test_a_missing_camera_is_named(chunker: Chunker) -> None:
    state, images, tasks = observation()
    with pytest.raises(ArmfleetError, match="needs the camera 'front'"):
        chunker.chunk(state, {"wrist": images["front"]}, tasks)
