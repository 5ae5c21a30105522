"""A merged version: a folder that stock LeRobot loads anywhere, and that acts as base and adapter do."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from shared import adapters
from shared.adapters import Manifest
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.normalisation import measured
from shared.policy import merged
from shared.policy.chunker import Chunker
from shared.policy.digest import base_digest
from shared.policy.initial import initial_adapter
from shared.policy.merged import write_merged
from shared.recipe import PRESETS, Recipe

WIDE = Recipe.model_validate(PRESETS["wide"])


@pytest.fixture(scope="module")
def version(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 0 with a change in every tensor."""
    tensors, config = initial_adapter(tiny_base, WIDE)
    rng = np.random.default_rng(4)
    trained = {n: (t + rng.normal(0, 0.05, t.shape)).astype(np.float32) for n, t in tensors.items()}
    manifest = Manifest(
        version=7,
        parent=6,
        base_digest=base_digest(tiny_base),
        tensors_digest=adapters.digest(trained),
        recipe=WIDE,
        created="2026-01-01T00:00:00Z",
    )
    folder = tmp_path_factory.mktemp("version")
    adapters.write_adapter(folder, trained, config, manifest)
    return folder


def test_stock_lerobot_loads_it_from_anywhere_and_acts_alike(
    tiny_base: Path, version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lerobot.policies.factory import make_pre_post_processors
    from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
    from peft import PeftModel

    monkeypatch.chdir(tmp_path)
    target = Path("out/merged")
    assert write_merged(tiny_base, version, target) < 1e-3
    assert [path.name for path in target.parent.iterdir()] == ["merged"]
    monkeypatch.chdir("/")

    target = tmp_path / target
    plain = SmolVLAPolicy.from_pretrained(target)
    names = {name for name, _ in plain.named_parameters()}
    assert not any("lora" in name or "modules_to_save" in name for name in names)
    adapted = PeftModel.from_pretrained(SmolVLAPolicy.from_pretrained(tiny_base), version)
    before, after = make_pre_post_processors(plain.config, pretrained_path=str(target))
    rng = np.random.default_rng(3)
    batch = {
        "observation.state": torch.from_numpy(rng.normal(0, 20, (2, 6)).astype(np.float32)),
        "observation.images.front": torch.from_numpy(rng.random((2, 3, 96, 96)).astype(np.float32)),
        "task": ["push the red cube to the left", "pull the blue cube back"],
    }
    noise = torch.randn((2, 8, plain.config.max_action_dim), generator=torch.Generator().manual_seed(0))
    ours, theirs = (policy.predict_action_chunk(before(batch), noise=noise) for policy in (plain, adapted))
    unchanged = SmolVLAPolicy.from_pretrained(tiny_base).predict_action_chunk(before(batch), noise=noise)
    np.testing.assert_allclose(after(ours.clone()), after(theirs.clone()), atol=1e-3)
    assert (ours - unchanged).abs().max() > 1e-2


def test_statistics_of_the_version_are_those_of_the_folder(
    tiny_base: Path, version: Path, tmp_path: Path
) -> None:
    from lerobot.policies.factory import make_pre_post_processors
    from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy

    own = measured(*np.random.default_rng(5).normal(3, 12, (2, 200, 6)))
    tensors, peft, manifest = adapters.read_adapter(version)
    assert manifest is not None
    changes = {"normalisation": own, "tensors_digest": adapters.digest(tensors, own)}
    (tmp_path / "version").mkdir()
    adapters.write_adapter(tmp_path / "version", tensors, peft, manifest.model_copy(update=changes))
    assert write_merged(tiny_base, tmp_path / "version", tmp_path / "merged") < 1e-3

    config = SmolVLAPolicy.from_pretrained(tmp_path / "merged").config
    before, after = make_pre_post_processors(config, pretrained_path=str(tmp_path / "merged"))
    state = torch.from_numpy(np.array([own.state.mean], np.float32))
    seen = before({"observation.state": state + 1, "task": ["push"]})["observation.state"]
    np.testing.assert_allclose(seen[0], 1 / own.state.std, rtol=1e-5)
    np.testing.assert_allclose(after(torch.ones(1, 6))[0], own.action.mean + own.action.std, rtol=1e-5)


def test_it_is_a_base_for_a_fleet_of_its_own(tiny_base: Path, version: Path, tmp_path: Path) -> None:
    write_merged(tiny_base, version, tmp_path / "merged")
    assert base_digest(tmp_path / "merged") != base_digest(tiny_base)
    Chunker(tmp_path / "merged").load_identity(WIDE)
    config = json.loads((tmp_path / "merged/config.json").read_text())
    assert config["vlm_model_name"] == str(tmp_path / "merged/vlm")


def test_it_never_overwrites(tiny_base: Path, version: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(ArmfleetError, match="is there already"):
        write_merged(tiny_base, version, tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "precious"


def test_a_full_disk_is_said_before_anything_is_written(
    tiny_base: Path, version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merged, "free_bytes", lambda _: 1 << 20)
    with pytest.raises(ArmfleetError, match="1 MB are free") as error:
        write_merged(tiny_base, version, tmp_path / "merged")
    assert error.value.code is ExitCode.DISK_FULL
    assert not list(tmp_path.iterdir())


def test_a_policy_that_acts_differently_is_not_kept(
    tiny_base: Path, version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Chunker, "merge", lambda chunker: chunker.load_version(None))
    with pytest.raises(ArmfleetError, match="acts differently"):
        write_merged(tiny_base, version, tmp_path / "merged")
    assert not list(tmp_path.iterdir())
