"""datasets.toml says what the store holds, and survives being written again."""

from pathlib import Path

import pytest

from agent.episodes.catalogue import Catalogue, compile_catalogue, read_catalogue, write_catalogue
from agent.episodes.record import EpisodeRecord, Origin, Reason
from agent.episodes.store import EpisodeStore
from shared.errors import ArmfleetError

SHIPPED = Path(__file__).parents[3] / "configs/datasets.toml"


def origin(**fields: object) -> Origin:
    given = {
        "source": "cubes",
        "dataset_digest": "d" * 64,
        "episode": 0,
        "fps": 30,
        "robot_type": "so101_follower",
        "format": "v3.0",
        "imported": "",
    }
    return Origin.model_validate(given | fields)


def record(number: int, **fields: object) -> EpisodeRecord:
    given = {
        "id": f"{number:06d}",
        "task": "push",
        "frames": 300,
        "fps": 30,
        "created": "2026-01-01T00:00:00+00:00",
        "verdict": "admitted",
        "split": "train",
    }
    return EpisodeRecord.model_validate(given | fields)


def test_one_entry_for_each_task_source_and_status(tmp_path: Path) -> None:
    why = Reason(check="motion.jump", value=1, threshold=1, message="")
    admitted_by_hand = {"verdict": "admitted", "reason": "fine", "at": ""}
    records = [
        record(1),
        record(2, split="eval"),
        record(3, label="failure"),
        record(4, verdict="quarantined", reasons=[why], split=None),
        record(5, reasons=[why], decision=admitted_by_hand),
        record(6, origin=origin(reencoded=["front"])),
        record(7, origin=origin()),
        record(8, task="pull"),
    ]
    entries = compile_catalogue("bench-1", records, tmp_path).dataset
    told = {(e.task, e.source, e.status): (e.train, e.eval, e.left_out) for e in entries}
    assert told == {
        ("pull", "recorded", "clean"): (("000008",), (), ()),
        ("push", "recorded", "clean"): (("000001",), ("000002",), ("000003",)),
        ("push", "recorded", "quarantined"): ((), (), ("000004",)),
        ("push", "recorded", "repaired"): (("000005",), (), ()),
        ("push", "cubes", "repaired"): (("000006",), (), ()),
        ("push", "cubes", "clean"): (("000007",), (), ()),
    }
    clean = next(e for e in entries if (e.task, e.source, e.status) == ("push", "recorded", "clean"))
    assert (clean.episodes, clean.frames, clean.seconds) == (3, 900, 30.0)


def test_what_is_written_is_read_and_other_workstations_stay(store: EpisodeStore, tmp_path: Path) -> None:
    path = tmp_path / "datasets.toml"
    other = compile_catalogue("bench-2", [record(1)], tmp_path)
    mine = compile_catalogue("bench-1", store.records(), store.root)
    write_catalogue(path, "bench-2", other)
    write_catalogue(path, "bench-1", mine)
    write_catalogue(path, "bench-1", mine)
    assert read_catalogue(path) == Catalogue(dataset=(*mine.dataset, *other.dataset))
    assert sum(e.bytes for e in mine.dataset) > 10_000


def test_a_strange_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "datasets.toml"
    path.write_text('[[dataset]]\nname = "mine"\n')
    with pytest.raises(ArmfleetError, match=r"datasets.toml"):
        write_catalogue(path, "bench-1", compile_catalogue("bench-1", [record(1)], tmp_path))
    assert path.read_text() == '[[dataset]]\nname = "mine"\n'


def test_the_shipped_example_is_a_catalogue() -> None:
    assert {entry.status for entry in read_catalogue(SHIPPED).dataset} == {"clean", "repaired", "quarantined"}
