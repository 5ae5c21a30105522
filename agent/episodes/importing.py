"""Importing datasets: each episode becomes a folder of its own in the store, whole or not at all.

    python -m agent.episodes.importing --into EPISODES DATASET…     (one JSON object per event on stdout)

A process of its own: it takes minutes, and the agent goes on meanwhile. It only adds folders, under ids made
of the dataset's digest and the episode's number, so that it never meets the recorder, and what is there
already is not imported again. The gate judges the episodes afterwards, like recorded ones. Killed at any
point, what has a name is whole, and the next import goes on with the rest.
"""

import argparse
import errno
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import pyarrow as pa

from agent.episodes.record import FILE, SIDECAR, EpisodeRecord, Origin, now, read_record, write_record
from agent.episodes.single import Rows, Splitter
from agent.episodes.sources import Source, find_datasets, opened
from agent.episodes.split import content_digest
from agent.episodes.trash import id_of, thrown_away
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.files import IN_PROGRESS, durable_folder, free_bytes
from shared.tasks import why_unusable

PREFIX = "imported-"
Event = dict[str, Any]


class Importer:
    """Imports into one store.

    Args:
        store: Folder of episode folders.
        min_free_mb: Room that must stay on its disk.
    """

    def __init__(self, store: Path, min_free_mb: int = 0) -> None:
        self._store, self._min_free_mb = store, min_free_mb
        store.mkdir(parents=True, exist_ok=True)
        for name in (f"{IN_PROGRESS}{PREFIX}*", f"{IN_PROGRESS}import"):
            for left in store.glob(name):
                shutil.rmtree(left)

    def run(self, path: Path) -> Iterator[Event]:
        """Import all datasets at `path`: a dataset, or a folder of them.

        Yields what happened: {"dataset", "format", "episodes"} for each dataset, then for each of its
        episodes {"dataset", "number", "episode", "outcome", "why"}; the outcome is imported, known or failed.

        Raises:
            ArmfleetError: there is no dataset, it can't be read, or DISK_FULL.
        """
        for folder in find_datasets(path):
            with opened(folder, self._store / f"{IN_PROGRESS}import") as source:
                yield {"dataset": source.name, "format": source.format, "episodes": len(source.episodes)}
                yield from self._all_of(source)

    def _all_of(self, source: Source) -> Iterator[Event]:
        splitter = Splitter(source)
        contents = self._contents()
        for entry in source.episodes:
            number = int(entry.column("episode_index")[0].as_py())
            episode_id = f"{PREFIX}{source.digest[:8]}-{number:06d}"
            event: Event = {"dataset": source.name, "number": number, "episode": episode_id}
            try:
                rows = splitter.rows(entry)
                if unusable := why_unusable(rows.tasks[0]):
                    raise ArmfleetError(f"episode {number} of {source.name}: {unusable}")
                digest = content_digest(rows.state, rows.action)
                why = self._known(episode_id, digest, contents)
                if not why:
                    self._room()
                    self._add(source, splitter, entry, rows, digest, episode_id, number)
                    contents[digest] = episode_id
            except ArmfleetError as error:
                if error.code == ExitCode.DISK_FULL:
                    raise
                yield event | {"outcome": "failed", "why": error.what}
            except (ValueError, KeyError, TypeError, pa.ArrowException) as error:
                why = f"episode {number} of {source.name} is damaged: {type(error).__name__}: {error}"
                yield event | {"outcome": "failed", "why": why}
            else:
                yield event | {"outcome": "known" if why else "imported", "why": why}

    def _add(
        self,
        source: Source,
        splitter: Splitter,
        entry: pa.Table,
        rows: Rows,
        digest: str,
        episode_id: str,
        number: int,
    ) -> None:
        try:
            with durable_folder(self._store / episode_id) as work:
                reencoded = splitter.write(entry, rows, work)
                write_record(work, _record(source, rows, digest, episode_id, number, reencoded, work))
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise ArmfleetError(
                f"{self._store} can't be written to: {error}",
                kept="every episode, also those imported so far",
                do="make room and import again: it goes on where it stopped",
                code=ExitCode.DISK_FULL if full else ExitCode.UNEXPECTED,
            ) from error

    def _contents(self) -> dict[str, str]:
        """Content digest to id, of what the store holds."""
        found = {}
        for note in sorted(self._store.glob(f"[!.]*/{FILE}")):
            try:
                record = read_record(note.parent)
            except ArmfleetError:
                continue  # its content can't be compared; the gate of the new one doesn't depend on it
            found[record.digest] = record.id
        return found

    def _known(self, episode_id: str, digest: str, contents: dict[str, str]) -> str:
        if (self._store / episode_id).exists():
            return "imported before"
        if any(id_of(folder) == episode_id for folder in thrown_away(self._store)):
            return "imported before and deleted; it lies in the trash"
        return f"the same demonstration is there as {contents[digest]}" if digest in contents else ""

    def _room(self) -> None:
        free = free_bytes(self._store) // 2**20
        if free < self._min_free_mb:
            raise ArmfleetError(
                f"only {free} MB are free, [recording] min_free_mb asks for {self._min_free_mb}",
                kept="every episode, also those imported so far",
                do="make room and import again: it goes on where it stopped",
                code=ExitCode.DISK_FULL,
            )


def _record(
    source: Source,
    rows: Rows,
    digest: str,
    episode_id: str,
    number: int,
    reencoded: list[str],
    work: Path,
) -> EpisodeRecord:
    before = _carried(source, work)
    fps = float(source.info["fps"])
    return EpisodeRecord(
        id=episode_id,
        task=rows.tasks[0],
        frames=rows.table.num_rows,
        fps=round(fps),
        created=now(),
        digest=digest,
        calibration_digest=before.calibration_digest if before else "",
        label=before.label if before else None,
        origin=Origin(
            source=source.name,
            dataset_digest=source.digest,
            episode=number,
            fps=fps,
            robot_type=str(source.info.get("robot_type") or ""),
            format=source.format,
            imported=now(),
            reencoded=reencoded,
        ),
        intervention=before.intervention if before else None,
    )


def _carried(source: Source, work: Path) -> EpisodeRecord | None:
    """Of an episode that armfleet recorded elsewhere: copies its sidecar; its record. Else None."""
    if len(source.episodes) != 1 or not (source.origin / FILE).is_file():
        return None
    if (source.origin / SIDECAR).is_file():
        shutil.copyfile(source.origin / SIDECAR, work / SIDECAR)
    return read_record(source.origin)


def run(store: Path, min_free_mb: int, datasets: list[Path], tell: Callable[[Event], None]) -> int:
    """Import one after another; a dataset that can't be read doesn't hold up the next. The exit status."""
    code = ExitCode.OK
    importer = Importer(store, min_free_mb)
    for path in datasets:
        try:
            for event in importer.run(path):
                if event.get("outcome") == "failed":
                    code = ExitCode.EPISODE_DAMAGED
                tell(event)
        except ArmfleetError as error:
            code = error.code
            tell({"dataset": path.name, "error": error.to_dict()})
    return int(code)


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m agent.episodes.importing")
    parser.add_argument("--into", type=Path, required=True)
    parser.add_argument("--min-free-mb", type=int, default=0)
    parser.add_argument("datasets", nargs="+", type=Path)
    given = parser.parse_args()
    av.logging.set_libav_level(av.logging.ERROR)
    return run(
        given.into, given.min_free_mb, given.datasets, lambda event: print(json.dumps(event), flush=True)
    )


if __name__ == "__main__":
    sys.exit(main())
