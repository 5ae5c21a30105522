"""One dataset folder per episode, whole or not at all."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from agent.config import RecordingSection, SplitSection
from agent.episodes import recorder as module
from agent.episodes.dataset import read_episode
from agent.episodes.record import Intervention, facts
from agent.episodes.recorder import EpisodeRecorder, RecorderSettings
from agent.episodes.store import EpisodeStore
from agent.robot.cameras import Frame
from agent.robot.loop import Observation
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.files import IN_PROGRESS, remove_in_progress

CAMERAS = {"front": (96, 96, 3)}
RNG = np.random.default_rng(5)
SCENE = cv2.resize(RNG.integers(0, 255, (8, 8, 3), dtype=np.uint8), (96, 96))


def seen(i: int) -> Observation:
    image = np.roll(SCENE, i, axis=1)
    state = np.array([i * 0.4, 10, 20, 30, 40, 50 + np.sin(i / 9)], np.float32)
    frames = {"front": Frame(image, i / 30, 0.01, False, i / 30)}
    return Observation(i, 1000 + i / 30, 1 / 30, 0.0, state, None, frames, 0)


def goal(i: int) -> np.ndarray:
    """Where the leader is: ahead of the follower, and not exactly where that will be."""
    return seen(i + 5).state + np.float32(0.8) * np.sin(np.arange(6, dtype=np.float32) + i / 4)


def make(folder: Path, **recording) -> EpisodeRecorder:
    settings = {"crf": 12, "min_free_mb": 1} | recording
    folder.mkdir(parents=True, exist_ok=True)
    return EpisodeRecorder(RecorderSettings(folder, CAMERAS, 30, RecordingSection(**settings), "cal"))


def record(recorder, episode_id, frames=60):
    take = recorder.start(episode_id, "push the red cube to the left", max_s=60)
    for i in range(frames):
        take.add(seen(i), goal(i))
    return take


@pytest.fixture
def store(tmp_path):
    return EpisodeStore(tmp_path / "episodes", SplitSection())


def test_a_warm_recorder_starts_at_once_and_saves_within_a_second(store):
    recorder = make(store.root)
    recorder.warm_up()
    assert list(store.root.iterdir()) == []
    started = time.monotonic()
    take = record(recorder, "000001", 1)
    assert take.first_frame.is_set()
    assert time.monotonic() - started < 2.0
    for i in range(1, 60):
        take.add(seen(i), goal(i))
    started = time.monotonic()
    take.save()
    assert time.monotonic() - started < 5.0  # under 0.4 s on a quiet machine


def test_what_was_recorded_can_be_read_and_is_admitted(store):
    folder = record(make(store.root), "000001").save()
    data = read_episode(folder)
    assert data.task == "push the red cube to the left"
    assert data.videos["front"].frames == len(data.state) == len(data.sidecar) == 60
    assert np.allclose(data.state, [seen(i).state for i in range(60)])
    assert np.allclose(data.action, [goal(i) for i in range(60)])
    judged = store.judge("000001")
    assert judged.verdict == "admitted", judged.reasons
    assert judged.split in ("train", "eval")
    assert judged.calibration_digest == "cal"
    assert store.read("000001") == judged
    assert store.judge("000001") == judged  # judging again changes nothing


def test_what_a_person_recorded_by_taking_over_says_so_and_goes_as_any_other(store):
    recorder, taken = make(store.root), Intervention(rollout="r1", version=7)
    take = recorder.start("000001", "push the red cube to the left", max_s=60, intervention=taken)
    for i in range(60):
        take.add(seen(i), goal(i))
    take.save()
    judged = store.judge("000001")
    assert (judged.verdict, judged.intervention, judged.kind) == ("admitted", taken, "intervention")
    assert judged.usable
    assert ("origin", "intervention: a person took over from version 7 in rollout r1") in facts(judged)


def test_colours_survive_the_encoder(store):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    folder = record(make(store.root), "000001", 20).save()
    image = LeRobotDataset("armfleet/x", root=folder)[7]["observation.images.front"]
    error = np.abs(image.permute(1, 2, 0).numpy() * 255 - seen(7).frames["front"].image)
    assert error.mean() < 6.0  # strong colours at a pixel or two of detail


def test_a_full_disk_is_refused_before_anything_is_written(store):
    with pytest.raises(ArmfleetError, match="MB are free") as caught:
        make(store.root, min_free_mb=10**9).start("000001", "push", max_s=10)
    assert caught.value.code is ExitCode.DISK_FULL
    assert "all saved episodes" in caught.value.kept
    assert list(store.root.iterdir()) == []


def test_a_disk_that_fills_up_while_saving_costs_that_episode_only(store, monkeypatch):
    recorder = make(store.root)
    record(recorder, "000001").save()
    take = record(recorder, "000002")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "commit_folder", full)
    with pytest.raises(ArmfleetError, match="is full") as caught:
        take.save()
    assert caught.value.code is ExitCode.DISK_FULL
    assert [path.name for path in store.root.iterdir()] == ["000001"]


def test_dropped_video_frames_keep_the_episode_out(store):
    take = record(make(store.root), "000001")
    take._encoder.dropped = 3
    with pytest.raises(ArmfleetError, match="dropped 3 frames"):
        take.save()
    assert list(store.root.iterdir()) == []


def test_no_more_rows_than_the_longest_length(store):
    take = make(store.root).start("000001", "push", max_s=1.0)
    for i in range(50):
        take.add(seen(i), seen(i).state)
    assert take.full
    take.save()
    assert store.read("000001").frames == 30


@pytest.mark.parametrize("task", ["", "   "])
def test_an_episode_needs_a_task(store, task):
    with pytest.raises(ArmfleetError, match="task"):
        make(store.root).start("000001", task, max_s=1)


def test_an_id_is_used_once(store):
    recorder = make(store.root)
    record(recorder, "000001").save()
    with pytest.raises(ArmfleetError, match="already"):
        recorder.start("000001", "push", max_s=1)


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, "tests/agent/episodes")
from test_recorder import make, record
recorder = make(Path(sys.argv[1]))
for number in range(1, 100):
    take = record(recorder, f"{number:06d}", 45)
    print("recorded", flush=True)
    take.save()
    print("saved", flush=True)
"""


def test_sigkill_at_random_points_leaves_a_store_that_loads(store):
    """Killed once while recording and once while saving, at points that differ from run to run."""
    for round_ in range(2):
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                KILLED.replace("range(1, 100)", f"range({1 + 50 * round_}, 100)"),
                str(store.root),
            ],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        lines = 1 + 2 * int(RNG.integers(1, 3)) - round_
        for _ in range(lines):
            process.stdout.readline()
        time.sleep(float(RNG.uniform(0, 0.2)))
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        process.stdout.close()
    saved = [path.name for path in store.root.iterdir() if not path.name.startswith(IN_PROGRESS)]
    assert saved
    remove_in_progress(store.root)
    assert sorted(path.name for path in store.root.iterdir() if path.is_dir()) == sorted(saved)
    for name in saved:
        store.judge(name)
    for record_ in store.records():
        # They all show the same motion; but for that, each is as good as new.
        assert {reason.check for reason in record_.reasons} <= {"identity.duplicate"}
        assert len(read_episode(store.folder(record_.id)).state) == record_.frames == 45


def test_a_damaged_record_is_left_out_and_named(store, caplog):
    record(make(store.root), "000001").save()
    folder = store.root / "000002"
    folder.mkdir()
    (folder / "armfleet.json").write_text(json.dumps({"id": 3}))
    assert [r.id for r in store.records()] == ["000001"]
    with pytest.raises(ArmfleetError, match="000002") as caught:
        store.read("000002")
    assert caught.value.code is ExitCode.EPISODE_DAMAGED


def test_truncated_parquet_is_quarantined(store):
    folder = record(make(store.root), "000001").save()
    table = next((folder / "data").rglob("*.parquet"))
    table.write_bytes(table.read_bytes()[:-100])
    judged = store.judge("000001")
    assert (judged.verdict, [r.check for r in judged.reasons]) == ("quarantined", ["container.unreadable"])


def test_an_unreadable_video_is_quarantined(store):
    folder = record(make(store.root), "000001").save()
    video = next((folder / "videos").rglob("*.mp4"))
    video.write_bytes(b"not a video")
    assert "video.corrupt" in {r.check for r in store.judge("000001").reasons}
