"""Configuration of the coordinator (`coordinator.toml`)."""

from math import inf
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from coordinator.aggregation.rule import Aggregator, Optimiser, Rule, StationWeight, stations_needed
from shared.config import ConfigModel, load_config
from shared.messages import Name
from shared.module_patterns import either
from shared.recipe import PRESETS, Recipe

Positive = Annotated[float, Field(gt=0)]
Address = Annotated[str, Field(pattern=r"^[\w.\[\]:-]+:\d{1,5}$")]
ADAM_RATE = 0.1
"""Largest server learning rate of adam: about as large as the entries of a LoRA factor themselves."""
AbsolutePath = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]


class CoordinatorSection(ConfigModel):
    """Who this coordinator is and where its state lives."""

    name: Name
    """The fleet's name."""
    state_dir: AbsolutePath
    socket: AbsolutePath
    """Control API: the CLI and the ServerApp."""
    enrol_socket: AbsolutePath
    """Enrolment API: nginx passes `POST /enrol` to it."""


class PolicySection(ConfigModel):
    """The frozen policy that adapters are trained for."""

    base: str
    """Folder or hub id."""


class SuperLinkSection(ConfigModel):
    """The stock SuperLink beside the coordinator."""

    address: Address = "127.0.0.1:8000"
    """Loopback only: whoever reaches it runs code here (Flower's Control API has no authentication)."""
    flwr_home: AbsolutePath | None = None
    """FLWR_HOME of SuperLink and superexec; default `<state_dir>/flwr`."""

    @field_validator("address")
    @classmethod
    def _loopback(cls, address: str) -> str:
        if address.rsplit(":", 1)[0] not in ("127.0.0.1", "localhost", "[::1]"):
            raise ValueError("the SuperLink must listen on loopback; nginx passes its Fleet API on")
        return address


class PublicSection(ConfigModel):
    """How workstations reach this fleet."""

    url: str = Field(pattern=r"^https://[\w.\[\]:-]+$")
    """Where nginx answers; goes into join bundles and, as a name, into the server's certificate."""
    names: tuple[str, ...] = ()
    """Further host names or addresses for the certificate."""
    invite_hours: Positive = 72
    """How long a join bundle's secret is good for."""


class ExchangeSection(ConfigModel):
    """Check-ins."""

    check_in_s: Positive = 30
    """A node that is online is sent a check-in this long after its last one."""
    ttl_s: Positive = 300
    """How long a check-in and its reply may take before the next one is sent."""
    max_in_flight: int = Field(default=8, ge=1)
    """Check-ins under way at once: 30 with 5.4 MB both ways took the SuperLink to 594 MB."""
    poll_s: Positive = 0.5
    """Pause of the ServerApp between two looks at plan and replies."""


class AggregationSection(ConfigModel):
    """Rounds."""

    buffer_size: int = Field(default=2, ge=1)
    """K: a round starts when this many updates are in."""
    max_wait_s: Positive = 600
    """T: or when the oldest has waited this long."""
    staleness_exponent: float = Field(default=0.5, ge=0)
    """Weight (1 + staleness) ** -exponent; 0: staleness does not count."""
    station_weight: StationWeight = "uniform"
    """What a station counts: all alike, or by the examples it states."""
    remember_versions: int = Field(default=0, ge=0)
    """For how many versions the last update of an absent station still counts; 0: not at all."""
    poisoned_stations: int = Field(default=1, ge=1)
    """Stations of a round that may send anything, for the rules that hold out against them."""
    norm_limit: float = Field(default=inf, ge=1)
    """Longest update, in median lengths of the round."""
    aggregator: Aggregator = "mean"
    server_momentum: float = Field(default=0.8, ge=0, lt=1)
    """beta of nesterov and adam."""
    server_learning_rate: float = Field(default=0.7, gt=0)
    server_optimiser: Optimiser = "nesterov"
    rounds: int = Field(default=60, ge=1)
    """Length of the learning-rate schedule; after it no training is asked for."""

    @field_validator("norm_limit")
    @classmethod
    def _stations_for_the_limit(cls, limit: float, info: ValidationInfo) -> float:
        _room("mean", limit, info)
        return limit

    @field_validator("aggregator")
    @classmethod
    def _stations_for_the_aggregator(cls, aggregator: Aggregator, info: ValidationInfo) -> Aggregator:
        _room(aggregator, inf, info)
        return aggregator

    @field_validator("server_optimiser")
    @classmethod
    def _rate_for_the_optimiser(cls, optimiser: Optimiser, info: ValidationInfo) -> Optimiser:
        rate = info.data.get("server_learning_rate", 0)
        if optimiser == "adam" and rate > ADAM_RATE:
            raise ValueError(
                f"adam moves every number by about server_learning_rate in a round: "
                f"{rate:g} is too much, give at most {ADAM_RATE:g}"
            )
        return optimiser

    def rule(self) -> Rule:
        """How rounds are computed."""
        return Rule(
            staleness_exponent=self.staleness_exponent,
            momentum=self.server_momentum,
            learning_rate=self.server_learning_rate,
            buffer_size=self.buffer_size,
            optimiser=self.server_optimiser,
            station_weight=self.station_weight,
            aggregator=self.aggregator,
            norm_limit=self.norm_limit,
            poisoned_stations=self.poisoned_stations,
        )


def _room(aggregator: Aggregator, limit: float, info: ValidationInfo) -> None:
    """A rule that needs more stations than K would never see its round begin with K updates."""
    size, poisoned = info.data.get("buffer_size"), info.data.get("poisoned_stations")
    if size is None or poisoned is None:
        return  # wrong themselves, and reported as that
    needed = stations_needed(aggregator, limit, poisoned)
    if size < needed:
        raise ValueError(
            f"with poisoned_stations = {poisoned} it needs updates of {needed} stations in a round: "
            f"buffer_size must be at least {needed}, not {size}"
        )


class NormalisationSection(ConfigModel):
    """What states and actions are normalised with."""

    source: Literal["base", "pooled"] = "base"
    """The statistics that came with the base, or those of the stations' own recordings."""
    stations: int | None = Field(default=None, ge=1)
    """With `pooled`: as many must have reported before training begins."""

    @model_validator(mode="after")
    def _pooling_needs_stations(self) -> "NormalisationSection":
        if self.source == "pooled" and self.stations is None:
            raise ValueError('source = "pooled" needs `stations`: how many must have reported')
        return self

    @property
    def to_pool(self) -> int | None:
        """Stations whose statistics are pooled; None: the base's are used."""
        return self.stations if self.source == "pooled" else None


class EvaluationTask(ConfigModel):
    """One task of the simulator."""

    verb: str
    color: str

    @property
    def key(self) -> str:
        """Name in results, as the evaluation worker gives it."""
        return f"{self.verb}_{self.color}"


class EvaluationSection(ConfigModel):
    """Evaluation of versions in simulation."""

    every: int = Field(default=5, ge=1)
    """Each k-th version is evaluated."""
    tasks: tuple[EvaluationTask, ...] = ()
    """Known tasks: promotion goes by these."""
    unseen: tuple[EvaluationTask, ...] = ()
    """Measured and reported, never used for promotion; by the sequential rule of promoted versions only."""
    rollouts: int = Field(default=60, ge=1)
    """Per task; by the sequential rule the most."""
    seed0: int = Field(default=500_000, ge=0)
    """Rollout i runs scene seed0 + i; the same scenes for every version."""
    delay_ticks: int = Field(default=2, ge=0)
    """Simulated inference delay in actions of the policy (0.1 s each at 10 Hz), as the arms measure it."""
    timeout_s: Positive = 2700
    """An evaluation that takes longer is given up and its worker restarted."""


class PromotionSection(ConfigModel):
    """When a candidate becomes the promoted version."""

    rule: Literal["sequential", "mean"] = "sequential"
    """`sequential`: when it is shown to be better, with at most 5 % false promotions. `mean`: when its mean
    success came out higher; for few rollouts, and where a wrong promotion costs little."""
    max_task_loss: float = Field(default=0.10, ge=0, le=1)
    """A candidate that costs any known task more than this share of its rollouts is rejected."""
    field: bool = True
    """Roll back by itself a promoted version that does worse on the arms than the one before it."""
    field_error: float = Field(default=0.05, gt=0, lt=1)
    """Of promoted versions that are nowhere worse than the one before, at most this share is rolled back."""


class CoordinatorConfig(ConfigModel):
    """The whole file."""

    coordinator: CoordinatorSection
    policy: PolicySection
    superlink: SuperLinkSection = SuperLinkSection()
    public: PublicSection
    exchange: ExchangeSection = ExchangeSection()
    aggregation: AggregationSection = AggregationSection()
    recipe: Recipe = Recipe()
    """TOML: `preset = "attention" | "expert" | "wide"` and any field of the recipe; `target_modules` may be a
    list of regular expressions."""
    normalisation: NormalisationSection = NormalisationSection()
    evaluation: EvaluationSection = EvaluationSection()
    promotion: PromotionSection = PromotionSection()

    @model_validator(mode="before")
    @classmethod
    def _expand_preset(cls, data: Any) -> Any:
        recipe = data.get("recipe") if isinstance(data, dict) else None
        if not isinstance(recipe, dict) or "preset" not in recipe:
            return data
        fields = dict(recipe)
        preset = fields.pop("preset")
        if preset not in PRESETS:
            raise ValueError(f"recipe.preset = {preset!r}: choose one of {', '.join(PRESETS)}")
        return {**data, "recipe": {**PRESETS[preset], **fields}}

    @field_validator("recipe", mode="before")
    @classmethod
    def _join_modules(cls, recipe: Any) -> Any:
        modules = recipe.get("target_modules") if isinstance(recipe, dict) else None
        if not isinstance(modules, list) or not all(isinstance(each, str) for each in modules):
            return recipe
        return {**recipe, "target_modules": either(modules)}

    @property
    def state(self) -> Path:
        """The state folder."""
        return self.coordinator.state_dir

    @property
    def flwr_home(self) -> Path:
        """FLWR_HOME of the Flower processes beside this coordinator."""
        return self.superlink.flwr_home or self.state / "flwr"


def load(path: Path) -> CoordinatorConfig:
    """Read `coordinator.toml`; raises as `shared.config.load_config`."""
    return load_config(path, CoordinatorConfig)
