"""Folders that are damaged, incomplete, or not what their metadata says."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..registry import Scene, defect
from ..stage import CAMERAS
from ..writer import DATA, EPISODES, edit_episode, edit_json, read_rows, write_rows

CONTAINER = ("container.",)
META = ("container.", "values.shape", "video.frame_count", "timing.stamps")
INFO = "meta/info.json"
BROKEN_VIDEO = ("video.corrupt", "video.missing", "video.frame_count", "container.")


def _video(folder: Path, camera: str) -> Path:
    return folder / "videos" / f"observation.images.{camera}" / "chunk-000" / "file-000.mp4"


def _info(scene: Scene, change: Any) -> None:
    scene.damage(lambda folder: edit_json(folder / INFO, change))


@defect("video.missing", "container.")
def missing_video(scene: Scene) -> None:
    """A camera's file is not there; both files; the whole folder of videos."""

    def change(folder: Path) -> None:
        lost = scene.pick(CAMERAS[1:], CAMERAS, CAMERAS)
        for camera in lost:
            _video(folder, camera).unlink()
            if scene.level == 2:
                _video(folder, camera).parent.rmdir()
                _video(folder, camera).parent.parent.rmdir()
        if scene.level == 2:
            (folder / "videos").rmdir()

    scene.damage(change)


@defect(*BROKEN_VIDEO)
def truncated_video(scene: Scene) -> None:
    """The video file ends too soon: the last twentieth of a file with its index in front, the second half,
    and with the index behind: nothing readable."""
    camera = CAMERAS[int(scene.rng.integers(2))]
    if scene.level < 2:
        scene.shot.flags = "+faststart"
        scene.shot.stock = {}

    def change(folder: Path) -> None:
        path = _video(folder, camera)
        data = path.read_bytes()
        path.write_bytes(data[: round(len(data) * scene.pick(0.95, 0.5, 0.6))])

    scene.damage(change)


@defect(*BROKEN_VIDEO)
def damaged_video(scene: Scene) -> None:
    """Bytes of the video overwritten: a block of 2 kB in the middle, twenty of them, the head of the file."""
    camera = CAMERAS[int(scene.rng.integers(2))]
    blocks = scene.pick(1, 20, 1)

    def change(folder: Path) -> None:
        path = _video(folder, camera)
        data = bytearray(path.read_bytes())
        for _ in range(blocks):
            at = 0 if scene.level == 2 else int(scene.rng.integers(len(data) // 10, len(data) * 8 // 10))
            data[at : at + 2048] = scene.rng.bytes(2048)
        path.write_bytes(bytes(data))

    scene.damage(change)


@defect(*CONTAINER)
def truncated_table(scene: Scene) -> None:
    """The table of rows without its footer: the last 8 bytes gone, half, an empty file."""

    def change(folder: Path) -> None:
        path = folder / DATA
        data = path.read_bytes()
        path.write_bytes(data[: scene.pick(len(data) - 8, len(data) // 2, 0)])

    scene.damage(change)


@defect(*META)
def wrong_length(scene: Scene) -> None:
    """The metadata's number of rows: off by one, by 30, tenfold."""
    rows = len(scene.shot)
    claimed = scene.pick(rows + 1, rows - 30, rows * 10)

    def change(folder: Path) -> None:
        edit_episode(folder, length=claimed, dataset_to_index=claimed)
        if scene.level:
            edit_json(folder / INFO, lambda info: info.update(total_frames=claimed))

    scene.damage(change)


@defect(*META)
def wrong_totals(scene: Scene) -> None:
    """info.json counts what is not there: 5 frames more, another episode, a hundred episodes."""

    def change(info: dict[str, Any]) -> None:
        info["total_frames"] += scene.pick(5, 412, 30000)
        if scene.level:
            info["total_episodes"] = scene.pick(1, 2, 100)
            info["splits"] = {"train": f"0:{info['total_episodes']}"}

    _info(scene, change)


@defect(*META, "identity.")
def wrong_episode_index(scene: Scene) -> None:
    """The rows belong to an episode that the metadata does not know: the last 20, all, a mixture."""

    def change(folder: Path) -> None:
        columns = read_rows(folder)
        index = columns["episode_index"].copy()
        if scene.level == 0:
            index[-20:] = 1
        else:
            index[:] = 7 if scene.level == 1 else scene.rng.integers(0, 5, len(index))
        write_rows(folder, {**columns, "episode_index": index})

    scene.damage(change)


@defect(*META, "video.stamps", "timing.")
def wrong_fps(scene: Scene) -> None:
    """The rate in the metadata: the video file runs at 25, info.json says 15, says 300."""
    if scene.level == 0:
        scene.shot.video_fps, scene.shot.stock = 25, {}
    else:
        _info(scene, lambda info: info.update(fps=scene.pick(0, 15, 300)))


@defect(*META, "values.joint")
def wrong_shape(scene: Scene) -> None:
    """Features declared otherwise than stored: five names for six joints, seven joints, an image feature
    without shape."""

    def change(info: dict[str, Any]) -> None:
        state = info["features"]["observation.state"]
        if scene.level == 0:
            state["names"] = state["names"][:5]
        elif scene.level == 1:
            state["shape"] = [7]
        else:
            state["shape"] = [14]
            info["features"]["action"]["shape"] = [3]

    _info(scene, change)


@defect("container.features", "values.shape", "values.joint")
def wrong_joints(scene: Scene) -> None:
    """Another number of joints: the action has 5, state and action have 5 (no gripper), the state has 12."""
    shot = scene.shot
    if scene.level == 0:
        shot.action = shot.action[:, :5]
    elif scene.level == 1:
        shot.state, shot.action = shot.state[:, :5], shot.action[:, :5]
    else:
        shot.state = np.concatenate([shot.state, shot.state[::-1]], axis=1)


@defect("container.stats")
def wrong_stats(scene: Scene) -> None:
    """stats.json against the data: one joint's range a fifth too small, of another data set, all zero."""

    def change(stats: dict[str, Any]) -> None:
        for name in ("observation.state", "action") if scene.level else ("observation.state",):
            entry = stats[name]
            for key in ("min", "max", "mean", "std", "q01", "q10", "q50", "q90", "q99"):
                if scene.level == 0:
                    entry[key][1] *= 0.8
                else:
                    entry[key] = [value * 0.3 + 12 if scene.level == 1 else 0.0 for value in entry[key]]

    scene.damage(lambda folder: edit_json(folder / "meta" / "stats.json", change))


@defect(*CONTAINER)
def missing_file(scene: Scene) -> None:
    """A file of the dataset is not there: the tasks, the episodes, the rows."""
    lost = scene.pick("meta/tasks.parquet", str(EPISODES), str(DATA))
    scene.damage(lambda folder: (folder / lost).unlink())


@defect(*CONTAINER)
def broken_info(scene: Scene) -> None:
    """info.json: without its feature for the action, cut off in the middle, empty."""

    def change(folder: Path) -> None:
        path = folder / INFO
        text = path.read_text()
        if scene.level == 0:
            info = json.loads(text)
            del info["features"]["action"]
            path.write_text(json.dumps(info))
        else:
            path.write_text(text[: len(text) // 2] if scene.level == 1 else "")

    scene.damage(change)


@defect(*META, "timing.")
def lost_rows(scene: Scene) -> None:
    """Rows are lost: one, twenty in the middle, every second one; indices and stamps have the holes."""
    rows = len(scene.shot)
    middle = rows // 2
    lost = scene.pick([middle], list(range(middle, middle + 20)), list(range(1, rows, 2)))

    def change(folder: Path) -> None:
        kept = {name: np.delete(column, lost, axis=0) for name, column in read_rows(folder).items()}
        write_rows(folder, kept)

    scene.damage(change)


@defect(*META, "timing.")
def wrong_frame_index(scene: Scene) -> None:
    """frame_index does not count: one number twice, begins at 50, all zero."""

    def change(folder: Path) -> None:
        columns = read_rows(folder)
        index = columns["frame_index"].copy()
        if scene.level == 0:
            index[len(index) // 2] -= 1
        else:
            index = index + 50 if scene.level == 1 else index * 0
        write_rows(folder, {**columns, "frame_index": index})

    scene.damage(change)


@defect(*META, "identity.")
def wrong_task_index(scene: Scene) -> None:
    """Rows name a task that is not in the list: one row, the second half, all."""

    def change(folder: Path) -> None:
        columns = read_rows(folder)
        index = columns["task_index"].copy()
        index[scene.pick(-1, len(index) // 2, 0) :] = scene.pick(1, 2, 9)
        write_rows(folder, {**columns, "task_index": index})

    scene.damage(change)
