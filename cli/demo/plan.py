"""The numbers of a demo: who is taught what, how often, and which seeds belong to what."""

from dataclasses import dataclass, replace
from pathlib import Path

from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode


@dataclass(frozen=True)
class TaskPlan:
    """A verb and a colour; `text` is the sentence a person would say (sim.tasks has the same)."""

    verb: str
    color: str
    text: str

    @property
    def key(self) -> str:
        """Name of the task in reports."""
        return self.verb

    def wire(self) -> dict[str, str]:
        """As the simulator's control socket wants it."""
        return {"verb": self.verb, "color": self.color}


BASE = Path(__file__).resolve().parents[2] / "sim" / "base"

LEFT = TaskPlan("push_left", "red", "push the red cube to the left")
RIGHT = TaskPlan("push_right", "green", "push the green cube to the right")
UNSEEN = TaskPlan("push_away", "blue", "push the blue cube forward")


@dataclass(frozen=True)
class StationPlan:
    """One virtual workstation; without a task it only learns from the others."""

    name: str
    task: TaskPlan | None = None
    duty_cycle: float = 1.0


STATIONS = (StationPlan("a", LEFT), StationPlan("b", RIGHT, duty_cycle=0.25), StationPlan("c"))


@dataclass(frozen=True)
class Plan:
    """Everything a demo is asked to do. Times are limits in seconds, not waits."""

    seed: int = 0
    base: Path = BASE
    """The frozen policy of everybody."""
    stations: tuple[StationPlan, ...] = STATIONS
    demonstrations: int = 40
    before: int = 10
    after: int = 20
    rounds: int = 48
    buffer_size: int = 2
    max_wait_s: float = 12.0
    """A round does not wait longer for the slow station: its updates then come late, and count as stale."""
    evaluate_every: int = 8
    evaluation_rollouts: int = 20
    rollout_s: float = 5.0
    limit_s: float = 1200.0
    min_pooled: float = 0.6
    min_cell: float = 0.5
    max_before: float = 0.1

    @property
    def tasks(self) -> tuple[TaskPlan, ...]:
        """The tasks that some station is taught."""
        return tuple(station.task for station in self.stations if station.task)

    def demonstration_seed(self, station: str, index: int) -> int:
        """Scene of a demonstration."""
        return self._base + self._place(station) * 10_000 + index

    def rollout_seed(self, station: str, index: int) -> int:
        """Scene of a rollout on an arm; the same before and after, and never one of training or promotion."""
        return self._base + 700_000 + self._place(station) * 10_000 + index

    def canary_seed(self, station: str) -> int:
        """Noise in the corner of this station's pictures."""
        return self._base + 900_000 + self._place(station)

    @property
    def evaluation_seed0(self) -> int:
        """First scene of the coordinator's own evaluation."""
        return self._base + 500_000

    @property
    def _base(self) -> int:
        return self.seed * 1_000_000

    def _place(self, station: str) -> int:
        return [each.name for each in self.stations].index(station)


SMALL = Plan(
    stations=STATIONS[:2],
    demonstrations=3,
    before=1,
    after=2,
    rounds=4,
    evaluate_every=2,
    evaluation_rollouts=2,
    limit_s=600.0,
    min_pooled=0.0,
    min_cell=0.0,
    max_before=1.0,
)
"""Shows that every part works, not that anything is learned: no target for success."""


def plan(
    *, seed: int = 0, small: bool = False, base: Path = BASE, stations: int | None = None, **numbers: int
) -> Plan:
    """The full or the small plan with some numbers changed.

    Raises:
        ArmfleetError: CONFIG_INVALID: a number that makes no demo.
    """
    chosen = replace(SMALL if small else Plan(), seed=seed, base=base.absolute(), **numbers)  # type: ignore[arg-type]
    if stations is not None:
        chosen = replace(chosen, stations=STATIONS[:stations])
    if len(chosen.stations) < 2 or seed < 0 or min(chosen.demonstrations, chosen.after, chosen.rounds) < 1:
        raise ArmfleetError(
            "a demo needs 2 or 3 stations, a seed from 0, and at least one demonstration, rollout and round",
            do="see `armfleet demo --help`",
            code=ExitCode.CONFIG_INVALID,
        )
    return chosen
