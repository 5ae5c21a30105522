"""Files that survive a power cut: temporary name, fsync, rename, fsync of the folder."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

IN_PROGRESS = ".inprogress-"


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that replaces `path` when the block ends, so that a crash at any instant leaves the old or
    the new content, never a mixture. After an exception the old content stays."""
    part = path.with_name(f"{IN_PROGRESS}{path.name}.{os.getpid()}")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Replace `path` as `atomic_file` does."""
    with atomic_file(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def fsync_tree(folder: Path) -> None:
    """Flush every file below `folder`, then every folder, deepest first, then `folder`."""
    folders = [folder]
    for path in folder.rglob("*"):
        if path.is_dir():
            folders.append(path)
        elif path.is_file():
            _sync(path)
    for path in sorted(folders, key=lambda p: len(p.parts), reverse=True):
        _sync(path)


def commit_folder(work: Path, final: Path) -> None:
    """Flush `work` and give it its final name in one step. `final` must not exist."""
    fsync_tree(work)
    work.rename(final)
    _sync(final.parent)


@contextmanager
def durable_folder(final: Path) -> Iterator[Path]:
    """Yield a working folder that becomes `final` whole, or not at all.

    Raises:
        FileExistsError: `final` is there already; nothing was written.
    """
    if final.exists():
        raise FileExistsError(final)
    work = final.with_name(IN_PROGRESS + final.name)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        yield work
        commit_folder(work, final)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def remove_in_progress(parent: Path) -> list[str]:
    """Remove what a killed process left half-written in `parent`; returns the names for the log."""
    if not parent.is_dir():
        return []
    stale = sorted(parent.glob(IN_PROGRESS + "*"))
    for path in stale:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    return [path.name for path in stale]


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def free_bytes(path: Path) -> int:
    """Bytes that an unprivileged user may still write on the file system of `path`."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize
