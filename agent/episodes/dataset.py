"""Reading a LeRobot v3 dataset folder as plain arrays: pyarrow and PyAV, no torch, no LeRobot.

An armfleet episode is such a folder with one episode in it; imported ones hold many, several to a file. A
damaged part costs the episodes in it: the others are read all the same (`scan`).
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from agent.episodes.columns import (
    cause,
    column_names_of,
    file_named,
    integer,
    integers,
    matrix,
    numbers,
    picture_size,
    read_rows,
    rows_where,
    width,
)
from agent.episodes.footage import Span, Video, read_pictures, read_video, unreadable
from agent.episodes.record import SIDECAR
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode

STATE, ACTION, IMAGES = "observation.state", "action", "observation.images."
COUNTERS = ("frame_index", "episode_index", "index", "task_index")
VideoReader = Callable[[Path, Span, tuple[int, int] | None], Video]
DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException)
"""What reading a damaged file or reading sense into a damaged table raises."""


@dataclass(frozen=True)
class Layout:
    """What the metadata says of an episode, beside what its table holds.

    Attributes:
        counters: (T,) int64 columns frame_index, episode_index, index, task_index, those that are there.
        from_index, to_index: Span of `index` according to the metadata; None where it says nothing.
        shapes: Column -> declared width.
        stats: (column, "min" | "max" | "mean") -> values, of this episode, or of a dataset of one.
        totals: What info.json counts -> (said, true), for the whole folder.
        spans: Camera -> seconds between from_timestamp and to_timestamp.
        known_tasks: Numbers in tasks.parquet.
    """

    counters: Mapping[str, np.ndarray] = field(default_factory=dict)
    from_index: int | None = None
    to_index: int | None = None
    shapes: Mapping[str, int] = field(default_factory=dict)
    stats: Mapping[tuple[str, str], np.ndarray] = field(default_factory=dict)
    totals: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    spans: Mapping[str, float] = field(default_factory=dict)
    known_tasks: frozenset[int] = frozenset()


@dataclass(frozen=True)
class EpisodeData:
    """One episode as the gate sees it.

    Attributes:
        path: The dataset folder.
        index: Episode number in it.
        task: Instruction of its first row.
        fps: Rows per second.
        state, action: (T, joints) float32, units.
        timestamps: (T,) float64, seconds.
        declared_frames: Rows according to the metadata.
        videos: By camera.
        sidecar: One mapping per row, or None for episodes that armfleet did not record.
        sidecar_fault: Why the sidecar could not be read, or "".
        names: Names of state's columns, as the dataset has them; () where it names none.
        action_names: The same of action.
        robot_type: As the dataset has it.
        tasks: All instructions of its rows.
        layout: Metadata beside data; None for episodes that come from no folder.
    """

    path: Path
    index: int
    task: str
    fps: float
    state: np.ndarray
    action: np.ndarray
    timestamps: np.ndarray
    declared_frames: int
    videos: dict[str, Video] = field(default_factory=dict)
    sidecar: list[dict[str, Any]] | None = None
    sidecar_fault: str = ""
    names: tuple[str, ...] = ()
    action_names: tuple[str, ...] = ()
    robot_type: str = ""
    tasks: tuple[str, ...] = ()
    layout: Layout | None = None


@dataclass(frozen=True)
class Broken:
    """An episode, or a whole folder (episode None), that can't be read.

    Attributes:
        check: Id of the finding.
        undecidable: Nothing says that it is bad; it can't be judged here.
    """

    episode: int | None
    check: str
    message: str
    undecidable: bool = False


def read_episodes(folder: Path, with_video: bool = True) -> Iterator[EpisodeData]:
    """All episodes of the dataset in `folder`, in order.

    Raises:
        ArmfleetError: EPISODE_DAMAGED: the folder is no LeRobot v3 dataset, or its tables can't be read.
    """
    for found in scan(folder, read_video if with_video else None):
        if isinstance(found, Broken):
            raise ArmfleetError(
                f"{folder} can't be read as a LeRobot v3 dataset: {found.message}",
                kept="the folder, unchanged",
                do="import another copy of it, or record again",
                code=ExitCode.EPISODE_DAMAGED,
            )
        yield found


def read_episode(folder: Path, with_video: bool = True) -> EpisodeData:
    """The one episode of an armfleet episode folder; raises as `read_episodes`."""
    episodes = list(read_episodes(folder, with_video))
    if len(episodes) != 1:
        raise ArmfleetError(
            f"{folder} holds {len(episodes)} episodes where one is expected", code=ExitCode.EPISODE_DAMAGED
        )
    return episodes[0]


def scan(folder: Path, video_reader: VideoReader | None = read_video) -> Iterator[EpisodeData | Broken]:
    """Every episode of the dataset in `folder`, those that can't be read included.

    Args:
        video_reader: How a video is read; None leaves the cameras out.
    """
    try:
        info = json.loads((folder / "meta/info.json").read_text())
        version = str(info["codebase_version"])
        float(info["fps"]), info["features"][STATE], info["features"][ACTION]
    except FileNotFoundError:
        yield Broken(None, "container.file_missing", "meta/info.json is missing")
        return
    except DAMAGE as error:
        yield Broken(None, "container.unreadable", f"meta/info.json: {cause(error)}")
        return
    if not version.startswith("v3."):
        message = f"it is in format {version}; v3 is needed"
        yield Broken(None, "container.version", message, undecidable=True)
        return
    yield from _Folder(folder, info, video_reader).scan()


class _Folder:
    """One dataset folder while it is read."""

    def __init__(self, folder: Path, info: dict[str, Any], video_reader: "VideoReader | None") -> None:
        self.folder, self.info, self.video_reader = folder, info, video_reader
        self.fps = float(info["fps"])
        self.tables: dict[Path, pa.Table] = {}
        self.broken: dict[Path, Broken] = {}

    def scan(self) -> Iterator[EpisodeData | Broken]:
        files = sorted((self.folder / "data").rglob("*.parquet"))
        for file in files:
            try:
                self.tables[file] = read_rows(file)
            except DAMAGE as error:
                message = f"{file.relative_to(self.folder)}: {cause(error)}"
                self.broken[file] = Broken(None, "container.unreadable", message)
        if not self.entries:
            why = self.entries_fault or "meta/episodes lists no episode"
            check = "container.unreadable" if self.entries_fault else "container.empty"
            numbers: list[int | None] = [*self._numbers()]
            yield from (Broken(number, check, why) for number in numbers or [None])
            return
        if not files:
            yield from (
                Broken(int(e["episode_index"]), "container.file_missing", "the table is missing: no data/")
                for e in self.entries
            )
            return
        for entry in self.entries:
            number = int(entry["episode_index"])
            try:
                yield self._read(number, entry)
            except DAMAGE as error:
                yield Broken(number, "container.unreadable", cause(error))
        for number in sorted(set(self._numbers()) - {int(e["episode_index"]) for e in self.entries}):
            message = f"the table has rows of episode {number}, which the metadata does not list"
            yield Broken(number, "container.episode_index", message)

    def _read(self, number: int, entry: dict[str, Any]) -> EpisodeData | Broken:
        rows = self._rows(number, entry)
        if isinstance(rows, Broken):
            return Broken(number, rows.check, rows.message)
        if not self.tasks:
            return Broken(number, self.tasks_check, self.tasks_fault)
        features = self.info["features"]
        counters = {name: integers(rows, name) for name in COUNTERS if name in rows.column_names}
        named = counters.get("task_index", np.zeros(0, np.int64)).tolist()
        sidecar, fault = self._sidecar()
        return EpisodeData(
            path=self.folder,
            index=number,
            task=self.tasks.get(named[0], "") if named else "",
            fps=self.fps,
            state=matrix(rows, STATE),
            action=matrix(rows, ACTION),
            timestamps=numbers(rows, "timestamp"),
            declared_frames=int(entry["length"]),
            videos=self._videos(entry, rows),
            sidecar=sidecar,
            sidecar_fault=fault,
            names=column_names_of(features[STATE]),
            action_names=column_names_of(features[ACTION]),
            robot_type=str(self.info.get("robot_type") or ""),
            tasks=tuple(self.tasks.get(task, "") for task in dict.fromkeys(named)),
            layout=Layout(
                counters=counters,
                from_index=integer(entry.get("dataset_from_index")),
                to_index=integer(entry.get("dataset_to_index")),
                shapes={name: width(features[name]) for name in (STATE, ACTION)},
                stats=self._stats(entry),
                totals=self.totals,
                spans=self._spans(entry),
                known_tasks=frozenset(self.tasks),
            ),
        )

    @cached_property
    def entries(self) -> list[dict[str, Any]]:
        """Rows of meta/episodes, in order; those of damaged files are missing (see `entries_fault`)."""
        self.entries_fault = ""
        found: list[dict[str, Any]] = []
        files = sorted((self.folder / "meta/episodes").rglob("*.parquet"))
        if not files:
            self.entries_fault = "meta/episodes is missing"
        for file in files:
            try:
                part = read_rows(file).to_pylist()
                found += [entry for entry in part if int(entry["episode_index"]) >= 0 and entry["length"]]
            except DAMAGE as error:
                self.entries_fault = f"{file.relative_to(self.folder)}: {cause(error)}"
        return sorted(found, key=lambda entry: int(entry["episode_index"]))

    @cached_property
    def tasks(self) -> dict[int, str]:
        """Instructions by number; empty where tasks.parquet can't be read (see `tasks_fault`)."""
        path = self.folder / "meta/tasks.parquet"
        self.tasks_check = "container.unreadable"
        try:
            table = read_rows(path).to_pydict()
            text = next(name for name in ("task", "__index_level_0__") if name in table)
            tasks = {int(n): str(t or "") for n, t in zip(table["task_index"], table[text], strict=True)}
        except FileNotFoundError:
            self.tasks_check, self.tasks_fault = "container.file_missing", "meta/tasks.parquet is missing"
        except (*DAMAGE, StopIteration) as error:
            self.tasks_fault = f"meta/tasks.parquet: {cause(error)}"
        else:
            self.tasks_fault = "meta/tasks.parquet lists no task"
            return tasks
        return {}

    @cached_property
    def totals(self) -> dict[str, tuple[int, int]]:
        """info.json's counts beside the metadata's and the table's."""
        rows = sum(table.num_rows for table in self.tables.values())
        true = {"total_episodes": len(self.entries), "total_frames": rows}
        return {
            name: (int(self.info[name]), count)
            for name, count in true.items()
            if isinstance(self.info.get(name), int) and not self.broken
        }

    def _numbers(self) -> list[int]:
        """Episode numbers in the tables."""
        numbers: set[int] = set()
        for table in self.tables.values():
            if "episode_index" in table.column_names:
                numbers |= set(integers(table, "episode_index").tolist())
        return sorted(numbers)

    def _rows(self, number: int, entry: dict[str, Any]) -> pa.Table | Broken:
        """The episode's rows, from the file its entry names, else from wherever they are."""
        path = file_named(self.info.get("data_path"), entry, "data/") if "data/file_index" in entry else None
        own = self.folder / path if path else None
        if own in self.broken:
            return self.broken[own]
        sources = [self.tables[own]] if own in self.tables else list(self.tables.values())
        if own is not None and own not in self.tables:
            return Broken(number, "container.file_missing", f"{path} is missing")
        parts = [rows_where(t, integers(t, "episode_index") == number) for t in sources]
        rows = pa.concat_tables(parts, promote_options="default")
        if not rows.num_rows and len(self.entries) == 1 and sources[0].num_rows:
            return sources[0]  # its one episode is numbered otherwise: the container checks will say so
        return rows

    def _sidecar(self) -> tuple[list[dict[str, Any]] | None, str]:
        path = self.folder / SIDECAR
        if not path.is_file():
            return None, ""
        try:
            return [json.loads(line) for line in path.read_text().splitlines() if line.strip()], ""
        except (OSError, ValueError) as error:
            return None, f"{SIDECAR}: {cause(error)}"

    def _videos(self, entry: dict[str, Any], rows: pa.Table) -> dict[str, Video]:
        videos: dict[str, Video] = {}
        if self.video_reader is None:
            return videos
        for key, feature in self.info["features"].items():
            name = key.removeprefix(IMAGES)
            if feature["dtype"] == "video":
                videos[name] = self._video(entry, key, picture_size(feature))
            elif feature["dtype"] == "image":
                stored = rows.column(key).to_pylist() if key in rows.column_names else []
                data = [item.get("bytes") if isinstance(item, dict) else item for item in stored]
                videos[name] = read_pictures(data, len(data), picture_size(feature))
        return videos

    def _video(self, entry: dict[str, Any], key: str, declared: tuple[int, int] | None) -> Video:
        assert self.video_reader is not None
        prefix = f"videos/{key}/"
        try:
            path = file_named(self.info["video_path"], entry, prefix, key)
            start = float(entry[f"{prefix}from_timestamp"])
            same = [e for e in self.entries if file_named(self.info["video_path"], e, prefix, key) == path]
            last = start >= max(float(e[f"{prefix}from_timestamp"]) for e in same)
            end = None if last else float(entry[f"{prefix}to_timestamp"])
        except DAMAGE as error:
            return unreadable(f"the metadata does not say where it is ({cause(error)})", "missing", declared)
        return self.video_reader(
            self.folder / path, Span(start, end, self.fps, int(entry["length"])), declared
        )

    def _spans(self, entry: dict[str, Any]) -> dict[str, float]:
        spans = {}
        for key in self.info["features"]:
            start, end = (entry.get(f"videos/{key}/{which}_timestamp") for which in ("from", "to"))
            if start is not None and end is not None:
                spans[key.removeprefix(IMAGES)] = float(end) - float(start)
        return spans

    def _stats(self, entry: dict[str, Any]) -> dict[tuple[str, str], np.ndarray]:
        """The episode's own statistics, else the folder's where it holds nothing else."""
        stats: dict[tuple[str, str], np.ndarray] = {}
        whole: dict[str, Any] = {}
        path = self.folder / "meta/stats.json"
        if len(self.entries) == 1 and path.is_file():
            whole = json.loads(path.read_text())
        for column in (STATE, ACTION):
            for kind in ("min", "max", "mean"):
                value = (whole.get(column) or {}).get(kind)
                value = entry.get(f"stats/{column}/{kind}") if value is None else value
                if value is not None:
                    stats[column, kind] = np.asarray(value, np.float64).reshape(-1)
        return stats
