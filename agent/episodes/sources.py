"""Datasets to import: LeRobot v3.0 as they are, v2.1 through LeRobot's converter. The source is only read.

Free of torch and LeRobot: the converter runs in a process of its own, on a copy.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode

INFO = "meta/info.json"
CONVERTER = "lerobot.scripts.convert_dataset_v21_to_v30"
CONVERT_S = 3600.0
"""Longest time for LeRobot's converter; it copies videos at the disk's speed."""
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
"""Where LeRobot v3.0 puts rows and videos."""


@dataclass(frozen=True)
class Source:
    """A dataset that can be read as v3.0.

    Attributes:
        folder: Where it is read: the dataset itself, or its converted copy.
        name: Folder name of the dataset.
        digest: See `dataset_digest`.
        format: "v3.0" or "v2.1": what it is in `origin`.
        origin: The dataset's own folder.
        info: meta/info.json.
        episodes: One row of metadata per episode, a table of one row each.
        tasks: Instruction by number.
    """

    folder: Path
    name: str
    digest: str
    format: str
    origin: Path
    info: dict[str, Any]
    episodes: list[pa.Table]
    tasks: dict[int, str]

    @property
    def video_keys(self) -> list[str]:
        """Features that are videos."""
        return [key for key, feature in self.info["features"].items() if feature["dtype"] == "video"]


def find_datasets(path: Path) -> list[Path]:
    """`path` itself where it is a dataset, else the datasets directly below it, by name.

    Raises:
        ArmfleetError: there is none, or it can't be looked into.
    """
    try:
        if (path / INFO).is_file():
            return [path]
        found = [
            child
            for child in sorted(path.iterdir() if path.is_dir() else [])
            if not child.name.startswith(".") and (child / INFO).is_file()
        ]
    except PermissionError as error:
        raise ArmfleetError(
            f"{path} can't be read by this user ({error.strerror})",
            kept="the store, unchanged",
            do="copy the dataset to a folder that this user may read, or change its permissions",
        ) from error
    if not found:
        raise ArmfleetError(
            f"there is no LeRobot dataset at {path} (no {INFO})",
            kept="the store, unchanged",
            do="name the folder that holds meta, data and videos; the service sees no /home and no /tmp",
        )
    return found


def dataset_digest(folder: Path) -> str:
    """SHA-256 over the names and contents below meta and data, and the names and sizes of the videos.

    The folder's own place and name don't count, so that a moved or renamed copy is the same dataset.
    """
    state = hashlib.sha256()
    for path in sorted(p for part in ("data", "meta", "videos") for p in (folder / part).rglob("*")):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            if name.startswith("videos/"):
                content = str(path.stat().st_size)
            else:
                with path.open("rb") as file:
                    content = hashlib.file_digest(file, "sha256").hexdigest()
            state.update(f"{name}|{content}\n".encode())
    return state.hexdigest()


@contextmanager
def opened(folder: Path, scratch: Path) -> Iterator[Source]:
    """The dataset at `folder`, for reading; `scratch` is created for a converted copy and removed again.

    Raises:
        ArmfleetError: EPISODE_DAMAGED: unreadable, of another format, or the converter failed.
    """
    try:
        yield _open(folder, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _open(folder: Path, scratch: Path) -> Source:
    try:
        version = str(json.loads((folder / INFO).read_text())["codebase_version"])
        digest = dataset_digest(folder)
        if version.startswith("v3."):
            return _read(folder, folder, digest, version)
        if version == "v2.1":
            return _read(_converted(folder, scratch), folder, digest, version)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise ArmfleetError(
            f"{folder} can't be read as a LeRobot dataset: {type(error).__name__}: {error}",
            kept="the dataset, unchanged, and the store",
            do="import another copy of it",
            code=ExitCode.EPISODE_DAMAGED,
        ) from error
    raise ArmfleetError(
        f"{folder} has the format {version}; v3.0 and v2.1 can be imported",
        kept="the dataset, unchanged",
        do="bring it to v2.1 with the LeRobot release that followed it",
        code=ExitCode.EPISODE_DAMAGED,
    )


def _read(folder: Path, origin: Path, digest: str, version: str) -> Source:
    info = json.loads((folder / INFO).read_text())
    files = sorted((folder / "meta/episodes").rglob("*.parquet"))
    tables = [pq.read_table(file) for file in files]
    episodes = [table.slice(i, 1) for table in tables for i in range(table.num_rows)]
    tasks = pq.read_table(folder / "meta/tasks.parquet").to_pydict()
    text = next(name for name in ("task", "__index_level_0__") if name in tasks)
    return Source(
        folder=folder,
        name=origin.resolve().name,
        digest=digest,
        format=version,
        origin=origin,
        info=info,
        episodes=sorted(episodes, key=lambda row: row.column("episode_index")[0].as_py()),
        tasks=dict(zip(tasks["task_index"], tasks[text], strict=True)),
    )


def _converted(folder: Path, scratch: Path) -> Path:
    """A v3.0 copy of a v2.1 dataset, below `scratch`. Videos are linked: the converter only joins them."""
    shutil.rmtree(scratch, ignore_errors=True)
    copy = scratch / "dataset"
    for path in sorted(p for part in ("meta", "data", "videos") for p in (folder / part).rglob("*")):
        target = copy / path.relative_to(folder)
        if path.is_dir():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".mp4":
            target.symlink_to(path.resolve())
        else:
            shutil.copyfile(path, target)
    argv = [sys.executable, "-m", CONVERTER, "--repo-id", "local/dataset", "--root", str(copy)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(scratch / "cache")}
    try:
        done = subprocess.run(
            [*argv, "--push-to-hub=false"],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CONVERT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _conversion_failed(folder, f"it took longer than {CONVERT_S:g} s") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise _conversion_failed(folder, lines[-1] if lines else f"it ended with code {done.returncode}")
    return copy


def _conversion_failed(folder: Path, why: str) -> ArmfleetError:
    return ArmfleetError(
        f"LeRobot's converter could not bring {folder} from v2.1 to v3.0: {why}",
        kept="the dataset and the store, unchanged",
        do="try the converter on a copy of it, and import the result",
        code=ExitCode.EPISODE_DAMAGED,
    )
