"""Makes LeRobot datasets for the tests: v3.0 with LeRobot itself, v2.1 from the same episodes."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

TASKS = ("push the red cube to the left", "pull the green cube")
SIDE = 96
STEP = 360 / 4096
"""Degrees per count of the encoder."""
JOINTS = [f"{name}.pos" for name in ("pan", "lift", "elbow", "flex", "roll", "gripper")]


def motion(seed: int, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """State and action, (frames, 6) units: the leader's path, and a follower that comes after it."""
    rng = np.random.default_rng(seed)
    knots = rng.uniform(-40, 40, (7, 6))
    knots[:, 5] = knots[:, 5] / 2 + 50
    times = np.linspace(0, 6, frames)
    eased = np.floor(times) + (1 - np.cos(np.pi * (times % 1))) / 2  # nobody turns a leader on the spot
    leader = np.stack([np.interp(eased, range(7), knots[:, joint]) for joint in range(6)], axis=1)
    follower = np.empty_like(leader)
    follower[0] = leader[0]
    for i in range(1, frames):
        follower[i] = follower[i - 1] + 0.22 * (leader[i] - follower[i - 1])  # 130 ms
    return (np.rint(follower / STEP) * STEP).astype(np.float32), leader.astype(np.float32)


def picture(seed: int, frame: int) -> np.ndarray:
    """(SIDE, SIDE, 3) uint8: blocks that wander."""
    rng = np.random.default_rng(seed)
    blocks = np.kron(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8), np.ones((16, 16, 1), np.uint8))
    return np.roll(blocks, 2 * frame, axis=1)


def write_v3(root: Path, lengths: tuple[int, ...], seed: int = 0, g: int = 2) -> None:
    """A dataset with an episode of each length; all share one file of rows and one of pictures."""
    from lerobot.configs.video import RGBEncoderConfig
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    vector = {"dtype": "float32", "shape": (6,), "names": JOINTS}
    image = {"dtype": "video", "shape": (SIDE, SIDE, 3), "names": ["height", "width", "channels"]}
    dataset = LeRobotDataset.create(
        repo_id="test/source",
        fps=30,
        root=root,
        robot_type="so101_follower",
        features={"observation.state": vector, "action": vector, "observation.images.front": image},
        rgb_encoder=RGBEncoderConfig(vcodec="h264", crf=20, g=g, preset="veryfast"),
        streaming_encoding=True,
        encoder_threads=1,
        encoder_queue_maxsize=1000,  # on a busy machine a short queue drops pictures
    )
    for number, frames in enumerate(lengths):
        state, action = motion(seed + number, frames)
        for i in range(frames):
            dataset.add_frame(
                {
                    "observation.state": state[i],
                    "action": action[i],
                    "observation.images.front": picture(seed + number, i),
                    "task": TASKS[number % 2],
                }
            )
        dataset.save_episode()
    dataset.finalize()


def to_v21(folders: list[Path], root: Path) -> None:
    """The format before: one file per episode, metadata in lines. From one-episode v3.0 folders."""
    lines: dict[str, list[dict]] = {"tasks": [], "episodes": [], "episodes_stats": []}
    tasks: list[str] = []
    index = 0
    for number, folder in enumerate(folders):
        info = json.loads((folder / "meta/info.json").read_text())
        task = pd.read_parquet(folder / "meta/tasks.parquet").index[0]
        if task not in tasks:
            tasks.append(task)
        rows = pd.read_parquet(folder / "data/chunk-000/file-000.parquet")
        rows["episode_index"], rows["task_index"] = number, tasks.index(task)
        rows["index"] = range(index, index + len(rows))
        index += len(rows)
        data = root / f"data/chunk-000/episode_{number:06d}.parquet"
        data.parent.mkdir(parents=True, exist_ok=True)
        rows.to_parquet(data, index=False)
        video = root / f"videos/chunk-000/observation.images.front/episode_{number:06d}.mp4"
        video.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / "videos/observation.images.front/chunk-000/file-000.mp4", video)
        lines["episodes"].append({"episode_index": number, "tasks": [task], "length": len(rows)})
        stats = json.loads((folder / "meta/stats.json").read_text())
        lines["episodes_stats"].append({"episode_index": number, "stats": stats})
    lines["tasks"] = [{"task_index": i, "task": task} for i, task in enumerate(tasks)]
    info |= {
        "codebase_version": "v2.1",
        "total_episodes": len(folders),
        "total_frames": index,
        "total_tasks": len(tasks),
        "total_videos": len(folders),
        "total_chunks": 1,
        "splits": {"train": f"0:{len(folders)}"},
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }
    (root / "meta").mkdir()
    (root / "meta/info.json").write_text(json.dumps(info))
    for name, entries in lines.items():
        (root / f"meta/{name}.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def tree_digest(folder: Path) -> str:
    """Over every name, content and modification time below `folder`."""
    state = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        state.update(f"{path.relative_to(folder)}|{path.stat().st_mtime_ns}|".encode() + content)
    return state.hexdigest()
