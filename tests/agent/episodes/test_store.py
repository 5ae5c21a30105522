"""What an operator says of episodes: labels, verdicts by hand, the trash; and that nothing is lost by it."""

import json
import shutil
from pathlib import Path

import pytest

from agent.config import SplitSection
from agent.episodes.store import EpisodeStore
from agent.episodes.trash import NOTE, thrown_away
from agent.room import next_episode
from shared.errors import ArmfleetError


def ids(store: EpisodeStore) -> list[str]:
    return [record.id for record in store.records()]


def test_the_gate_judged_what_was_imported(store: EpisodeStore) -> None:
    for record in store.records():
        assert record.verdict == "admitted", record.reasons
        assert record.split in ("train", "eval")
        assert record.digest
        assert record.trace


def test_a_label_is_kept_and_taken_back(store: EpisodeStore) -> None:
    first = ids(store)[0]
    assert store.label(first, "failure").usable is False
    assert store.judge(first).label == "failure", "the gate leaves it alone"
    assert store.label(first, None).usable is True


def test_a_verdict_by_hand_stands_above_the_gate_and_keeps_its_findings(store: EpisodeStore) -> None:
    first = ids(store)[0]
    before = store.read(first)
    quarantined = store.decide(first, "quarantined", "the camera was moved")
    assert (quarantined.verdict, quarantined.decision.reason) == ("quarantined", "the camera was moved")
    judged = store.judge(first)
    assert judged.verdict == "quarantined"
    assert judged.reasons == before.reasons
    assert judged.split == before.split, "a split is assigned once"
    assert store.decide(first, "admitted", "it was not").verdict == "admitted"


def test_what_nobody_could_read_can_not_be_admitted(store: EpisodeStore) -> None:
    first = ids(store)[0]
    next((store.folder(first) / "data").rglob("*.parquet")).write_bytes(b"PAR1")
    record = store.read(first).model_copy(update={"trace": "", "split": None, "digest": ""})
    (store.folder(first) / "armfleet.json").write_text(record.model_dump_json())
    assert store.judge(first).verdict == "quarantined"
    with pytest.raises(ArmfleetError, match="could not read it"):
        store.decide(first, "admitted", "looks fine to me")
    assert store.read(first).verdict == "quarantined"


def test_a_deleted_episode_lies_in_the_trash_and_comes_back(store: EpisodeStore) -> None:
    first, *others = ids(store)
    target = store.delete(first)
    assert ids(store) == others
    assert thrown_away(store.root, first) == [target]
    note = json.loads((target / NOTE).read_text())
    assert note["id"] == first
    assert str(store.folder(first)) in note["bring_back"]
    (target / NOTE).unlink()
    target.rename(store.folder(first))
    assert store.read(first).verdict == "admitted"


def test_purging_removes_for_good_also_from_the_trash(store: EpisodeStore) -> None:
    first, second, third = ids(store)
    store.delete(first)
    store.delete(first, for_good=True)
    store.delete(second, for_good=True)
    assert ids(store) == [third]
    assert thrown_away(store.root) == []
    assert [p for p in store.root.iterdir() if p.name.startswith(".inprogress")] == []


@pytest.mark.parametrize("thrown_before", [False, True])
def test_a_purge_killed_half_way_is_finished_by_the_next_start(
    store: EpisodeStore, thrown_before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *others = ids(store)
    if thrown_before:
        store.delete(first)

    def killed(folder: Path) -> None:
        (folder / "armfleet.json").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("agent.episodes.trash.shutil.rmtree", killed)
        store.delete(first, for_good=True)
    assert ids(store) == others
    assert thrown_away(store.root) == []
    assert store.recover() != []
    assert list(store.root.rglob(".inprogress-*")) == []


def test_parts_of_files_that_a_killed_process_left_are_removed_at_the_start(store: EpisodeStore) -> None:
    first, second, third = ids(store)
    trash = store.delete(third)
    assert trash is not None
    for folder in (store.folder(first), trash):
        (folder / ".inprogress-armfleet.json.123").write_text('{"format": 1, "id"')
    before = store.records()
    assert store.recover() == [
        f"{path.name}/.inprogress-armfleet.json.123" for path in (store.folder(first), trash)
    ]
    assert list(store.root.rglob(".inprogress-*")) == []
    assert store.records() == before
    assert ids(store) == [first, second]
    assert store.recover() == []


def test_an_episode_that_is_not_there_is_named(store: EpisodeStore) -> None:
    for act in (store.delete, store.read, lambda i: store.label(i, "success")):
        with pytest.raises(ArmfleetError, match="there is no episode 000404"):
            act("000404")


def test_a_thrown_away_id_is_not_used_again(tmp_path) -> None:
    for name in ("000001", "000002"):
        (tmp_path / name).mkdir()
    EpisodeStore(tmp_path, SplitSection()).delete("000002")
    assert next_episode(tmp_path) == "000003"


def test_a_near_duplicate_goes_where_its_twin_went(store: EpisodeStore) -> None:
    first = ids(store)[0]
    for split in ("eval", "train"):
        record = store.read(first).model_copy(update={"split": split})
        (store.folder(first) / "armfleet.json").write_text(record.model_dump_json())
        copy = store.folder(f"copy-{split}")
        shutil.copytree(store.folder(first), copy)
        fields = json.loads((copy / "armfleet.json").read_text())
        fields |= {"id": copy.name, "split": None, "verdict": "unjudged", "trace": "", "decision": None}
        (copy / "armfleet.json").write_text(json.dumps(fields))
        assert store.decide(copy.name, "quarantined", "x").split is None
        store.judge(copy.name)
        assert store.decide(copy.name, "admitted", "y").split == split
        store.delete(copy.name, for_good=True)
