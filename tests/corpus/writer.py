"""Writes an episode as the folder that LeRobot 0.6.1 writes (v3.0, one episode), with pyarrow and PyAV.

Directly and not through LeRobot: it takes no torch, is quick, and can be wrong on purpose.
"""

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from agent.episodes.record import SIDECAR, EpisodeRecord, write_record

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
NAMES = [f"{joint}.pos" for joint in JOINTS]
QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)
CREATED = "2026-05-04T09:30:00.000+00:00"
DATA = Path("data/chunk-000/file-000.parquet")
EPISODES = Path("meta/episodes/chunk-000/file-000.parquet")
ENCODERS = {
    "h264": ("libx264", {"crf": "23", "preset": "superfast", "threads": "1", "bf": "0"}),
    "av1": ("libsvtav1", {"crf": "30", "preset": "12", "svtav1-params": "lp=1"}),
    "mpeg4": ("mpeg4", {"qscale": "3", "threads": "1"}),
}


@dataclass(frozen=True)
class Film:
    """A finished video file, and every twentieth of its frames, (n, height / 4, width / 4, 3) uint8 RGB."""

    path: Path
    sample: np.ndarray


@dataclass
class Recording:
    """What an episode's folder will say, before it is written.

    Attributes:
        state, action: (T, D) as recorded, units.
        task: Instruction.
        fps: Rows per second.
        timestamps: (T,) seconds.
        videos: Camera key (under observation.images.) -> video to take.
        names: Of the joints.
        robot_type: As in info.json.
        sidecar: Rows of armfleet's sidecar, or None for a recording by LeRobot's own tools.
        size: (height, width) declared for every camera.
        codec: Of the videos, as info.json calls it.
    """

    state: np.ndarray
    action: np.ndarray
    task: str
    fps: int
    timestamps: np.ndarray
    videos: dict[str, Film]
    names: list[str] = field(default_factory=lambda: list(NAMES))
    robot_type: str = "so101_follower"
    sidecar: list[dict[str, Any]] | None = None
    size: tuple[int, int] = (240, 320)
    codec: str = "h264"


def encode(
    frames: Iterable[np.ndarray], path: Path, fps: int, codec: str = "h264", flags: str | None = None
) -> Film:
    """Write (height, width, 3) uint8 RGB frames as an mp4 file with a key frame every second frame, as
    LeRobot does. `flags` is given to the container, such as "+faststart"."""
    sample = []
    path.parent.mkdir(parents=True, exist_ok=True)
    name, options = ENCODERS[codec]
    with av.open(str(path), "w", options={"movflags": flags} if flags else {}) as container:
        stream = container.add_stream(name, rate=fps, options={**options, "g": "2"})
        stream.pix_fmt = "yuv420p"
        for row, image in enumerate(frames):
            if row % 20 == 0:
                sample.append(image[::4, ::4])
            stream.height, stream.width = image.shape[:2]
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return Film(path, np.array(sample))


def write(folder: Path, recording: Recording) -> None:
    """Make the dataset folder."""
    folder.mkdir(parents=True)
    rows = len(recording.state)
    info = _info(recording)
    columns = {
        "observation.state": recording.state.astype(np.float32),
        "action": recording.action.astype(np.float32),
        "timestamp": recording.timestamps.astype(np.float32),
        "frame_index": np.arange(rows),
        "episode_index": np.zeros(rows, np.int64),
        "index": np.arange(rows),
        "task_index": np.zeros(rows, np.int64),
    }
    write_rows(folder, columns)
    stats = {name: _stats(column) for name, column in columns.items()}
    for key, film in recording.videos.items():
        target = folder / "videos" / f"observation.images.{key}" / "chunk-000" / "file-000.mp4"
        target.parent.mkdir(parents=True)
        shutil.copyfile(film.path, target)
        stats[f"observation.images.{key}"] = _picture_stats(film.sample)
    write_json(folder / "meta" / "info.json", info)
    write_json(folder / "meta" / "stats.json", stats)
    _write_tasks(folder, recording.task)
    _write_episodes(folder, recording, stats)
    if recording.sidecar is not None:
        lines = [json.dumps(row) for row in recording.sidecar]
        (folder / SIDECAR).write_text("\n".join(lines) + "\n", encoding="utf-8")
        write_record(
            folder,
            EpisodeRecord(
                id=folder.name, task=recording.task, frames=rows, fps=recording.fps, created=CREATED
            ),
        )


def write_rows(folder: Path, columns: dict[str, np.ndarray]) -> None:
    """Replace the table of rows: (T,) and (T, D) columns in their own types."""
    arrays, features = {}, {}
    for name, column in columns.items():
        if column.ndim == 2:
            kind = pa.list_(pa.from_numpy_dtype(column.dtype), column.shape[1])
            arrays[name] = pa.FixedSizeListArray.from_arrays(pa.array(column.ravel()), type=kind)
            inner = {"dtype": str(column.dtype), "_type": "Value"}
            features[name] = {"feature": inner, "length": column.shape[1], "_type": "List"}
        else:
            arrays[name] = pa.array(column)
            features[name] = {"dtype": str(column.dtype), "_type": "Value"}
    kinds = json.dumps({"info": {"features": features}})
    table = pa.table(arrays).replace_schema_metadata({"huggingface": kinds})
    path = folder / DATA
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def read_rows(folder: Path) -> dict[str, np.ndarray]:
    """The columns of a folder's table."""
    table = pq.read_table(folder / DATA)
    return {
        name: np.array(column.to_pylist()) if pa.types.is_fixed_size_list(column.type) else column.to_numpy()
        for name, column in zip(table.column_names, table.columns, strict=True)
    }


def write_json(path: Path, value: object) -> None:
    """As LeRobot writes its metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=4, ensure_ascii=False), encoding="utf-8")


def edit_json(path: Path, change: Any) -> None:
    """Apply `change(value)`, which alters it in place, to a JSON file."""
    value = json.loads(path.read_text())
    change(value)
    write_json(path, value)


def edit_episode(folder: Path, **values: object) -> None:
    """Replace columns of the single row in meta/episodes; `__` in a keyword stands for `/`."""
    table = pq.read_table(folder / EPISODES)
    for key, value in values.items():
        name = key.replace("__", "/")
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(at), pa.array([value], table.schema.field(at).type))
    pq.write_table(table, folder / EPISODES)


def regular(rows: int, fps: int = 30) -> np.ndarray:
    """Time stamps as LeRobot writes them: frame / fps."""
    return np.arange(rows) / fps


def _info(recording: Recording) -> dict[str, Any]:
    joints = {"dtype": "float32", "shape": [recording.state.shape[1]], "names": recording.names}
    features: dict[str, Any] = {"observation.state": joints}
    features["action"] = {**joints, "shape": [recording.action.shape[1]]}
    height, width = recording.size
    for key in recording.videos:
        details = {
            "video.height": height,
            "video.width": width,
            "video.codec": recording.codec,
            "video.pix_fmt": "yuv420p",
            "video.fps": recording.fps,
            "video.channels": 3,
            "has_audio": False,
            "is_depth_map": False,
        }
        features[f"observation.images.{key}"] = {
            "dtype": "video",
            "shape": [height, width, 3],
            "names": ["height", "width", "channels"],
            "info": details,
        }
    features["timestamp"] = {"dtype": "float32", "shape": [1], "names": None}
    for name in ("frame_index", "episode_index", "index", "task_index"):
        features[name] = {"dtype": "int64", "shape": [1], "names": None}
    return {
        "codebase_version": "v3.0",
        "fps": recording.fps,
        "features": features,
        "total_episodes": 1,
        "total_frames": len(recording.state),
        "total_tasks": 1,
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "robot_type": recording.robot_type,
        "splits": {"train": "0:1"},
    }


def _stats(column: np.ndarray) -> dict[str, Any]:
    values = column.astype(float).reshape(len(column), -1)
    stats = {name: getattr(values, name)(axis=0).tolist() for name in ("min", "max", "mean", "std")}
    stats["count"] = [len(values)]
    for q in QUANTILES:
        stats[f"q{round(q * 100):02d}"] = np.quantile(values, q, axis=0).tolist()
    return stats


def _picture_stats(sample: np.ndarray) -> dict[str, Any]:
    """Of a film's sample, in 0..1, by colour; LeRobot, too, takes a sample."""
    values = sample.reshape(-1, 3) / 255
    stats = {name: getattr(values, name)(axis=0) for name in ("min", "max", "mean", "std")}
    stats |= {f"q{round(q * 100):02d}": np.quantile(values, q, axis=0) for q in QUANTILES}
    return {name: value.reshape(3, 1, 1).tolist() for name, value in stats.items()} | {"count": [len(values)]}


def _write_tasks(folder: Path, task: str) -> None:
    """As a data frame with the task for its index, which is how LeRobot looks tasks up."""
    tasks = pd.DataFrame({"task_index": [0]}, index=pd.Index([task], name="task"))
    tasks.to_parquet(folder / "meta" / "tasks.parquet")


def _write_episodes(folder: Path, recording: Recording, stats: dict[str, Any]) -> None:
    rows = len(recording.state)
    row: dict[str, Any] = {
        "episode_index": 0,
        "tasks": [recording.task],
        "length": rows,
        "data/chunk_index": 0,
        "data/file_index": 0,
        "dataset_from_index": 0,
        "dataset_to_index": rows,
    }
    for key in recording.videos:
        prefix = f"videos/observation.images.{key}"
        row |= {f"{prefix}/chunk_index": 0, f"{prefix}/file_index": 0}
        row |= {f"{prefix}/from_timestamp": 0.0, f"{prefix}/to_timestamp": rows / recording.fps}
    for name, values in stats.items():
        row |= {f"stats/{name}/{key}": value for key, value in values.items()}
    row |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
    path = folder / EPISODES
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([row]), path)
