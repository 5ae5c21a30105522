"""The federation's normalisation statistics: collected once, frozen for the base, in `normalisation/`.

Until as many stations have reported as the configuration says, reports are in memory only: after a restart
the stations are asked again, and a later report of a station replaces its earlier one. Then they are pooled
and written, and never change: versions trained with other statistics could not be averaged with those before.

How many frames a station has it says itself, so it does not decide alone how much it counts for (`counted`).
"""

import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from loguru import logger
from pydantic import BaseModel, ConfigDict, ValidationError

from coordinator.config import CoordinatorConfig
from coordinator.registry.registry import Registry
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.files import write_atomic
from shared.messages import Digest, Name
from shared.normalisation import MOST_FRAMES, Moments, Statistics, awaited, pooled
from shared.policy.source import check_standardised

FOLDER = "normalisation"
SHARE = 2
"""A station counts for at most this many times the median of the others' frames. With 2, of three stations
or more none is ever more than half of the pool, whatever it says; of two, none more than two thirds. Among
stations that differ less than that, every frame counts alike."""


class Frozen(BaseModel):
    """`normalisation/<base digest>.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_digest: Digest
    statistics: Statistics
    stations: dict[Name, int]
    """Who contributed, and how many frames each reported; fewer may have been counted."""
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
        frames, told = self.frozen.statistics.state.count, sum(self.frozen.stations.values())
        of_all = f" (of {told} reported)" if frames < told else ""
        return f"pooled from {frames} frames{of_all} of {', '.join(sorted(self.frozen.stations))}"

    def report(self, station: str, statistics: Statistics) -> None:
        """Take what a station says, and freeze once enough have spoken; afterwards nothing changes.

        Raises:
            ArmfleetError: UPDATE_REFUSED: no values have such statistics; the station is not counted.
        """
        if not (statistics.state.believable and statistics.action.believable):
            raise ArmfleetError(
                f"{station} reported statistics that no recordings have",
                kept="the reports of the other stations",
                do="update its agent; see its recordings with `armfleet episodes list`",
                code=ExitCode.UPDATE_REFUSED,
            )
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
            statistics=pooled(counted(list(reports.values()))),
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


def counted(reports: Sequence[Statistics]) -> list[Statistics]:
    """The reports, none with more frames than `SHARE` allows it: mean and deviation stay.

    All together have at most half of what one `Statistics` may say: pooling believable ones never fails.
    """
    states = _limited([report.state for report in reports])
    actions = _limited([report.action for report in reports])
    return [Statistics(state=state, action=action) for state, action in zip(states, actions, strict=True)]


def _limited(parts: Sequence[Moments]) -> list[Moments]:
    room = MOST_FRAMES // (2 * len(parts))
    limited = []
    for at, part in enumerate(parts):
        others = [other.count for other in (*parts[:at], *parts[at + 1 :])]
        limited.append(part.of_at_most(min(room, int(SHARE * median(others))) if others else room))
    return limited


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
