"""What an arm of the experiment is: stations, recipe, rounds, and what is evaluated. Pure data.

An arm is a federation. Pooled training is one station that holds all demonstrations, training alone is one
station with its own: both take the same path as the others, with a server that adds the update as it is.
"""

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, computed_field

from coordinator.config import AggregationSection
from shared.recipe import Codec, Recipe
from sim.tasks import Task

STEP_S = 20.0
"""Simulated seconds per gradient step at speed 1: a workstation without a GPU. From the cache, a full-size
step of batch 4 takes 2 s of processor time (docs/training.md); a batch of 16 with four draws, about ten times
that."""
CHECK_IN_S = 5.0
"""Simulated seconds between check-ins: as long as the fastest station's update of two steps takes. How much
depends on it: `benchmarks.learning.report.check_ins`."""

FIRST_SCENE = 30_000_000
"""Evaluation runs the scenes from here on, for every arm and training seed: fixed before any result."""
FIRST_DEMONSTRATION = 10_000_000
"""Scenes of demonstrations: this + 1,000,000 x training seed + 10,000 x source + number, below FIRST_SCENE
for training seeds under 20. The base was trained and evaluated on seeds from 900,000 and 1,000,000 on."""
DELAY_TICKS = 2
"""Of the evaluation: the coordinator's default, as the arms measure it."""

type Mode = Literal["base", "local", "centralised", "sync", "async"]


class PlanModel(BaseModel):
    """Base of the plan's parts; recorded with every result."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Asked(PlanModel):
    """A task by its parts."""

    verb: str
    color: str

    @property
    def task(self) -> Task:
        """The simulator's task."""
        return Task(self.verb, self.color)

    @property
    def key(self) -> str:
        """Its name in results, as the evaluator gives it."""
        return f"{self.verb}_{self.color}"


class Shown(Asked):
    """Demonstrations of one task; two of one source and number are the same, whichever arm uses them."""

    demonstrations: int = Field(ge=1, le=1000)
    source: int = Field(ge=0, lt=100)

    def first_scene(self, seed: int) -> int:
        """Seed of the first scene; 10,000 from there on belong to this training seed and source alone."""
        return FIRST_DEMONSTRATION + 1_000_000 * seed + 10_000 * self.source


ROUNDING_S = 1e-8
"""Work this short that is left when a window closes is rounding, and doesn't wait for the next one."""


class Window(PlanModel):
    """Training is allowed in the first `open_s` of every `period_s`, simulated seconds."""

    period_s: float = Field(gt=0)
    open_s: float = Field(gt=0)

    def end_of_work(self, start: float, work_s: float) -> float:
        """When work that is begun at `start` and pauses outside the window is done."""
        left, period = work_s, int(start // self.period_s)
        while True:
            opens = period * self.period_s
            begin = max(start, opens)
            room = max(0.0, opens + self.open_s - begin)
            if left <= room + ROUNDING_S:
                return begin + min(left, room)
            left, period = left - room, period + 1


class Station(PlanModel):
    """A workstation.

    Attributes:
        speed: Steps per STEP_S.
        window: When it may train; None: always.
        joins_at, leaves_at: Simulated seconds; what is unfinished or not delivered when it leaves is lost.
        poison: A poisoned station sends its update times this; None for an honest one.
    """

    name: str
    shown: tuple[Shown, ...] = Field(min_length=1)
    speed: float = Field(default=1.0, gt=0)
    window: Window | None = None
    joins_at: float = Field(default=0.0, ge=0)
    leaves_at: float = math.inf
    poison: float | None = None

    def end_of_update(self, start: float, steps: int) -> float:
        """When an update of `steps` that is begun at `start` is trained, simulated seconds."""
        work_s = steps * STEP_S / self.speed
        return self.window.end_of_work(start, work_s) if self.window else start + work_s


class Arm(PlanModel):
    """One way to learn.

    Attributes:
        name: Of its results.
        recipe: Its seed is replaced by the training seed.
        aggregation: As in coordinator.toml; the length of the learning-rate schedule is replaced by the
            number of versions that the simulated clock gives.
        steps: Gradient steps over all stations; the arm ends when they are trained.
        exact: Updates are the exact float32 change, not in the recipe's codec.
        add_residual: What the mean of the factors lacks is added to the frozen weights
            (`benchmarks.learning.residual`).
        tasks: What is evaluated.
        curve: Number of versions that are evaluated on fewer scenes, evenly spaced up to the last.
    """

    name: str = Field(pattern=r"^[a-z0-9-]+$")
    mode: Mode
    stations: tuple[Station, ...] = ()
    recipe: Recipe = Recipe()
    aggregation: AggregationSection = AggregationSection()
    steps: int = Field(default=0, ge=0)
    exact: bool = Field(default=False, exclude=True)
    add_residual: bool = False
    tasks: tuple[Asked, ...] = Field(min_length=1)
    curve: int = Field(default=0, ge=0)

    @computed_field
    def codec(self) -> Codec | Literal["none"]:
        """What updates go through: in the plan that a result is kept with, this stands for `exact`."""
        return "none" if self.exact else self.recipe.codec


class Scale(PlanModel):
    """How much is done; a test does less of everything, on the same path.

    Attributes:
        scenes: Evaluation scenes per task for an arm's last version.
        curve_scenes: The same for versions along the way.
        steps: Most gradient steps of an arm.
        demonstrations: Most of one task at a station.
    """

    scenes: int = Field(default=100, ge=1)
    curve_scenes: int = Field(default=25, ge=1)
    steps: int = Field(default=1_000_000, ge=1)
    demonstrations: int = Field(default=1000, ge=1)

    def of(self, arm: Arm) -> Arm:
        """`arm` within these limits; an update is no longer than the arm's share of steps per station."""
        if not arm.stations or arm.steps <= self.steps:
            return arm
        each = max(1, self.steps // len(arm.stations))
        recipe = arm.recipe.model_copy(update={"steps": min(arm.recipe.steps, each)})
        stations = tuple(self._station(station) for station in arm.stations)
        return arm.model_copy(update={"steps": self.steps, "recipe": recipe, "stations": stations})

    def _station(self, station: Station) -> Station:
        shown = tuple(
            part.model_copy(update={"demonstrations": min(part.demonstrations, self.demonstrations)})
            for part in station.shown
        )
        return station.model_copy(update={"shown": shown})


QUICK = Scale(scenes=2, curve_scenes=1, steps=10, demonstrations=2)
"""Shows that every part works, not that anything is learned."""
