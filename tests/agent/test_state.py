"""The index: a view of the folders that can be thrown away."""

from pathlib import Path

import pytest

from agent.episodes.record import EpisodeRecord, write_record
from agent.evaluation.rollouts import RolloutRecord
from agent.state import Index
from shared.errors import ArmfleetError


def episode(home: Path, number: int, verdict: str = "unjudged", split: str | None = None) -> None:
    folder = home / "episodes" / f"{number:06d}"
    folder.mkdir(parents=True)
    values = {"task": "pull", "frames": 9, "fps": 30, "created": f"2026-11-24T12:00:{number:02d}Z"}
    record = EpisodeRecord.model_validate({"id": folder.name, "verdict": verdict, "split": split, **values})
    write_record(folder, record)


def make(home: Path) -> Index:
    (home / "rollouts").mkdir(exist_ok=True)
    return Index(home / "state.sqlite", home / "episodes", home / "rollouts")


def test_index_is_rebuilt_from_the_folders(tmp_path: Path) -> None:
    episode(tmp_path, 1, "admitted", "train")
    episode(tmp_path, 2, "admitted", "eval")
    episode(tmp_path, 3, "quarantined")
    episode(tmp_path, 4)
    index = make(tmp_path)
    counts = {"admitted": 2, "quarantined": 1, "undecidable": 0, "unjudged": 1, "train": 1, "eval": 1}
    assert index.episode_counts() == counts
    assert index.unjudged_episodes() == ["000004"]
    assert [row["id"] for row in index.episodes()] == ["000001", "000002", "000003", "000004"]
    index.close()
    (tmp_path / "state.sqlite").unlink()
    assert make(tmp_path).episode_counts() == counts


def test_damaged_index_loses_nothing(tmp_path: Path) -> None:
    episode(tmp_path, 1, "admitted", "train")
    make(tmp_path).close()
    (tmp_path / "state.sqlite").write_bytes(b"not a database" * 1000)
    assert make(tmp_path).episode_counts()["train"] == 1


def test_damaged_episode_is_counted_as_such_and_the_rest_serves(tmp_path: Path) -> None:
    episode(tmp_path, 1, "admitted", "train")
    episode(tmp_path, 2)
    (tmp_path / "episodes" / "000002" / "armfleet.json").write_text("{")
    (tmp_path / "episodes" / ".inprogress-000003").mkdir()
    index = make(tmp_path)
    assert index.episode_counts()["damaged"] == 1
    assert index.unjudged_episodes() == []
    assert len(index.episodes()) == 2


def test_label_lives_in_the_rollouts_own_folder(tmp_path: Path) -> None:
    index = make(tmp_path)
    record = RolloutRecord(
        id="r1", task="pull", version=2, digest=None, created="2026-11-24T12:00:00Z", reason="time_up"
    )
    index.note_lost_rollout(record)
    index.label_rollout("r1", True)
    index.close()
    (tmp_path / "state.sqlite").unlink()
    found = make(tmp_path).rollout("r1")
    assert found is not None
    assert (found["success"], found["version"]) == (True, 2)
    with pytest.raises(ArmfleetError):
        index.label_rollout("r2", True)


def test_what_the_arm_worker_wrote_is_not_replaced(tmp_path: Path) -> None:
    index = make(tmp_path)
    values = {"id": "r1", "task": "pull", "version": 2, "digest": None, "created": "2026-11-24T12:00:00Z"}
    index.note_lost_rollout(RolloutRecord.model_validate({**values, "reason": "time_up"}))
    index.note_lost_rollout(RolloutRecord.model_validate({**values, "reason": "the arm worker died"}))
    found = index.rollout("r1")
    assert found is not None
    assert found["reason"] == "time_up"
