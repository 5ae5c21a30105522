"""The federation's normalisation statistics: collected once, frozen for the base, in `normalisation/`.

Until as many stations have reported as the configuration says, reports are in memory only: after a restart
the stations are asked again, and a later report of a station replaces its earlier one. Then they are pooled
and written, and never change: versions trained with other statistics could not be averaged with those before.
"""

import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from loguru import logger
from pydantic import BaseModel, ConfigDict, ValidationError

from coordinator.config import CoordinatorConfig
from coordinator.registry.registry import Registry
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.files import write_atomic
from shared.messages import Digest, Name
from shared.normalisation import Statistics, awaited, pooled
from shared.policy.source import check_standardised

FOLDER = "normalisation"


class Frozen(BaseModel):
    """`normalisation/<base digest>.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_digest: Digest
    statistics: Statistics
    stations: dict[Name, int]
    """Who contributed, and how many frames."""
    at: datetime


class StatisticsPool:
    """Of one base; safe to use from several threads.

    Args:
        state: The state folder.
        base_digest: Of the fleet's base.
        stations: How many must have reported.

    Raises:
        ArmfleetError: REGISTRY_DAMAGED, what was frozen can't be read.
    """

    def __init__(self, state: Path, base_digest: str, stations: int) -> None:
        self._path = state / FOLDER / f"{base_digest}.json"
        self._base_digest, self._stations = base_digest, stations
        self._lock = threading.Lock()
        self._reports: dict[str, Statistics] = {}
        self.frozen = self._load()

    @property
    def missing(self) -> int:
        """Stations that have yet to report; 0: the statistics are frozen."""
        return 0 if self.frozen else self._stations - len(self._reports)

    @property
    def sentence(self) -> str:
        """What is known, for people."""
        if self.frozen is None:
            return awaited(self.missing)
        frames = self.frozen.statistics.state.count
        return f"pooled from {frames} frames of {', '.join(sorted(self.frozen.stations))}"

    def report(self, station: str, statistics: Statistics) -> None:
        """Take what a station says, and freeze once enough have spoken; afterwards nothing changes."""
        with self._lock:
            if self.frozen is not None:
                return
            reports = {**self._reports, station: statistics}
            if len(reports) >= self._stations:
                self.frozen = self._freeze(dict(sorted(reports.items())))
                logger.info("normalisation statistics are frozen: {}", self.sentence)
            self._reports = reports

    def _freeze(self, reports: Mapping[str, Statistics]) -> Frozen:
        frozen = Frozen(
            base_digest=self._base_digest,
            statistics=pooled(list(reports.values())),
            stations={station: told.state.count for station, told in reports.items()},
            at=datetime.now(UTC),
        )
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self._path, frozen.model_dump_json(indent=1) + "\n")
        return frozen

    def _load(self) -> Frozen | None:
        if not self._path.exists():
            return None
        try:
            return Frozen.model_validate_json(self._path.read_bytes())
        except (OSError, ValidationError) as error:
            raise ArmfleetError(
                f"{self._path} can't be read ({error})",
                kept="all versions and updates",
                do="restore it from a backup; every version's manifest has the statistics, too",
                code=ExitCode.REGISTRY_DAMAGED,
            ) from error


def open_pool(config: CoordinatorConfig, registry: Registry, base_digest: str) -> StatisticsPool | None:
    """The pool that the configuration asks for; None: the base's own statistics normalise.

    Raises:
        ArmfleetError: CONFIG_INVALID: versions were trained with the other source; BASE_MISSING;
            BASE_MISMATCH, see `check_standardised`; REGISTRY_DAMAGED.
    """
    newest = registry.newest()
    own = registry.versions.manifest(newest).normalisation is None
    stations = config.normalisation.to_pool
    if stations is None:
        if own:
            return None
        raise _other_source("pooled", f"version {newest} has pooled statistics")
    if own and newest > 0:
        raise _other_source("base", f"version {newest} was trained with the base's own statistics")
    check_standardised(config.policy.base)
    return StatisticsPool(config.state, base_digest, stations)


def _other_source(source: str, fact: str) -> ArmfleetError:
    return ArmfleetError(
        f"{fact}, and statistics never change",
        kept="all versions and updates",
        do=f'set [normalisation] source = "{source}", or make a new fleet for the other',
        code=ExitCode.CONFIG_INVALID,
    )
