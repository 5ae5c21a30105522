"""Finding and loading a base: folder, hub cache, and everything that can be wrong with either."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.policy.digest import base_digest
from shared.policy.source import check_delay, resolve_base
from shared.recipe import Recipe

HUB_ID = "somebody/tiny_smolvla"


@pytest.fixture
def hub(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache that holds the tiny base under HUB_ID, as `hf download` leaves it."""
    repo = tmp_path / "hub" / "models--somebody--tiny_smolvla"
    commit = "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(tiny_base, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return repo


def test_hub_cache_and_folder_are_the_same_base(tiny_base: Path, hub: Path) -> None:
    assert base_digest(HUB_ID) == base_digest(tiny_base)


def test_hub_base_loads_through_the_same_code(tiny_base: Path, hub: Path) -> None:
    import torch

    from shared.policy.base import load_base

    from_hub, from_folder = load_base(HUB_ID).state_dict(), load_base(tiny_base).state_dict()
    assert from_hub.keys() == from_folder.keys()
    assert all(torch.equal(from_hub[name], from_folder[name]) for name in from_hub)


def test_a_missing_hub_base_is_an_error_not_a_download(hub: Path) -> None:
    with pytest.raises(ArmfleetError, match="neither a folder nor in the local hub cache") as error:
        resolve_base("somebody/else")
    assert error.value.code is ExitCode.BASE_MISSING
    assert "hf download somebody/else" in error.value.do


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "policy_preprocessor.json"])
def test_an_incomplete_folder_names_what_is_missing(tiny_base: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny_base, folder)
    (folder / name).unlink()
    with pytest.raises(ArmfleetError, match=name) as error:
        resolve_base(folder)
    assert error.value.code is ExitCode.BASE_MISSING


def test_digest_follows_content_not_place(tiny_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_base, folder)
    (folder / "README.md").write_text("anything")
    assert base_digest(folder) == base_digest(tiny_base)
    stats = next(folder.glob("policy_preprocessor*normalizer*.safetensors"))
    stats.write_bytes(stats.read_bytes()[:-1] + b"\x00")
    assert base_digest(folder) != base_digest(tiny_base)


def test_digest_and_version_0_need_no_torch(tiny_base: Path) -> None:
    code = (
        "import sys; from shared.policy.digest import base_digest; from shared.policy.initial import *;"
        f"base_digest({str(tiny_base)!r}); initial_adapter({str(tiny_base)!r}, Recipe());"
        "assert not {'torch', 'lerobot', 'transformers', 'peft'} & set(sys.modules), 'torch came along'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_weights_that_are_missing_are_not_made_up(tiny_base: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    from shared.policy.base import load_base

    folder = tmp_path / "base"
    shutil.copytree(tiny_base, folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.action_out_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ArmfleetError, match=r"1 weights are missing, first: model\.action_out_proj\.weight"):
        load_base(folder)


def test_a_delay_must_leave_an_action_of_the_chunk(tiny_base: Path) -> None:
    check_delay(tiny_base, Recipe(delay=7))
    with pytest.raises(ArmfleetError, match="a delay of 8 actions, the base's chunks have 8") as error:
        check_delay(tiny_base, Recipe(delay=8))
    assert error.value.code is ExitCode.BASE_MISMATCH
    check_delay("no such base", Recipe())  # plain training asks nothing of it


def test_another_kind_of_policy_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    from shared.policy.base import load_base

    folder = tmp_path / "base"
    shutil.copytree(tiny_base, folder)
    (folder / "config.json").write_text(json.dumps({"type": "act"}))
    with pytest.raises(ArmfleetError, match="its type is act") as error:
        load_base(folder)
    assert error.value.code is ExitCode.BASE_MISSING


def test_a_base_with_its_own_vlm_folder_needs_no_hub(tiny_base: Path, tmp_path: Path) -> None:
    import torch

    from shared.policy.base import load_base, load_processors

    folder = tmp_path / "base"
    shutil.copytree(tiny_base, folder)
    for name in ("config.json", "policy_preprocessor.json"):
        text = (folder / name).read_text()
        assert str(tiny_base / "vlm") in text
        (folder / name).write_text(text.replace(str(tiny_base / "vlm"), "some/relative/vlm"))
    assert load_base(folder).config.vlm_model_name == str(folder / "vlm")
    preprocess, _ = load_processors(folder)
    state = torch.zeros(1, 6)
    done = preprocess({"observation.state": state, "task": ["push the red cube to the left"]})
    assert done["observation.language.tokens"].shape[0] == 1
