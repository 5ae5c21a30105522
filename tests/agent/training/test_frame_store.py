"""Rows on disk: what was written is read, and nothing else ever is."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.training.data import Episode
from agent.training.frame_store import FrameStore, write_rows
from shared.errors import ArmfleetError

FRAMES, SHAPE = 7, (2, 3)
VALUES = torch.arange(FRAMES * 6).reshape(FRAMES, *SHAPE).half() / 8


class Counted(FrameStore):
    """Gives `VALUES` in pieces of three rows and counts how often."""

    computed = 0

    def _name(self, episode: Episode) -> str:
        return episode.digest

    def _compute(self, _episode: Episode) -> Iterator[torch.Tensor]:
        self.computed += 1
        yield from VALUES.split(3)


def an_episode(digest: str = "a", frames: int = FRAMES) -> Episode:
    path = np.zeros((frames, 6), np.float32)
    return Episode("000001", digest, "push", path, path, dict)


@given(frames=st.lists(st.integers(0, FRAMES - 1), max_size=20))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_come_back_in_any_order_and_are_computed_once(tmp_path: Path, frames: list[int]) -> None:
    store = Counted(tmp_path)
    store.ensure(an_episode())
    again = Counted(tmp_path)
    assert torch.equal(again.read(an_episode(), frames), VALUES[frames])
    assert again.computed == 0


@given(at=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_changed_byte_is_never_read(tmp_path: Path, at: float, flip: int) -> None:
    store = Counted(tmp_path)
    store.ensure(an_episode())
    path = tmp_path / "a.npy"
    raw = bytearray(path.read_bytes())
    raw[int(at * len(raw))] ^= flip
    path.write_bytes(raw)
    assert torch.equal(store.read(an_episode(), range(FRAMES)), VALUES)


@pytest.mark.parametrize("left", [0, 5, 100, -1])
def test_a_file_that_was_cut_short_is_computed_again(tmp_path: Path, left: int) -> None:
    store = Counted(tmp_path)
    store.ensure(an_episode())
    path = tmp_path / "a.npy"
    path.write_bytes(path.read_bytes()[:left])
    store.ensure(an_episode())
    assert store.computed == 2
    assert torch.equal(store.read(an_episode(), [FRAMES - 1]), VALUES[-1:])


def test_a_file_of_another_number_of_frames_is_not_taken(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.npy", 3, [VALUES[:3]])
    store = Counted(tmp_path)
    assert torch.equal(store.read(an_episode(), [0]), VALUES[:1])
    assert store.computed == 1


def test_exchanged_rows_are_noticed(tmp_path: Path) -> None:
    store = Counted(tmp_path)
    store.ensure(an_episode())
    rows = np.lib.format.open_memmap(tmp_path / "a.npy", "r+")
    rows[[0, 1]] = rows[[1, 0]]
    rows.flush()
    assert torch.equal(store.read(an_episode(), [0, 1]), VALUES[:2])
    assert store.computed == 2


def test_a_write_that_is_interrupted_leaves_no_file(tmp_path: Path) -> None:
    def interrupted() -> Iterator[torch.Tensor]:
        yield VALUES[:3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_rows(tmp_path / "a.npy", FRAMES, interrupted())
    assert list(tmp_path.iterdir()) == []


def test_what_half_precision_cannot_hold_is_an_error_for_people(tmp_path: Path) -> None:
    with pytest.raises(ArmfleetError, match="beyond half precision"):
        write_rows(tmp_path / "a.npy", 1, [torch.full((1, 2), 1e6).half()])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("_full_disk")
def test_a_full_disk_is_an_error_for_people(tmp_path: Path) -> None:
    with pytest.raises(ArmfleetError, match="cache_gb") as caught:
        Counted(tmp_path).ensure(an_episode())
    assert "No space left" in str(caught.value)


@pytest.fixture
def _full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shared.files.os.fsync", refuse)


def test_prune_keeps_what_is_named(tmp_path: Path) -> None:
    store = Counted(tmp_path)
    for digest in "abc":
        store.ensure(an_episode(digest))
    (tmp_path / "of-another-format.safetensors").write_bytes(b"old")
    store.prune([an_episode("b"), an_episode("never-computed")])
    assert [path.name for path in tmp_path.iterdir()] == ["b.npy"]
    assert store.bytes_of([an_episode("a"), an_episode("b")]) == (tmp_path / "b.npy").stat().st_size
