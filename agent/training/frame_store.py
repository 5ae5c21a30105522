"""What is kept on disk of an episode's frames: one file per episode, one row per frame.

A file is NumPy's .npy format with rows of (checksum, values). It is written in pieces and read row by row, so
that neither takes memory that grows with an episode's length or the number of episodes; by plain reads, since
a memory map holds a descriptor per file, and a file that was cut short ends the process (SIGBUS). A checksum
covers a row's number, shape and values; a missing, short or changed file is computed again.
"""

import io
import os
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from loguru import logger
from numpy.lib import format as npy

from agent.training.data import Episode
from shared.errors import ArmfleetError
from shared.files import atomic_file

SUFFIX = ".npy"
FIELDS = ("checksum", "values")


class UnusableFileError(Exception):
    """A file of the store can't be used."""


class FrameStore(ABC):
    """Rows of half-precision values for the frames of episodes.

    Args:
        folder: Holds the files and nothing else; created.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    @abstractmethod
    def _name(self, episode: Episode) -> str:
        """A file name that changes with everything the rows depend on."""

    @abstractmethod
    def _compute(self, episode: Episode) -> Iterator[torch.Tensor]:
        """All rows in order, in pieces of (some frames, ...) float16 on the CPU."""

    def ensure(self, episode: Episode) -> None:
        """Compute the rows of `episode` unless they are there.

        Raises:
            ArmfleetError: what `_compute` and `write_rows` raise.
        """
        try:
            _Rows(self._path(episode), len(episode))
        except UnusableFileError as error:
            self._write(episode, error)

    def missing(self, episodes: Iterable[Episode]) -> list[Episode]:
        """Those whose rows `ensure` would compute."""
        return [episode for episode in episodes if not self._usable(episode)]

    def read(self, episode: Episode, frames: Sequence[int]) -> torch.Tensor:
        """(len(frames), ...) float16 on the CPU: always what half precision gives back, so that rows computed
        just now and rows found on disk are the same.

        Raises:
            ArmfleetError: as `ensure`.
        """
        path = self._path(episode)
        try:
            return _Rows(path, len(episode)).read(frames)
        except UnusableFileError as error:
            self._write(episode, error)
            return _Rows(path, len(episode)).read(frames)

    def bytes_of(self, episodes: Iterable[Episode]) -> int:
        """Size of the files that are there."""
        paths = {self._path(episode) for episode in episodes}
        return sum(path.stat().st_size for path in paths if path.exists())

    def prune(self, episodes: Iterable[Episode]) -> None:
        """Remove all files but those that belong to `episodes`."""
        keep = {self._path(episode) for episode in episodes}
        for path in self._folder.iterdir():
            if path not in keep:
                path.unlink()

    def _path(self, episode: Episode) -> Path:
        return self._folder / (self._name(episode) + SUFFIX)

    def _usable(self, episode: Episode) -> bool:
        try:
            _Rows(self._path(episode), len(episode))
        except UnusableFileError:
            return False
        return True

    def _write(self, episode: Episode, why: UnusableFileError) -> None:
        path = self._path(episode)
        if path.exists():
            logger.bind(episode=episode.id).warning("{} is computed again: {}", path, why)
        write_rows(path, len(episode), self._compute(episode))


def write_rows(path: Path, count: int, pieces: Iterable[torch.Tensor]) -> None:
    """Write `count` rows durably; SIGKILL at any instant leaves nothing or all.

    Raises:
        ArmfleetError: a value is beyond half precision; the disk is full.
    """
    try:
        with atomic_file(path) as file:
            written = 0
            for piece in pieces:
                rows = _with_checksums(piece, written)
                if not written:
                    file.write(_header(count, rows.dtype))
                file.write(rows.view(np.uint8))
                written += len(rows)
    except OSError as error:
        raise ArmfleetError(
            f"the training cache can't be written: {error}",
            kept="the checkpoint, and the files of the other episodes",
            do="free disk space, or lower [training] cache_gb in agent.toml",
        ) from error


def file_size(count: int, shape: Sequence[int]) -> int:
    """Bytes of a file of `count` rows of this shape."""
    dtype = _row(shape)
    return len(_header(count, dtype)) + count * dtype.itemsize


def _row(shape: Sequence[int]) -> np.dtype:
    return np.dtype([(FIELDS[0], "<u4"), (FIELDS[1], "<f2", tuple(shape))])


def _header(count: int, dtype: np.dtype) -> bytes:
    file = io.BytesIO()
    npy.write_array_header_1_0(
        file, {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": (count,)}
    )
    return file.getvalue()


def _with_checksums(values: torch.Tensor, first: int) -> np.ndarray:
    if not torch.isfinite(values).all():
        raise ArmfleetError(
            "what the frozen half of the base policy makes of a frame is beyond half precision",
            kept="the files of the other episodes",
            do="check the base policy: its weights may be damaged",
        )
    rows = np.empty(len(values), _row(values.shape[1:]))
    rows["values"] = values.numpy()
    rows["checksum"] = [_checksum(number, row) for number, row in enumerate(rows["values"], first)]
    return rows


class _Rows:
    """The rows in a file.

    Raises:
        UnusableFileError: no such file, or one of another kind or length.
    """

    def __init__(self, path: Path, count: int) -> None:
        self._path = path
        try:
            with path.open("rb") as file:
                npy.read_magic(file)
                shape, _, self._dtype = npy.read_array_header_1_0(file)
                self._offset = file.tell()
                size = file.seek(0, os.SEEK_END)
        except Exception as error:  # NumPy reads the header as Python: a damaged one fails in any way
            raise UnusableFileError(f"{type(error).__name__}: {error}") from error
        if self._dtype.names != FIELDS or self._dtype != _row(self._dtype[1].shape):
            raise UnusableFileError(f"its rows are {self._dtype}")
        if shape != (count,):
            raise UnusableFileError(f"it has the shape {shape}, not {(count,)}")
        if size != self._offset + count * self._dtype.itemsize:
            raise UnusableFileError(f"it has {size} bytes")

    def read(self, frames: Sequence[int]) -> torch.Tensor:
        """(len(frames), ...) float16.

        Raises:
            UnusableFileError: it can't be read, or a checksum is wrong.
        """
        rows = np.empty(len(frames), self._dtype)
        try:
            with self._path.open("rb") as file:
                for at, frame in enumerate(frames):
                    file.seek(self._offset + frame * self._dtype.itemsize)
                    file.readinto(rows[at : at + 1].view(np.uint8))
        except OSError as error:
            raise UnusableFileError(str(error)) from error
        for frame, row in zip(frames, rows, strict=True):
            if row["checksum"] != _checksum(frame, row["values"]):
                raise UnusableFileError(f"frame {frame} has changed")
        return torch.from_numpy(np.ascontiguousarray(rows["values"]))


def _checksum(number: int, values: np.ndarray) -> int:
    """CRC-32 of a row: against accidents, not against an adversary."""
    return zlib.crc32(np.ascontiguousarray(values), zlib.crc32(repr((number, values.shape)).encode()))
