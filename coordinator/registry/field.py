"""What stations reported of their rollouts, as files: `field/<station>.json`.

A report holds all that a station knows of a version and task, so the last one is the truth, one that came
twice changes nothing, and one that was lost is made up for by the next. What a station no longer reports,
since it is no longer asked, stays as it last was.
"""

import threading
from collections.abc import Collection
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.files import remove_in_progress, write_atomic
from shared.messages import FieldResult


class StationResults(BaseModel):
    """The file: one entry per version and task, in the order in which they were first heard of."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    results: list[FieldResult]


class FieldStore:
    """All stations' results in `folder`, in memory as well; safe to use from several threads.

    Raises:
        ArmfleetError: REGISTRY_DAMAGED, a file can't be read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.removed = remove_in_progress(folder)
        self._lock = threading.Lock()
        self.changes = 0
        """Reports with something new since this was opened."""
        self._stations = {path.stem: _read(path) for path in sorted(folder.glob("*.json"))}

    def report(self, station: str, results: Collection[FieldResult]) -> None:
        """Take what a station says of some versions and tasks, in place of what it said of them before;
        durable when it returns."""
        with self._lock:
            known = {(result.version, result.task): result for result in self._stations.get(station, ())}
            told = known | {(result.version, result.task): result for result in results}
            if told == known:
                return
            self._write(station, list(told.values()))
            self.changes += 1

    def forget_all_but(self, versions: Collection[int]) -> None:
        """Drop what was told of other versions: their numbers will be given to new ones."""
        with self._lock:
            for station, results in self._stations.items():
                left = [result for result in results if result.version in versions]
                if len(left) < len(results):
                    self._write(station, left)

    def of_version(self, version: int) -> dict[str, list[FieldResult]]:
        """By station, what each has reported of a version; the task heard of first comes first."""
        found = {
            station: [result for result in results if result.version == version]
            for station, results in self._stations.items()
        }
        return {station: results for station, results in found.items() if results}

    def _write(self, station: str, results: list[FieldResult]) -> None:
        content = StationResults(results=results)
        write_atomic(self._folder / f"{station}.json", content.model_dump_json(indent=1) + "\n")
        self._stations = {**self._stations, station: results}


def _read(path: Path) -> list[FieldResult]:
    try:
        return StationResults.model_validate_json(path.read_bytes()).results
    except (OSError, ValidationError) as error:
        raise ArmfleetError(
            f"{path} can't be read ({error})",
            kept="all versions and updates, and the other stations' results",
            do="restore the file, or remove it: the station reports again what the present versions did",
            code=ExitCode.REGISTRY_DAMAGED,
        ) from error
