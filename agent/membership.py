"""What a workstation has once it has joined a fleet: inbox, outbox, exchange, the versions it runs and its
learning.

Set up when the agent starts, or when `enrolment/` appears while it runs. Before that the workstation
records and runs the base alone.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from agent.activity import Activity
from agent.config import AgentConfig
from agent.exchange.enrolment import TUF_ROOT, Enrolment, read_enrolment
from agent.exchange.fit import base_shapes
from agent.exchange.handler import Exchange
from agent.exchange.inbox import Inbox
from agent.exchange.outbox import Outbox
from agent.exchange.trust import TrustedMetadata
from agent.learning import Learning
from agent.supervision import Worker
from agent.versions import Versions
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.messages import FieldResult, Health, JudgedVersion
from shared.normalisation import Statistics
from shared.policy.digest import base_digest
from shared.policy.source import resolve_base


@dataclass(frozen=True)
class Ground:
    """What takes long or touches files; made by `prepare` in a thread."""

    enrolment: Enrolment
    inbox: Inbox
    outbox: Outbox
    base_digest: str


def prepare(config: AgentConfig) -> Ground:
    """Read the enrolment, hash the base, open inbox and outbox. Blocks for seconds with a full-size base.

    Raises:
        ArmfleetError: NOT_ENROLLED, BASE_MISSING.
    """
    enrolment = read_enrolment(config.enrolment_dir)
    folder = resolve_base(config.policy.base)
    digest = base_digest(folder)
    try:
        shapes = base_shapes(folder)
        root = (config.enrolment_dir / TUF_ROOT).read_bytes()
    except (OSError, ValueError) as error:
        raise ArmfleetError(
            f"the base or the enrolment can't be read ({error})", code=ExitCode.BASE_MISSING
        ) from error

    def clock() -> datetime:
        return datetime.now(UTC)

    outbox = Outbox(config.outbox_dir)
    outbox.clean_up()
    trust = TrustedMetadata(config.tuf_dir, root, clock)
    inbox = Inbox(trust, config.tuf_dir, config.adapters_dir, digest, shapes, clock)
    return Ground(enrolment, inbox, outbox, digest)


class Membership:
    """The parts that belong together once the ground is there.

    Args:
        ground: From `prepare`.
        policy, trainer: Workers.
        rolling_out: Whether the policy must not change now.
        training_episodes: Number of admitted training episodes.
        describe: Activity and health for a check-in's answer.
        statistics, field: As `Exchange` takes them.
    """

    def __init__(
        self,
        config: AgentConfig,
        ground: Ground,
        policy: Worker,
        trainer: Worker,
        rolling_out: Callable[[], bool],
        training_episodes: Callable[[], int],
        describe: Callable[[], tuple[Activity, Health]],
        statistics: Callable[[Collection[str]], Statistics | None],
        field: Callable[[Sequence[JudgedVersion]], list[FieldResult]],
    ) -> None:
        self.ground = ground
        self._describe = describe
        self.versions = Versions(policy, ground.inbox, rolling_out)
        self.exchange = Exchange(
            node=config.node.name,
            fleet=ground.enrolment.fleet,
            base_digest=ground.base_digest,
            slots=config.exchange.slots,
            inbox=ground.inbox,
            outbox=ground.outbox,
            folder=config.node.state_dir,
            describe=self._describe_node,
            on_versions=self._versions_changed,
            statistics=statistics,
            field=field,
        )
        self.learning = Learning(
            trainer,
            ground.inbox,
            config.node.state_dir,
            lambda: self.exchange.plan,
            training_episodes,
            ground.outbox,
            config.training.enabled,
        )

    def _describe_node(self) -> tuple[Activity, Health, int | None]:
        activity, health = self._describe()
        running = None if self.versions.blinded else self.versions.running  # the coordinator shows it
        return activity, health, running.version if running else None

    async def _versions_changed(self, slots: list[str]) -> None:
        """Old adapters go, except those in use; the swap itself follows at the next tick."""
        self.ground.inbox.prune(self.versions.in_use)

    def versions_status(self) -> dict[str, Any]:
        """For `/versions`: what is held and runs, the coordinator's reason, and what was reported to it."""
        told = [result.model_dump() for result in self.exchange.told]
        return {**self.versions.status(), "why": self.exchange.plan.why, "field": told}

    def status(self) -> dict[str, Any]:
        """For `/status`."""
        received = self.exchange.plan.received_at
        age = (datetime.now(UTC) - received).total_seconds() if received else None
        pending = self.ground.outbox.pending()
        return {
            "fleet": self.ground.enrolment.fleet,
            "coordinator": self.ground.enrolment.url,
            "base_digest": self.ground.base_digest,
            "last_check_in_s": round(age, 1) if age is not None else None,
            "refused": self.exchange.refused or self.exchange.unsent,
            "outbox": {"updates": len(pending), "ids": pending[:10]},
            "versions": self.versions_status(),
            "training": self.learning.status(),
        }
