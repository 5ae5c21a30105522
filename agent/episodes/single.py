"""One episode of a dataset as a dataset of its own that stock LeRobot loads. Free of torch and LeRobot.

What is rewritten: numbers of rows, episode and tasks (they begin at 0), where rows and frames lie, totals.
Joint values, time stamps, frame numbers and statistics stay as they are, faults included: the gate judges
them.
"""

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from agent.episodes.cutting import CODEC, CRF, GOP, Span, cut
from agent.episodes.sources import DATA_PATH, VIDEO_PATH, Source
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode

COUNTERS = ("index", "episode_index", "task_index")
QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
ZERO = {"chunk_index": 0, "file_index": 0}


@dataclass(frozen=True)
class Rows:
    """An episode's rows, before they are written.

    Attributes:
        table: With numbers beginning at 0.
        tasks: Its instructions, by their new number.
        state, action: (T, joints) float32.
    """

    table: pa.Table
    tasks: list[str]
    state: np.ndarray
    action: np.ndarray


class Splitter:
    """Takes episodes out of one dataset. Keeps the last table it read: episodes share files."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._path: Path | None = None
        self._table: pa.Table | None = None

    def rows(self, entry: pa.Table) -> Rows:
        """The rows of the episode that `entry`, one row of metadata, describes.

        Raises:
            ArmfleetError: EPISODE_DAMAGED: it has none, or no state and action.
        """
        number = _number(entry)
        try:
            table = self._file(entry)
            chosen = table.filter(pa.array(table.column("episode_index").to_numpy() == number))
            state, action = (_matrix(chosen, name) for name in ("observation.state", "action"))
        except (OSError, KeyError, ValueError, TypeError, pa.ArrowException) as error:
            raise self._damaged(number, f"{type(error).__name__}: {error}") from error
        if not chosen.num_rows:
            raise self._damaged(number, "it has no rows")
        old = chosen.column("task_index").to_pylist()
        known = list(dict.fromkeys(old))
        texts = [self._source.tasks.get(task, "") for task in known]
        columns = {
            "index": range(chosen.num_rows),
            "episode_index": [0] * chosen.num_rows,
            "task_index": [known.index(task) for task in old],
        }
        for name, values in columns.items():
            field = chosen.schema.field(name)
            place = chosen.schema.get_field_index(name)
            chosen = chosen.set_column(place, field, pa.array(list(values), field.type))
        return Rows(chosen, texts, state, action)

    def write(self, entry: pa.Table, rows: Rows, work: Path) -> list[str]:
        """Write the episode into the empty folder `work`; cameras that had to be encoded again.

        Raises:
            ArmfleetError: EPISODE_DAMAGED: a video is missing or can't be cut.
        """
        source = self._source
        info = copy.deepcopy(source.info)
        reencoded = []
        spans = {}
        for key in source.video_keys:
            span = self._span(entry, key)
            depth = bool((info["features"][key].get("info") or {}).get("video.is_depth_map"))
            target = work / VIDEO_PATH.format(video_key=key, **ZERO)
            if cut(self._video(entry, key), span, target, may_encode=not depth):
                reencoded.append(key)
                _note_encoding(info["features"][key])
            spans[key] = span.end - span.start
        path = work / DATA_PATH.format(**ZERO)
        path.parent.mkdir(parents=True)
        pq.write_table(rows.table, path)
        statistics = self._write_metadata(entry, rows, spans, work)
        frames = rows.table.num_rows
        info |= {
            "total_episodes": 1,
            "total_frames": frames,
            "total_tasks": len(rows.tasks),
            "splits": {"train": "0:1"},
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH if source.video_keys else None,
        }
        (work / "meta/info.json").write_text(json.dumps(info, indent=4))
        tasks = pd.DataFrame({"task_index": range(len(rows.tasks))}, index=pd.Index(rows.tasks, name="task"))
        tasks.to_parquet(work / "meta/tasks.parquet")
        if statistics:
            (work / "meta/stats.json").write_text(json.dumps(statistics, indent=4))
        return [key.removeprefix("observation.images.") for key in reencoded]

    def _write_metadata(
        self, entry: pa.Table, rows: Rows, spans: dict[str, float], work: Path
    ) -> dict[str, dict[str, Any]]:
        """Write the episode's row of metadata; its statistics, nested as in stats.json."""
        frames = rows.table.num_rows
        row = entry.to_pylist()[0]
        row |= {"episode_index": 0, "dataset_from_index": 0, "dataset_to_index": frames, "tasks": rows.tasks}
        for name in row:
            if name.endswith(("/chunk_index", "/file_index")) and not name.startswith("stats/"):
                row[name] = 0
        for key, seconds in spans.items():
            row |= {f"videos/{key}/from_timestamp": 0.0, f"videos/{key}/to_timestamp": seconds}
        for name in [name for name in row if name.startswith("stats/")]:
            feature, statistic = name.removeprefix("stats/").rsplit("/", 1)
            if feature in COUNTERS:
                row[name] = [_statistic(rows.table.column(feature).to_numpy(), statistic)]
        path = work / "meta/episodes/chunk-000/file-000.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist([row], schema=entry.schema), path)
        nested: dict[str, dict[str, Any]] = {}
        for name, value in row.items():
            if name.startswith("stats/") and value is not None:
                feature, statistic = name.removeprefix("stats/").rsplit("/", 1)
                nested.setdefault(feature, {})[statistic] = value
        whole = self._source.folder / "meta/stats.json"
        return nested or (json.loads(whole.read_text()) if whole.exists() else {})

    def _file(self, entry: pa.Table) -> pa.Table:
        path = self._source.folder / self._source.info["data_path"].format(
            chunk_index=_value(entry, "data/chunk_index"), file_index=_value(entry, "data/file_index")
        )
        if path != self._path or self._table is None:
            self._path, self._table = path, pq.read_table(path)
        return self._table

    def _video(self, entry: pa.Table, key: str) -> Path:
        return self._source.folder / self._source.info["video_path"].format(
            video_key=key,
            chunk_index=_value(entry, f"videos/{key}/chunk_index"),
            file_index=_value(entry, f"videos/{key}/file_index"),
        )

    def _span(self, entry: pa.Table, key: str) -> Span:
        try:
            start, end = (float(_value(entry, f"videos/{key}/{side}_timestamp")) for side in ("from", "to"))
        except (KeyError, TypeError) as error:
            raise self._damaged(_number(entry), f"nothing says where its video of {key} lies") from error
        return Span(start, end, float(self._source.info["fps"]))

    def _damaged(self, number: int, why: str) -> ArmfleetError:
        return ArmfleetError(
            f"episode {number} of {self._source.name} can't be imported: {why}",
            kept="the dataset, unchanged",
            do="import another copy of it, or go on without this episode",
            code=ExitCode.EPISODE_DAMAGED,
        )


def _value(entry: pa.Table, name: str) -> Any:
    return entry.column(name)[0].as_py()


def _number(entry: pa.Table) -> int:
    return int(_value(entry, "episode_index"))


def _matrix(rows: pa.Table, column: str) -> np.ndarray:
    values = rows.column(column).to_pylist()
    return np.array(values, dtype=np.float32).reshape(len(values), -1)


def _statistic(values: np.ndarray, name: str) -> float | int | None:
    if name == "count":
        return len(values)
    if name in QUANTILES:
        return float(np.quantile(values, QUANTILES[name]))
    return float(getattr(np, name)(values)) if name in ("min", "max", "mean", "std") else None


def _note_encoding(feature: dict[str, Any]) -> None:
    info = feature.get("info") or {}
    feature["info"] = info | {
        "video.codec": CODEC.removeprefix("lib").replace("x264", "h264"),
        "video.pix_fmt": "yuv420p",
        "video.crf": CRF,
        "video.g": GOP,
    }
