"""What a terminal asks of a series of rollouts, and the agent's one answer with all that it draws."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from agent.sessions.series import Phase, Plan
from agent.sessions.session_messages import ArmTold, Told
from agent.takeovers import Takeovers
from agent.versions import Slot
from shared.tasks import TaskText


class StartSeries(BaseModel):
    """A new series."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: TaskText
    rollouts: int = Field(ge=1, le=1000)
    """Of each version."""
    version: Slot = "promoted"
    against: Slot | None = None
    """Compare with this one, in pairs and blinded."""
    evaluation: bool = False
    """Counts as activity `evaluate`."""
    max_s: float | None = Field(default=None, gt=0)
    """Length of each; at most [inference] max_s, which is also the default."""
    seed: int | None = Field(default=None, ge=0, lt=2**31)
    """Of the lots that order the pairs; None: a new one."""

    @model_validator(mode="after")
    def _two_versions(self) -> "StartSeries":
        if self.against == self.version:
            raise ValueError(f"{self.version} can't be compared with itself")
        return self


class ResultTold(Told):
    """A rollout that has its label."""

    rollout: str
    success: bool
    version: str | None
    """As `SeriesTold.versions` names it; None while it is for nobody's eyes."""


class SeriesTold(Told):
    """The plan and where it stands; times in seconds."""

    id: str
    """Of this series; another one means that the agent began anew."""
    task: str
    phase: Phase
    versions: list[str]
    """What is tried; of two, the first is to be better."""
    paired: bool
    measures: bool = False
    """Nobody takes over."""
    wanted: int
    """Rollouts in all."""
    number: int
    """Of the rollout that runs, waits for its label, or comes next; from 1."""
    version: str | None
    """What it executes; None while that is for nobody's eyes."""
    results: list[ResultTold]
    discarded: int
    lost: int
    rollout: str | None
    led: bool = False
    """A person has taken over."""
    segment: str = ""
    """What became of what was recorded last by taking over."""
    episodes: tuple[str, ...] = ()
    """Kept of what was recorded so."""
    reason: str
    """Why it ended."""
    label: bool | None
    elapsed_s: float
    """Since the phase began."""
    limit_s: float
    """Length at which a rollout ends by itself."""
    ending: bool
    notice: str
    seed: int | None
    """Of the lots; None while it would tell the order."""

    @property
    def pair(self) -> int:
        """Number of the pair, from 1."""
        return (self.number + 1) // 2

    @property
    def second(self) -> bool:
        """It is the second rollout of its pair: on the same start scene."""
        return self.number % 2 == 0


class RolloutTold(Told):
    """What the arm worker says of the rollout that runs (`agent.inference.engine.RolloutEngine.status`)."""

    phase: str = ""
    chunks: int = 0
    starved: int = 0
    bounded: int = 0
    latency_ms: float | None = None
    chunk_age_s: float | None = None
    queue: int | None = None
    policy_s: float | None = None
    """Time under the policy."""
    recorded_s: float | None = None
    """Of what a person records who has taken over."""
    apart: str = ""
    """Why the arm does not come to the leader that has taken over."""


class SeriesAnswer(Told):
    """Everything at once."""

    node: str
    series: SeriesTold | None
    arm: ArmTold
    rollout: RolloutTold | None


def series_told(
    plan: Plan, series: str, names: list[str], seed: int, limit_s: float, takeovers: Takeovers, now: float
) -> SeriesTold:
    """What may be told of a series: of a comparison, nothing by which its versions could be told apart.

    Args:
        plan: Where it stands.
        series: Its id.
        names: Of its versions, by the indices in the plan.
        seed: Of the lots.
        limit_s: Length of each rollout.
        takeovers: What persons recorded so.
        now: The time, on the plan's clock.
    """
    hidden = plan.paired and plan.phase is not Phase.DONE

    def shown(version: int) -> str | None:
        return None if hidden else names[version]

    return SeriesTold(
        id=series,
        task=plan.task,
        phase=plan.phase,
        versions=names,
        paired=plan.paired,
        measures=plan.measures,
        wanted=len(plan.order),
        number=plan.place + 1,
        version=shown(plan.order[plan.place]),
        results=[
            ResultTold(rollout=result.rollout, success=result.success, version=shown(result.version))
            for result in plan.results
        ],
        discarded=plan.discarded,
        lost=plan.lost,
        rollout=plan.rollout,
        led=plan.led,
        segment=takeovers.said,
        episodes=takeovers.kept,
        reason=plan.reason,
        label=plan.label,
        elapsed_s=round(now - plan.since, 2),
        limit_s=limit_s,
        ending=plan.ending,
        notice=plan.notice,
        seed=None if hidden else seed,
    )


def rollout_told(account: dict[str, Any]) -> RolloutTold | None:
    """Read the arm worker's `status`; None while no rollout runs."""
    rollout = account.get("rollout")
    return RolloutTold.model_validate({**rollout, "phase": account.get("phase") or ""}) if rollout else None
