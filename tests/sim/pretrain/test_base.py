"""The shipped base folder, loaded as anybody with LeRobot would load it."""

import json
import os
from pathlib import Path

import pytest
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from safetensors import safe_open

from sim.lockstep import Predict
from sim.pretrain.evaluate import loaded, successes

REPOSITORY = Path(__file__).parents[3]
BASE = Path("sim/base")
MAX_BYTES = 5 * 1024 * 1024


@pytest.fixture(scope="module")
def predict() -> Predict:
    before = Path.cwd()
    os.chdir(REPOSITORY)  # the VLM's folder is stored relative to the repository
    try:
        return loaded(BASE)
    finally:
        os.chdir(before)


def test_the_folder_is_small_and_names_no_absolute_path() -> None:
    files = [path for path in (REPOSITORY / BASE).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES
    config = json.loads((REPOSITORY / BASE / "config.json").read_text())
    assert config["vlm_model_name"] == "sim/base/vlm"
    assert config["chunk_size"] == 8
    assert config["normalization_mapping"] == {
        "VISUAL": "IDENTITY",
        "STATE": "MEAN_STD",
        "ACTION": "MEAN_STD",
    }


def test_the_weights_are_lerobots_smolvla(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    policy = SmolVLAPolicy.from_pretrained(BASE)
    with safe_open(BASE / "model.safetensors", "pt") as file:
        assert set(file.keys()) <= set(policy.state_dict())
    trainable = sum(p.numel() for p in policy.parameters())
    assert 1_000_000 < trainable < 1_200_000


def test_the_base_touches_and_hovers(predict: Predict) -> None:
    assert successes(predict, "touch", 8) >= 6
    assert successes(predict, "hover", 8) >= 6


def test_the_base_has_not_learned_to_push(predict: Predict) -> None:
    assert successes(predict, "push_left", 6) <= 1
