"""One check-in from its bytes to the bytes of its answer, and what it leaves behind: the plan for training.

The order matters: acknowledged updates leave the outbox first (they are durable elsewhere, whatever
follows), then versions are accepted, then the answer is built from the state that results.
"""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loguru import logger
from pydantic import BaseModel, ConfigDict, ValidationError

from agent.activity import Activity
from agent.exchange import check_in
from agent.exchange.inbox import Inbox, Outcome
from agent.exchange.outbox import Outbox
from shared.files import write_atomic
from shared.messages import CheckIn, FieldResult, Health, Held, JudgedVersion, UpdateHeader
from shared.normalisation import Statistics
from shared.recipe import Recipe

FILE = "plan.json"


class Plan(BaseModel):
    """What the coordinator last asked for; kept over restarts, so that training needs no new check-in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: Recipe | None = None
    learning_rate: float = 0.0
    buffered: bool = False
    """The last update is in no version yet."""
    stations_awaited: int = 0
    """Their normalisation statistics are missing: no training begins without."""
    why: str = ""
    """The coordinator's reason for the promoted version."""
    sent_at: datetime | None = None
    received_at: datetime | None = None


class Exchange:
    """The agent's side of the exchange. One check-in is handled at a time.

    Args:
        node: Name of this workstation.
        fleet: Name of the fleet it joined.
        base_digest: Its base.
        slots: TUF slots it takes.
        inbox: Versions on their way in.
        outbox: Updates on their way out.
        folder: Where plan.json is kept.
        describe: Activity, health and the version that the policy executes, as of now.
        on_versions: Awaited after slots have changed.
        statistics: Normalisation statistics of what trains here, without the tasks given; None: there are
            none to tell.
        field: What became of the rollouts of the versions given.
    """

    def __init__(
        self,
        node: str,
        fleet: str,
        base_digest: str,
        slots: tuple[str, ...],
        inbox: Inbox,
        outbox: Outbox,
        folder: Path,
        describe: Callable[[], tuple[Activity, Health, int | None]],
        on_versions: Callable[[list[str]], Coroutine[Any, Any, None]],
        statistics: Callable[[Collection[str]], Statistics | None],
        field: Callable[[Sequence[JudgedVersion]], list[FieldResult]],
    ) -> None:
        self.inbox, self.outbox = inbox, outbox
        self._node, self._fleet, self._base_digest, self._slots = node, fleet, base_digest, slots
        self._path = folder / FILE
        self._describe, self._on_versions, self._statistics = describe, on_versions, statistics
        self._field = field
        self._lock = asyncio.Lock()
        self.plan = self._load_plan()
        self.refused = ""
        """Why something in the last check-in was not accepted."""
        self.unsent = ""
        """Why the last finished update was set aside."""
        self.told: list[FieldResult] = []
        """What was last reported of rollouts."""

    async def check_in(self, body: bytes) -> bytes:
        """Handle one check-in envelope; the answer's envelope.

        Raises:
            ArmfleetError: not a check-in, or one of another fleet; nothing was changed.
        """
        async with self._lock:
            request, blobs = check_in.parse(body)
            check_in.check_origin(request, self._fleet)
            outcome = await asyncio.to_thread(self._take, request, blobs)
            if outcome.changed:
                await self._on_versions(outcome.changed)
            statistics = await asyncio.to_thread(self._statistics_for, request)
            if request.judged is not None:
                self.told = await asyncio.to_thread(self._field, request.judged)
            update = await asyncio.to_thread(self._next_update)
            activity, health, running = self._describe()
            state = check_in.NodeState(
                node=self._node,
                fleet=self._fleet,
                base_digest=self._base_digest,
                activity=activity,
                held=self._held(running),
                health=health,
                refused=self.refused or self.unsent,
                statistics=statistics,
                field=self.told if request.judged is not None else (),
            )
            return await asyncio.to_thread(lambda: check_in.reply(request, state, update))

    def _take(self, request: CheckIn, blobs: dict[str, bytes]) -> Outcome:
        self.outbox.acknowledge(request.acknowledged)
        other = check_in.other_base(request, self._base_digest)
        outcome = Outcome(refused={"base": other}) if other else self.inbox.accept(blobs, self._slots)
        if outcome.sentence and outcome.sentence != self.refused:
            logger.warning("not everything in a check-in was accepted: {}", outcome.sentence)
        self.refused = outcome.sentence
        self._keep_plan(request, wanted=not other)
        return outcome

    def _next_update(self) -> tuple[UpdateHeader, bytes] | None:
        """The oldest update that can be sent; others are set aside, so that they hold up nothing."""
        while (update := self.outbox.first()) is not None:
            why = check_in.why_not_sent(*update, self._node)
            if not why:
                self.unsent = ""
                return update
            self.outbox.set_aside(update[0].id, why)
            self.unsent = why
        return None

    def _statistics_for(self, request: CheckIn) -> Statistics | None:
        wanted = request.statistics
        if wanted is None or check_in.other_base(request, self._base_digest):
            return None
        return self._statistics(wanted.never_train)

    def _keep_plan(self, request: CheckIn, wanted: bool) -> None:
        if self.plan.sent_at is not None and request.sent_at < self.plan.sent_at:
            logger.info("a check-in sent at {:%H:%M:%S} came late: its plan is not used", request.sent_at)
            return
        previous = self.plan
        self.plan = Plan(
            recipe=request.recipe if wanted else None,
            learning_rate=request.learning_rate,
            buffered=request.buffered,
            stations_awaited=request.statistics.stations if request.statistics and wanted else 0,
            why=previous.why if request.why is None else request.why,
            sent_at=request.sent_at,
            received_at=datetime.now(UTC),
        )
        if _kept(previous) != _kept(self.plan):
            write_atomic(self._path, self.plan.model_dump_json(indent=1))

    def _held(self, running: int | None) -> Held:
        slots = self.inbox.slots
        return Held(
            promoted=slots["promoted"].version if "promoted" in slots else None,
            candidate=slots["candidate"].version if "candidate" in slots else None,
            running=running,
            adapters=self.inbox.held_adapters(),
            tuf=self.inbox.held_metadata(),  # type: ignore[arg-type]
        )

    def _load_plan(self) -> Plan:
        if not self._path.exists():
            return Plan()
        try:
            return Plan.model_validate_json(self._path.read_bytes())
        except (ValidationError, OSError) as error:
            logger.error("{} can't be read; training waits for the next check-in ({})", self._path, error)
            return Plan()


def _kept(plan: Plan) -> tuple[Recipe | None, float, str]:
    """What is worth a write: the rest is as good as new at the next check-in."""
    return plan.recipe, plan.learning_rate, plan.why
