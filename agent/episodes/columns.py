"""Sense from a dataset's columns and metadata, whatever types they were written with.

Without `to_numpy`, `pa.array`, `filter` and `pyarrow.dataset`: each makes pyarrow import pandas, which costs
twice as much as judging an episode does.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def file_named(pattern: Any, entry: dict[str, Any], prefix: str, key: str = "") -> str:
    """A file's path from info.json's pattern and the numbers that an episode's entry has under `prefix`."""
    places = {name: int(entry[f"{prefix}{name}"]) for name in ("chunk_index", "file_index")}
    return str(pattern).format(video_key=key, **places)


def integers(rows: pa.Table, column: str) -> np.ndarray:
    """(rows,) int64; -1 where there is none."""
    return np.nan_to_num(numbers(rows, column), nan=-1).astype(np.int64)


def numbers(rows: pa.Table, column: str) -> np.ndarray:
    """(rows,) float64; NaN where there is none."""
    return np.array(rows.column(column).to_pylist(), dtype=np.float64).reshape(-1)


def read_rows(path: Path) -> pa.Table:
    """A parquet file.

    Raises:
        OSError, pa.ArrowException: it can't be read.
    """
    with pq.ParquetFile(path) as file:
        return file.read()


def rows_where(rows: pa.Table, wanted: np.ndarray) -> pa.Table:
    """Those of `rows` for which `wanted`, (rows,) bool, is true."""
    edges = np.flatnonzero(np.diff(wanted.astype(np.int8), prepend=0, append=0)).reshape(-1, 2)
    parts = [rows.slice(start, end - start) for start, end in edges.tolist()]
    return pa.concat_tables(parts) if parts else rows.slice(0, 0)


def integer(value: Any) -> int | None:
    """A number that may be missing."""
    return None if value is None else int(value)


def matrix(rows: pa.Table, column: str) -> np.ndarray:
    """(rows, width) float32; NaN where a value is missing.

    Raises:
        ValueError: rows of different lengths.
    """
    values = rows.column(column).to_pylist()
    if values and not isinstance(values[0], list):
        values = [[value] for value in values]
    widths = {len(row) if row is not None else 0 for row in values}
    if len(widths) > 1:
        raise ValueError(f"rows of {column} have different lengths ({sorted(widths)})")
    clean = [[np.nan if value is None else value for value in row or ()] for row in values]
    return np.array(clean, dtype=np.float32).reshape(len(clean), -1)


def column_names_of(feature: Mapping[str, Any]) -> tuple[str, ...]:
    """LeRobot names columns in a list, or in a list under one heading."""
    names = feature.get("names")
    if isinstance(names, Mapping):
        names = next(iter(names.values()), None)
    return tuple(str(name) for name in names) if isinstance(names, list) else ()


def width(feature: Mapping[str, Any]) -> int:
    """Values per row that a feature declares."""
    return int(np.prod(feature["shape"]))


def picture_size(feature: Mapping[str, Any]) -> tuple[int, int] | None:
    """(height, width) as declared, whichever way round the axes are named."""
    shape, names = [int(side) for side in feature.get("shape") or ()], feature.get("names")
    if len(shape) != 3:
        return None
    if isinstance(names, list) and "height" in names and "width" in names:
        return shape[names.index("height")], shape[names.index("width")]
    return (shape[1], shape[2]) if shape[0] in (1, 3) else (shape[0], shape[1])


def cause(error: BaseException) -> str:
    """An exception in one line."""
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
