"""Datasets become episodes: each whole or not at all, the source untouched, nothing twice."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest

from agent.config import SplitSection
from agent.episodes.cutting import Span, cut
from agent.episodes.importing import run
from agent.episodes.record import SIDECAR, read_record
from agent.episodes.store import EpisodeStore
from shared.exit_codes import ExitCode
from tests.agent.episodes.conftest import LENGTHS
from tests.agent.episodes.lerobot_datasets import SIDE, TASKS, motion, picture, to_v21, tree_digest, write_v3


def import_into(root: Path, *datasets: Path, min_free_mb: int = 0) -> tuple[int, list[dict]]:
    events: list[dict] = []
    code = run(root, min_free_mb, list(datasets), events.append)
    return code, [event for event in events if "outcome" in event or "error" in event]


def outcomes(events: list[dict]) -> list[str]:
    return [event["outcome"] for event in events]


def check_in_lerobot(folder: Path, number: int) -> None:
    """Stock LeRobot loads the folder, and rows and pictures are those of the episode."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    dataset = LeRobotDataset("test/episode", root=folder)
    state, action = motion(number, LENGTHS[number])
    assert (dataset.num_episodes, dataset.num_frames) == (1, len(state))
    for row in (0, 7, len(state) - 1):
        item = dataset[row]
        assert item["task"] == TASKS[number % 2]
        assert (item["index"], item["episode_index"], item["task_index"]) == (row, 0, 0)
        np.testing.assert_array_equal(item["observation.state"], state[row])
        np.testing.assert_array_equal(item["action"], action[row])
        seen = item["observation.images.front"].permute(1, 2, 0).numpy() * 255
        assert np.abs(seen - picture(number, row)).mean() < 12, (
            "the picture of this row, not of its neighbour"
        )
        assert np.abs(seen - picture(number, row + 3)).mean() > 12
    assert dataset.meta.stats["index"]["max"] == [len(state) - 1]
    np.testing.assert_allclose(dataset.meta.stats["action"]["max"], action.max(axis=0), rtol=1e-5)


def test_each_episode_becomes_a_dataset_that_stock_lerobot_loads(source: Path, tmp_path: Path) -> None:
    before = tree_digest(source)
    code, events = import_into(tmp_path, source)
    assert (code, outcomes(events)) == (0, ["imported"] * 3)
    assert tree_digest(source) == before
    for number, event in enumerate(events):
        check_in_lerobot(tmp_path / event["episode"], number)
        record = read_record(tmp_path / event["episode"])
        assert (record.verdict, record.frames, record.fps) == ("unjudged", LENGTHS[number], 30)
        origin = record.origin
        assert (origin.source, origin.episode, origin.robot_type) == ("cubes", number, "so101_follower")
        assert (origin.format, origin.reencoded) == ("v3.0", [])


def test_importing_again_adds_nothing_even_under_another_name(source: Path, tmp_path: Path) -> None:
    root = tmp_path / "store"
    import_into(root, source)
    shutil.copytree(source, tmp_path / "renamed")
    before = tree_digest(root)
    assert outcomes(import_into(root, source, tmp_path / "renamed")[1]) == ["known"] * 6
    assert tree_digest(root) == before


def test_what_the_operator_threw_away_does_not_come_back_by_itself(store: EpisodeStore, source: Path) -> None:
    gone = store.records()[1].id
    store.delete(gone)
    _, events = import_into(store.root, source)
    assert outcomes(events) == ["known"] * 3
    assert "trash" in events[1]["why"]
    store.delete(gone, for_good=True)
    assert outcomes(import_into(store.root, source)[1]) == ["known", "imported", "known"]


def test_the_same_demonstration_from_another_dataset_is_known(store: EpisodeStore, tmp_path: Path) -> None:
    """Episodes of another workstation, a folder of one-episode datasets; their sidecar comes along."""
    others = tmp_path / "others"
    shutil.copytree(store.root, others)
    first = sorted(others.glob("imported-*"))[0]
    (first / SIDECAR).write_text('{"frame": 0}\n')
    assert outcomes(import_into(store.root, others)[1]) == ["known"] * 3
    fresh = tmp_path / "fresh"
    EpisodeStore(others, SplitSection()).label(first.name, "success")
    code, events = import_into(fresh, others)
    assert (code, outcomes(events)) == (0, ["imported"] * 3)
    assert (fresh / events[0]["episode"] / SIDECAR).read_text() == '{"frame": 0}\n'
    assert read_record(fresh / events[0]["episode"]).label == "success"


@pytest.mark.parametrize(
    ("task", "outcome"),
    [("Grab the cube (red)!", "imported"), ("grab\x1b[2J it", "failed"), ("grab it " * 40, "failed")],
)
def test_a_task_that_can_not_be_used_is_said_and_punctuation_is_none(
    tmp_path: Path, task: str, outcome: str
) -> None:
    write_v3(tmp_path / "in", (40,))
    tasks = tmp_path / "in/meta/tasks.parquet"
    pd.read_parquet(tasks).rename(index={TASKS[0]: task}).to_parquet(tasks)
    code, events = import_into(tmp_path / "store", tmp_path / "in")
    assert outcomes(events) == [outcome]
    if outcome == "failed":
        assert code == ExitCode.EPISODE_DAMAGED
        assert "episode 0 of in: the task has" in events[0]["why"]
    else:
        assert read_record(tmp_path / "store" / events[0]["episode"]).task == task


def test_v21_goes_through_lerobots_converter(store: EpisodeStore, tmp_path: Path) -> None:
    old, root = tmp_path / "old", tmp_path / "into"
    to_v21([store.folder(record.id) for record in store.records()], old)
    for folder in (path for path in [old, *old.rglob("*")] if path.is_dir()):
        folder.chmod(0o555)
    before = tree_digest(old)
    code, events = import_into(root, old)
    assert (code, outcomes(events)) == (0, ["imported"] * 3), events
    assert tree_digest(old) == before
    for number, event in enumerate(events):
        check_in_lerobot(root / event["episode"], number)
        assert read_record(root / event["episode"]).origin.format == "v2.1"
    assert sorted(path.name for path in root.iterdir()) == sorted(event["episode"] for event in events)


def test_killed_in_the_middle_what_is_there_is_whole_and_the_rest_follows(
    source: Path, tmp_path: Path
) -> None:
    argv = [sys.executable, "-m", "agent.episodes.importing", "--into", str(tmp_path), str(source)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if "outcome" in line:
                process.send_signal(signal.SIGKILL)
                break
    named = [path for path in tmp_path.iterdir() if not path.name.startswith(".")]
    assert named
    for folder in named:
        check_in_lerobot(folder, read_record(folder).origin.episode)
    (tmp_path / ".inprogress-imported-00000000-000009").mkdir(exist_ok=True)
    code, events = import_into(tmp_path, source)
    assert code == 0
    assert outcomes(events) == ["known"] * len(named) + ["imported"] * (3 - len(named))
    assert len(list(tmp_path.iterdir())) == 3


def test_a_dataset_that_can_not_be_read_does_not_hold_up_the_next(source: Path, tmp_path: Path) -> None:
    both = tmp_path / "both"
    shutil.copytree(source, both / "b-sound")
    shutil.copytree(source, both / "a-cut")
    next((both / "a-cut/videos").rglob("*.mp4")).unlink()
    code, events = import_into(tmp_path / "store", both, tmp_path / "nothing")
    assert code == ExitCode.UNEXPECTED
    assert outcomes(events[:6]) == ["failed"] * 3 + ["imported"] * 3
    assert "can't be cut" in events[0]["why"]
    assert "no LeRobot dataset" in events[6]["error"]["what"]


@pytest.mark.parametrize("version", ["v2.0", "v1.6"])
def test_other_formats_are_refused_with_what_to_do(source: Path, tmp_path: Path, version: str) -> None:
    shutil.copytree(source, tmp_path / "old")
    info = json.loads((tmp_path / "old/meta/info.json").read_text())
    (tmp_path / "old/meta/info.json").write_text(json.dumps(info | {"codebase_version": version}))
    code, events = import_into(tmp_path / "store", tmp_path / "old")
    assert code == ExitCode.EPISODE_DAMAGED
    assert version in events[0]["error"]["what"]


def test_a_full_disk_is_said_before_anything_is_written(source: Path, tmp_path: Path) -> None:
    code, events = import_into(tmp_path, source, min_free_mb=10**9)
    assert code == ExitCode.DISK_FULL
    assert "goes on where it stopped" in events[0]["error"]["do"]
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- cutting


def film(path: Path, frames: int, **options: str) -> Path:
    """`frames` pictures at 30 Hz; frame i is picture(0, i)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "12", **options})
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        for i in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(0, i), format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("options", "again"),
    [
        ({"bf": "0", "g": "30", "x264-params": "scenecut=0"}, False),
        ({"bf": "2", "g": "30", "x264-params": "scenecut=0:open-gop=0"}, False),
        ({"bf": "2", "g": "30", "x264-params": "scenecut=0:open-gop=1"}, True),
        ({"bf": "2", "g": "300", "x264-params": "scenecut=0"}, True),
    ],
    ids=["key frames", "B-frames", "open groups", "no key frame"],
)
def test_a_span_is_cut_to_the_frame(tmp_path: Path, options: dict[str, str], again: bool) -> None:
    whole = film(tmp_path / "whole.mp4", 90, **options)
    target = tmp_path / "part.mp4"
    assert cut(whole, Span(1.0, 2.0, 30.0), target) is again
    with av.open(str(target)) as container:
        shown = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    assert len(shown) == 30
    for i, (time, image) in enumerate(shown):
        assert time == pytest.approx(i / 30, abs=1e-4)
        assert np.abs(image.astype(float) - picture(0, 30 + i)).mean() < 12


def test_a_dataset_whose_episodes_begin_between_key_frames_is_encoded_again(
    source: Path, tmp_path: Path
) -> None:
    copy, root = tmp_path / "copy", tmp_path / "store"
    shutil.copytree(source, copy)
    video = next((copy / "videos").rglob("*.mp4"))
    pictures = [picture(number, i) for number, frames in enumerate(LENGTHS) for i in range(frames)]
    with av.open(str(video), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "12", "g": "500"})
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        stream.codec_context.options = {"x264-params": "scenecut=0"}
        for image in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    code, events = import_into(root, copy)
    assert (code, outcomes(events)) == (0, ["imported"] * 3)
    for number, event in enumerate(events):
        check_in_lerobot(root / event["episode"], number)
    assert [read_record(root / event["episode"]).origin.reencoded for event in events[1:]] == [["front"]] * 2


def test_the_importer_needs_neither_torch_nor_lerobot() -> None:
    code = (
        "import sys, agent.episodes.importing, agent.episodes.desk, agent.episodes.exporting, cli.episodes\n"
        "sys.exit(', '.join({'torch', 'lerobot'} & {n.split('.')[0] for n in sys.modules}) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.returncode == 0, done.stderr
