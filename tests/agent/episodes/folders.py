"""Writes small LeRobot v3 dataset folders as LeRobot 0.6.1 lays them out: pyarrow and PyAV."""

import json
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from agent.robot.joints import POSITION_KEYS
from tests.agent.episodes.scenes import FPS, front, motion

SIZE = (128, 128)
SECONDS = 3.0
KEY = "observation.images.front"
FEATURE = {"dtype": "float32", "shape": [6], "names": list(POSITION_KEYS)}


def write(folder: Path, seeds: list[int], seconds: float = SECONDS) -> None:
    """A dataset with one episode per seed, all in the same files."""
    rows = round(seconds * FPS)
    motions = [motion(seconds, seed=seed) for seed in seeds]
    count = len(seeds)
    _table(
        folder / "data/chunk-000/file-000.parquet",
        {
            "observation.state": [r for state, _ in motions for r in state.tolist()],
            "action": [r for _, action in motions for r in action.tolist()],
            "timestamp": pa.array(np.tile(np.arange(rows) / FPS, count), pa.float32()),
            "frame_index": np.tile(np.arange(rows), count),
            "episode_index": np.repeat(np.arange(count), rows),
            "index": np.arange(rows * count),
            "task_index": np.zeros(rows * count, np.int64),
        },
    )
    stats = [_stats(state, action) for state, action in motions]
    _table(
        folder / "meta/episodes/chunk-000/file-000.parquet",
        {
            "episode_index": np.arange(count),
            "tasks": [["push the red cube to the left"]] * count,
            "length": [rows] * count,
            "data/chunk_index": [0] * count,
            "data/file_index": [0] * count,
            "dataset_from_index": np.arange(count) * rows,
            "dataset_to_index": (np.arange(count) + 1) * rows,
            f"videos/{KEY}/chunk_index": [0] * count,
            f"videos/{KEY}/file_index": [0] * count,
            f"videos/{KEY}/from_timestamp": np.arange(count) * seconds,
            f"videos/{KEY}/to_timestamp": (np.arange(count) + 1) * seconds,
            **{key: [one[key] for one in stats] for key in stats[0]},
        },
    )
    _table(folder / "meta/tasks.parquet", {"task_index": [0], "task": ["push the red cube to the left"]})
    info = {
        "codebase_version": "v3.0",
        "robot_type": "so_follower",
        "fps": FPS,
        "total_episodes": count,
        "total_frames": rows * count,
        "total_tasks": 1,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": {
            "observation.state": FEATURE,
            "action": FEATURE,
            KEY: {"dtype": "video", "shape": [*SIZE, 3], "names": ["height", "width", "channels"]},
        },
    }
    (folder / "meta/info.json").write_text(json.dumps(info))
    _video(folder / f"videos/{KEY}/chunk-000/file-000.mp4", [state for state, _ in motions])


def _stats(state: np.ndarray, action: np.ndarray) -> dict[str, list[float]]:
    return {
        f"stats/{name}/{kind}": getattr(array.astype(np.float64), kind)(axis=0).tolist()
        for name, array in (("observation.state", state), ("action", action))
        for kind in ("min", "max", "mean")
    }


def _table(path: Path, columns: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def _video(path: Path, states: list[np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=FPS, options={"crf": "18", "preset": "ultrafast", "g": "15"}
        )
        stream.width, stream.height, stream.pix_fmt = SIZE[1], SIZE[0], "yuv420p"
        for state in states:
            for picture in front(state).thumbnails:
                large = np.repeat(np.repeat(picture, 2, axis=0), 2, axis=1)
                frame = av.VideoFrame.from_ndarray(np.stack([large] * 3, axis=-1), format="rgb24")
                container.mux(stream.encode(frame))
        container.mux(stream.encode())
