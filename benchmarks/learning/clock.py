"""What happens when, in simulated time: check-ins, updates, rounds. Pure, and free of torch.

When things happen does not depend on what is learned. So an arm's whole course is known before anything is
trained: it is computed in milliseconds, gives the length of the learning-rate schedule, and a killed run
finds its place in it again.

The stations behave as the agent does: an update is trained from the newest version that a check-in brought,
and none is begun before a version contains the last one (`agent.learning`). A check-in acts on what the
coordinator knew when it was sent, so a station that delivers an update hears of the version it led to at the
next check-in. Rounds begin when `coordinator.aggregation.buffer` says so.
"""

import heapq
from dataclasses import dataclass, field

from benchmarks.learning.plan import CHECK_IN_S, Arm, Station
from coordinator.aggregation import buffer
from coordinator.aggregation.buffer import Waiting

NEVER_S = 1e9
"""As `max_wait_s`: a synchronous round waits for its stations, however long it takes."""


@dataclass(frozen=True)
class Delivered:
    """An update reached the coordinator.

    number: Of the station's delivered updates, from 0. begun, at: simulated seconds.
    """

    update_id: str
    station: str
    number: int
    base_version: int
    begun: float
    at: float


@dataclass(frozen=True)
class Round:
    """A version was made, of the updates with these ids."""

    version: int
    update_ids: tuple[str, ...]
    at: float


Event = Delivered | Round


@dataclass(frozen=True)
class Course:
    """Everything that happened, in order, and the updates that no round took in the end."""

    events: tuple[Event, ...]
    left: tuple[str, ...]

    @property
    def versions(self) -> int:
        """Number of the last version; 0: none was made."""
        return sum(isinstance(event, Round) for event in self.events)


@dataclass
class _Station:
    plan: Station
    trained_on: int = -1
    delivered: int = 0
    job: tuple[int, float, float] | None = None
    """(base version, begun, done) of the update that is trained or waits in the outbox."""
    buffered: str | None = None
    """Its update that no version contains yet."""


@dataclass
class _Fleet:
    arm: Arm
    stations: list[_Station]
    newest: int = 0
    steps: int = 0
    """Handed out and not lost."""
    waiting: list[Waiting] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stations_needed = self.arm.aggregation.rule().stations_needed

    def check_in(self, station: _Station, now: float) -> bool:
        """One exchange with a station; False when it has left."""
        if now >= station.plan.leaves_at:
            if station.job is not None:
                self.steps -= self.arm.recipe.steps
            self.stations.remove(station)
            return False
        if station.job is not None:
            if station.job[2] <= now:
                self._deliver(station, *station.job[:2], now)
                self.round_if_due(now)
        elif self._may_begin(station):
            done = station.plan.end_of_update(now, self.arm.recipe.steps)
            station.job, station.trained_on = (self.newest, now, done), self.newest
            self.steps += self.arm.recipe.steps
        return True

    def stands_still(self) -> bool:
        """Nothing will happen any more."""
        moving = any(station.job is not None or self._may_begin(station) for station in self.stations)
        return not moving and not self._ends_in_a_round()

    def _deliver(self, station: _Station, base_version: int, begun: float, now: float) -> None:
        name = station.plan.name
        update_id = f"{name}-{station.delivered:06d}"
        self.events.append(Delivered(update_id, name, station.delivered, base_version, begun, now))
        self.waiting.append(Waiting(update_id, name, base_version, now))
        station.delivered, station.buffered, station.job = station.delivered + 1, update_id, None

    def round_if_due(self, now: float) -> None:
        """Make a version if the buffer says so."""
        settings = self.arm.aggregation
        flush = buffer.due(
            self.waiting, now, settings.buffer_size, settings.max_wait_s, self._stations_needed
        )
        if flush is None:
            return
        taken = tuple(update.update_id for update in flush.updates)
        self.newest += 1
        self.events.append(Round(self.newest, taken, now))
        self.waiting = [update for update in self.waiting if update.update_id not in taken]
        for station in self.stations:
            if station.buffered in taken:
                station.buffered = None

    def _may_begin(self, station: _Station) -> bool:
        return (
            self.steps + self.arm.recipe.steps <= self.arm.steps
            and station.buffered is None
            and station.trained_on != self.newest
        )

    def _ends_in_a_round(self) -> bool:
        stations = {update.node for update in self.waiting}
        return self.arm.aggregation.max_wait_s < NEVER_S and len(stations) >= self._stations_needed


def course(arm: Arm, check_in_s: float = CHECK_IN_S) -> Course:
    """The course of an arm until its steps are trained or it can't go on."""
    fleet = _Fleet(arm, [_Station(plan) for plan in arm.stations])
    turns: list[tuple[float, int, _Station | None]] = [(0.0, -1, None)]
    turns += [(station.plan.joins_at, place, station) for place, station in enumerate(fleet.stations)]
    heapq.heapify(turns)
    while not fleet.stands_still():
        now, place, station = heapq.heappop(turns)
        if station is None:
            fleet.round_if_due(now)
        elif not fleet.check_in(station, now):
            continue
        heapq.heappush(turns, (now + check_in_s, place, station))
    return Course(tuple(fleet.events), tuple(update.update_id for update in fleet.waiting))
