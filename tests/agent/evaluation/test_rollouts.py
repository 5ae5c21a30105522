"""Rollouts are kept whole, can be labelled, and can be watched."""

import json

import av
import numpy as np
import pytest

from agent.evaluation.rollouts import RolloutFigures, RolloutRecord, RolloutStore, latency_counts
from shared.errors import ArmfleetError


def record(**changes):
    fields = {
        "id": "r1",
        "task": "push",
        "version": 3,
        "digest": "ab",
        "created": "2026-01-01",
        "reason": "time_up",
    }
    return RolloutRecord(**(fields | changes))


@pytest.fixture
def store(tmp_path):
    return RolloutStore(tmp_path / "rollouts")


def finished(store, frames=95):
    from agent.evaluation.trace import RolloutTrace
    from agent.robot.cameras import Frame
    from agent.robot.loop import Observation

    trace = RolloutTrace(fps=30)
    for i in range(frames):
        shots = {
            "front": Frame(np.full((96, 96, 3), [200, i, 0], np.uint8), 0.0, 0.0, False, 0.0),
            "wrist": Frame(np.zeros((48, 64, 3), np.uint8), 0.0, 0.0, False, 0.0),
        }
        seen = Observation(i, i / 30, 1 / 30, 0.0, np.zeros(6, np.float32), None, shots, 0)
        trace.add(seen, np.ones(6, np.float32))

    class Engine:
        chunks, starved, latency_ms_mean, latency_ms_max = 9, 2, 40.0, 55.0
        latency_counts = latency_counts([30.0, 45.0, 45.0])

    return trace.write(store.root, record(figures=trace.figures(Engine(), bounded=4)))


def test_a_rollout_is_written_whole(store):
    folder = finished(store)
    assert {path.name for path in folder.iterdir()} == {"rollout.json", "trace.jsonl", "video.mp4"}
    read = store.read("r1")
    assert read.success is None
    figures = read.figures
    assert (figures.ticks, figures.starved, figures.bounded, figures.period_ms_mean) == (95, 2, 4, 33.333)
    rows = [json.loads(line) for line in (folder / "trace.jsonl").read_text().splitlines()]
    assert len(rows) == 95
    assert rows[3]["goal"] == [1.0] * 6


def test_the_video_shows_the_cameras_at_ten_frames_a_second_in_their_colours(store):
    with av.open(str(finished(store) / "video.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert float(container.streams.video[0].average_rate) == 10.0
    assert len(frames) == 32  # every third of 95
    assert frames[0].shape == (48, 48 + 64, 3)
    assert np.abs(frames[0][24, 24].astype(int) - [200, 0, 0]).max() < 30


def test_a_label_is_durable_and_can_be_corrected(store):
    finished(store)
    store.label("r1", True)
    assert RolloutStore(store.root).read("r1").success is True
    assert store.label("r1", False).success is False
    assert [r.success for r in store.records()] == [False]


def test_a_rollout_that_was_taken_over_is_never_a_success(store):
    folder = finished(store)
    (folder / "rollout.json").write_text(record(interventions=1).model_dump_json())
    with pytest.raises(ArmfleetError, match="a person took over"):
        store.label("r1", True)
    assert store.read("r1").success is None
    assert store.label("r1", False).success is False


def test_what_was_half_written_is_removed_and_what_is_damaged_left_out(store):
    finished(store)
    (store.root / ".inprogress-r2").mkdir()
    (store.root / "r3").mkdir()
    assert store.recover() == [".inprogress-r2"]
    assert [r.id for r in store.records()] == ["r1"]
    with pytest.raises(ArmfleetError, match="r3"):
        store.read("r3")


def test_a_record_has_no_room_for_anything_else():
    with pytest.raises(ValueError, match="extra"):
        RolloutFigures(frames=[1])
