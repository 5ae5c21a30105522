"""One dataset out of many episodes, which stock LeRobot loads and trains on unchanged."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from agent.episodes.exporting import LIST, export
from agent.episodes.record import EpisodeRecord, write_record
from agent.episodes.store import EpisodeStore
from shared.errors import ArmfleetError
from tests.agent.episodes.conftest import LENGTHS
from tests.agent.episodes.lerobot_datasets import TASKS, motion, picture


def held_out(store: EpisodeStore, episode_id: str) -> None:
    record = store.read(episode_id)
    write_record(
        store.folder(episode_id), EpisodeRecord.model_validate(record.model_dump() | {"split": "eval"})
    )


def test_an_export_loads_in_lerobot_and_trains_a_step(store: EpisodeStore, tmp_path: Path) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    first, second, third = (record.id for record in store.records())
    held_out(store, first)
    target = tmp_path / "out" / "cubes"
    done = export(store.root, store.records(), target)
    assert done == {"episodes": 3, "frames": sum(LENGTHS), "splits": {"train": "0:2", "eval": "2:3"}}
    listed = json.loads((target / LIST).read_text())["episodes"]
    assert [entry["id"] for entry in listed] == [second, third, first]
    assert [path.name for path in target.parent.iterdir()] == ["cubes"]

    dataset = LeRobotDataset("test/export", root=target)
    start = 0
    for number in (1, 2, 0):
        for row in (0, LENGTHS[number] - 1):
            item = dataset[start + row]
            assert item["task"] == TASKS[number % 2]
            np.testing.assert_array_equal(item["observation.state"], motion(number, LENGTHS[number])[0][row])
            seen = item["observation.images.front"].permute(1, 2, 0).numpy() * 255
            assert np.abs(seen - picture(number, row)).mean() < 12
        start += LENGTHS[number]

    train(target, tmp_path / "trained")


def train(dataset: Path, out: Path) -> None:
    """One step of `lerobot-train` with the smallest ACT."""
    options = {
        "dataset.repo_id": "test/export",
        "dataset.root": dataset,
        "policy.type": "act",
        "policy.device": "cpu",
        "policy.push_to_hub": "false",
        "policy.pretrained_backbone_weights": "null",
        "policy.dim_model": 32,
        "policy.n_heads": 2,
        "policy.dim_feedforward": 32,
        "policy.n_encoder_layers": 1,
        "policy.use_vae": "false",
        "policy.chunk_size": 4,
        "policy.n_action_steps": 4,
        "steps": 1,
        "batch_size": 2,
        "num_workers": 0,
        "log_freq": 1,
        "save_checkpoint": "false",
        "output_dir": out,
    }
    arguments = [f"--{name}={value}" for name, value in options.items()]
    done = subprocess.run(
        [sys.executable, "-m", "lerobot.scripts.lerobot_train", *arguments],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "step:1" in done.stderr + done.stdout


def test_an_export_never_overwrites(store: EpisodeStore, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(ArmfleetError, match="is there already"):
        export(store.root, store.records(), tmp_path / "there")
    with pytest.raises(ArmfleetError, match="nothing to export"):
        export(store.root, [], tmp_path / "new")


def test_episodes_that_do_not_fit_together_are_named(store: EpisodeStore, tmp_path: Path) -> None:
    path = store.folder(store.records()[1].id) / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fps": 15}))
    with pytest.raises(ArmfleetError, match=r"2 of so101_follower at 30 fps.*1 of so101_follower at 15 fps"):
        export(store.root, store.records(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_failing_join_leaves_nothing(
    store: EpisodeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.episodes.exporting.AGGREGATOR", "agent.episodes.no_such_module")
    with pytest.raises(ArmfleetError, match=r"could not join.*no_such_module"):
        export(store.root, store.records(), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
