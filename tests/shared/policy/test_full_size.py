"""SmolVLA at full size (450 M parameters, random weights, no hub): the same code as for the tiny base.

Slow: about a minute on two quiet cores, 3 GB of memory, 2 GB of disk.
"""

import gc
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from shared.policy.initial import initial_adapter
from shared.recipe import PRESETS, Recipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TASK = "push the red cube to the left"


@pytest.fixture(scope="module")
def full_base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    from benchmarks.full_size.policy import full_size_policy, full_size_processors

    folder = tmp_path_factory.mktemp("full") / "smolvla"
    policy = full_size_policy(folder / "vlm", ["front"], seed=0)
    policy.save_pretrained(folder)
    for processor in full_size_processors(policy.config):
        processor.save_pretrained(folder)
    del policy
    gc.collect()
    yield folder
    shutil.rmtree(folder)


def size(tensors: dict, part: str = "") -> float:
    """Millions of parameters."""
    return sum(array.size for name, array in tensors.items() if part in name) / 1e6


def test_parameter_counts(full_base: Path) -> None:
    from shared.policy.base import load_base

    attention, _ = initial_adapter(full_base, Recipe.model_validate(PRESETS["attention"]))
    expert, _ = initial_adapter(full_base, Recipe.model_validate(PRESETS["expert"]))
    assert size(attention, "lora_") == pytest.approx(1.290, abs=0.001)
    assert size(expert, "lora_") == pytest.approx(3.416, abs=0.001)
    assert size(attention) - size(attention, "lora_") == pytest.approx(0.055, abs=0.001)
    policy = load_base(full_base)
    assert sum(p.numel() for p in policy.parameters()) / 1e6 == pytest.approx(450.0, abs=0.1)


def test_two_steps_and_a_chunk(full_base: Path, tmp_path: Path) -> None:
    from agent.training.data import Episode, separate
    from agent.training.trainer import LocalTrainer
    from shared.codec import decode
    from shared.policy.chunker import Chunker

    rng = np.random.default_rng(0)
    path = np.cumsum(rng.normal(0, 2, (2, 6)), axis=0).astype(np.float32)
    image = np.kron(rng.integers(0, 255, (2, 15, 20, 3), dtype=np.uint8), np.ones((1, 32, 32, 1), np.uint8))
    episode = Episode("000001", "a" * 64, TASK, path, path, lambda: {"front": image})
    recipe = Recipe.model_validate(PRESETS["attention"] | {"batch": 2, "draws": 2, "steps": 2})
    tensors, config = initial_adapter(full_base, recipe)

    trainer = LocalTrainer(full_base, separate([episode], []), tmp_path, threads=2)
    update = trainer.train(tensors, 0, recipe, 1e-3)
    delta = decode(update.delta, tensors, update.header.codec)
    assert all(np.isfinite(array).all() for array in delta.values())
    assert any(np.abs(delta[name]).max() > 0 for name in delta if "lora_B" in name)
    del trainer
    gc.collect()

    chunker = Chunker(full_base)
    chunker.load_tensors({name: tensors[name] + delta[name] for name in tensors}, config)
    original, processed = chunker.chunk(path[:1], {"front": image[:1]}, [TASK])
    assert original.shape == processed.shape == (1, 50, 6)
    np.testing.assert_allclose(processed, original * 30, rtol=1e-4, atol=1e-3)
