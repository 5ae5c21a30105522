"""Attempts to get a held-out demonstration past the guard, and what must not be taken for one."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config import SplitSection
from agent.episodes.held_out import read_held_out
from agent.episodes.leaks import LeakGuard, near_duplicate, read_trace, trace_of
from agent.episodes.record import EpisodeRecord, write_record
from agent.episodes.split import content_digest
from agent.episodes.store import EpisodeStore
from agent.training.data import EpisodeFolder
from shared.errors import ArmfleetError

FPS, LAG = 30, 4
STEP = 360 / 4096  # degrees per count of the encoder
TASK = "push the red cube to the left"
REAL = os.environ.get("ARMFLEET_TRACES", "")
"""Parquet file with real teleoperation, as for tests.corpus; not part of the project."""


def demonstration(seed: int, seconds: float = 8.0, still_s: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """State and action, (T, 6): led from the common rest pose through a few poses; the follower lags."""
    rng = np.random.default_rng(seed)
    frames = round(seconds * FPS)
    poses = np.concatenate([np.zeros((1, 6)), rng.uniform(-50, 50, (5, 6))])
    moves = np.interp(np.linspace(0, 5, frames), range(6), np.arange(6))
    path = np.stack([np.interp(moves, range(6), poses[:, joint]) for joint in range(6)], axis=1)
    path = np.concatenate([np.zeros((round(still_s * FPS), 6)), path])
    state = np.concatenate([np.repeat(path[:1], LAG, axis=0), path[:-LAG]])
    return (np.rint(state / STEP) * STEP).astype(np.float32), path.astype(np.float32)


def noisy(state: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return state + rng.uniform(-STEP, STEP, state.shape), action + rng.uniform(-STEP, STEP, action.shape)


def cut_out(values: np.ndarray) -> np.ndarray:
    return np.delete(values, slice(len(values) // 2, len(values) // 2 + 37), axis=0)


HELD = demonstration(7)
OTHER = demonstration(8)
COPIES = {
    "the same numbers": HELD,
    "noise below the encoder's resolution": noisy(*HELD),
    "rounded to a tenth": tuple(np.round(values, 1) for values in HELD),
    "half a unit of offset": tuple(values + 0.5 for values in HELD),
    "trimmed at the start": tuple(values[53:] for values in HELD),
    "trimmed at the end": tuple(values[:-61] for values in HELD),
    "three seconds of it": tuple(values[101:191] for values in HELD),
    "a piece cut out": tuple(cut_out(values) for values in HELD),
    "a long lead-in put before": tuple(np.concatenate([np.repeat(v[:1], 100, axis=0), v]) for v in HELD),
    "pasted into another": tuple(
        np.concatenate([b[:60], a, b[60:]]) for a, b in zip(HELD, OTHER, strict=True)
    ),
}


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES.keys())
def test_a_disguised_copy_is_recognised(copy: tuple[np.ndarray, np.ndarray]) -> None:
    trace = read_trace(trace_of(*HELD, FPS).text())
    assert near_duplicate(trace, *copy)
    assert near_duplicate(trace_of(*copy, FPS), *HELD), "whichever of the two is held out"


def test_other_demonstrations_from_the_same_rest_pose_are_not() -> None:
    for seed in range(40):
        for still_s in (0.0, 4.0):
            other = demonstration(100 + seed, still_s=still_s)
            assert not near_duplicate(trace_of(*HELD, FPS), *other)


def test_standing_still_is_no_demonstration() -> None:
    still = (np.zeros((300, 6), np.float32),) * 2
    assert not near_duplicate(trace_of(*still, FPS), *still)


@settings(max_examples=25, deadline=None)
@given(st.integers(30, 150), st.integers(90, 110), st.floats(0, 0.9))
def test_any_three_seconds_with_any_small_offset_are_recognised(
    start: int, length: int, offset: float
) -> None:
    part = tuple(values[start : start + length] + np.float32(offset) for values in HELD)
    assert near_duplicate(trace_of(*HELD, FPS), *part)


@pytest.mark.skipif(not Path(REAL).is_file(), reason="no real traces: ARMFLEET_TRACES names no file")
def test_two_real_tries_of_one_task_are_two_demonstrations() -> None:
    table = pq.read_table(REAL).to_pandas()
    tries = [
        tuple(np.stack(group[name]).astype(np.float32) for name in ("observation.state", "action"))
        for _, group in table.groupby("episode_index")
    ]
    assert not near_duplicate(trace_of(*tries[0], FPS), *tries[1])
    assert near_duplicate(trace_of(*tries[0], FPS), *noisy(*tries[0]))


# ---------------------------------------------------------------- the training set, as the trainer builds it


def put(root: Path, name: str, motion: tuple[np.ndarray, np.ndarray], **fields: object) -> Path:
    """An admitted episode folder, without pictures: nothing here looks at any."""
    folder = root / name
    (folder / "meta").mkdir(parents=True)
    (folder / "data/chunk-000").mkdir(parents=True)
    (folder / "meta/info.json").write_text(json.dumps({"fps": FPS, "features": {}}))
    rows = {key: list(values) for key, values in zip(("observation.state", "action"), motion, strict=True)}
    pq.write_table(pa.table(rows), folder / "data/chunk-000/file-000.parquet")
    record = {
        "id": name,
        "task": TASK,
        "frames": len(motion[0]),
        "fps": FPS,
        "created": "2026-01-01T00:00:00.000+00:00",
        "verdict": "admitted",
        "split": "train",
        "digest": content_digest(*motion),
        "trace": trace_of(*motion, FPS).text(),
    }
    write_record(folder, EpisodeRecord.model_validate(record | fields))
    return folder


def trained_on(root: Path, guard: LeakGuard | None = None) -> list[str]:
    return [episode.id for episode in EpisodeFolder(root, guard).read().train]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    put(tmp_path, "000001", HELD, split="eval")
    put(tmp_path, "000002", OTHER)
    return tmp_path


def test_a_renamed_copy_that_calls_itself_training_data_does_not_train(root: Path) -> None:
    shutil.copytree(root / "000001", root / "000009")
    record = json.loads((root / "000009/armfleet.json").read_text())
    forged = record | {"id": "000009", "split": "train", "digest": "0" * 64, "trace": "", "task": "another"}
    (root / "000009/armfleet.json").write_text(json.dumps(forged))
    assert trained_on(root) == ["000002"]


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES.keys())
def test_no_disguised_copy_trains(root: Path, copy: tuple[np.ndarray, np.ndarray]) -> None:
    put(root, "000009", copy)
    assert trained_on(root) == ["000002"]


@pytest.mark.parametrize(
    "became", [{"verdict": "quarantined"}, {"label": "failure"}], ids=["quarantined", "a failure"]
)
def test_what_was_held_out_stays_held_out_whatever_becomes_of_it(root: Path, became: dict) -> None:
    put(root, "000009", noisy(*HELD))
    shutil.rmtree(root / "000001")
    put(root, "000001", HELD, split="eval", **became)
    assert trained_on(root) == ["000002"]


@pytest.mark.parametrize("for_good", [False, True], ids=["in the trash", "for good"])
def test_a_deleted_evaluation_episode_still_keeps_its_copies_out(root: Path, for_good: bool) -> None:
    put(root, "000009", noisy(*HELD))
    EpisodeStore(root, SplitSection()).delete("000001", for_good=for_good)
    assert trained_on(root) == ["000002"]


def test_a_failed_attempt_does_not_train(root: Path) -> None:
    put(root, "000003", demonstration(3), label="failure")
    put(root, "000004", demonstration(4), label="success")
    assert trained_on(root) == ["000002", "000004"]


def test_what_the_lists_name_does_not_train(root: Path, tmp_path: Path) -> None:
    put(root, "000003", demonstration(3))
    put(root, "000004", noisy(*demonstration(4)))
    path = tmp_path / "held_out.jsonl"
    traced = {"digest": content_digest(*demonstration(4)), "trace": trace_of(*demonstration(4), FPS).text()}
    path.write_text(f"# of the base\n{content_digest(*demonstration(3))}\n{json.dumps(traced)}\n")
    assert trained_on(root) == ["000002", "000003", "000004"]
    assert trained_on(root, LeakGuard(read_held_out(path))) == ["000002"]


def test_an_unseen_task_never_trains_however_it_is_written(root: Path) -> None:
    put(root, "000003", demonstration(3), task="  Pull the  yellow cube.")
    assert trained_on(root, LeakGuard(tasks=["pull the yellow cube"])) == ["000002"]


@pytest.mark.parametrize(
    "line", ["abc", "{}", '{"digest": 3}', "{", '{"digest": "' + "a" * 64 + '", "trace": "x"}']
)
def test_a_list_that_can_not_be_understood_stops_training(tmp_path: Path, line: str) -> None:
    path = tmp_path / "held_out.jsonl"
    path.write_text("a" * 64 + "\n" + line + "\n")
    with pytest.raises(ArmfleetError, match=r"held_out.jsonl:2"):
        read_held_out(path)


def test_a_missing_list_stops_training(tmp_path: Path) -> None:
    with pytest.raises(ArmfleetError, match="can't be read"):
        read_held_out(tmp_path / "none")
