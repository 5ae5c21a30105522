"""Owns the series of rollouts that runs, whatever terminals come and go.

`series` decides; this carries it out with the arm, the versions and the clock. The arm moves only while
a terminal with keys says, several times a second, that somebody is there.
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from loguru import logger

from agent.activity import Claim
from agent.arm import ABANDONED, ArmDesk
from agent.config import AgentConfig
from agent.evaluation.pairs import draw_order
from agent.evaluation.rollouts import RolloutRecord, SeriesPlace
from agent.exchange.inbox import Accepted
from agent.inference import contract
from agent.sessions import series
from agent.sessions.attending import ArmAccount, sentence
from agent.sessions.series import Act, Do, Order, Phase, Plan, Step
from agent.sessions.series_messages import SeriesAnswer, SeriesTold, StartSeries, rollout_told, series_told
from agent.sessions.session_messages import ATTENDED_S
from agent.supervision import Worker
from agent.versions import Versions
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode

BASE = "the base alone"


class SeriesDesk:
    """The series.

    Args:
        config: agent.toml.
        arm: Moves.
        worker: The arm worker, for its account.
        versions: The versions of the fleet; None before one was joined.
        clock: Monotonic, seconds.
        check: Compares what versions want with what is here (`agent.inference.contract.check`).
    """

    def __init__(
        self,
        config: AgentConfig,
        arm: ArmDesk,
        worker: Worker,
        versions: Callable[[], Versions | None],
        clock: Callable[[], float] = time.monotonic,
        check: Callable[..., list[str]] = contract.check,
    ) -> None:
        self._config, self._arm, self._versions = config, arm, versions
        self._clock, self._check = clock, check
        self._account = ArmAccount(arm, worker, clock)
        self._one_by_one = asyncio.Lock()
        self._starting = False
        self._plan: Plan | None = None
        self._wanted: StartSeries | None = None
        self._id, self._seed = "", 0
        self._compared: tuple[Accepted | None, ...] = ()
        self._pose: list[float] | None = None  # where the first rollout began, and so all
        self._claim: Claim | None = None
        self._attended = float("-inf")
        self._tasks: set[asyncio.Task[None]] = set()

    # ------------------------------------------------------------------ what terminals ask

    async def start(self, wanted: StartSeries) -> dict[str, Any]:
        """Check that the policy fits, and take the arm; nothing moves before a key. The answer, as `look`.

        Raises:
            ArmfleetError: a series is there already, the arm can't be taken, a version isn't there, or what
                `agent.inference.contract.check` says.
        """
        if self._starting or (self._plan is not None and self._plan.phase is not Phase.DONE):
            raise ArmfleetError(
                f"a series of rollouts is running: {self._plan.task if self._plan else wanted.task}",
                kept="it",
                do="`armfleet rollout` goes on with it, and its key q ends it",
            )
        self._starting = True
        try:
            compared = self._chosen(wanted)
            folders = [(_name(version), self._folder(version)) for version in compared]
            notes = await asyncio.to_thread(self._check, self._config, folders)
            self._claim = await self._arm.series_start(wanted.task, wanted.evaluation)
        finally:
            self._starting = False
        self._wanted, self._compared, self._pose = wanted, compared, None
        self._id = secrets.token_hex(4)
        self._seed = secrets.randbelow(2**31) if wanted.seed is None else wanted.seed
        paired = wanted.against is not None
        order = draw_order(wanted.rollouts, self._seed) if paired else (0,) * wanted.rollouts
        self._occupy(compared, paired)
        logger.bind(series=self._id).info("a series of {} rollouts: {}", len(order), wanted.task)
        self._attended = self._clock()
        plan = Plan(wanted.task, order, paired, wanted.evaluation, notice=" ".join(notes))
        self._apply(series.begin(plan, self._clock()))
        return await self.look(keys=True)

    def act(self, act: Act) -> dict[str, Any]:
        """Press a key; what follows from it may take a while and shows in `look`.

        Raises:
            ArmfleetError: there is no series.
        """
        if self._plan is None:
            raise ArmfleetError("no series is running", do='start one: armfleet rollout --task "…"')
        self._attended = self._clock()
        self._apply(series.press(self._plan, act, self._clock()))
        return {"phase": self._plan.phase.value}

    async def look(self, keys: bool = False) -> dict[str, Any]:
        """All that a terminal draws; `keys`: it has keys, so that somebody is there."""
        if keys:
            self._attended = self._clock()
        self._see_the_end()
        arm = await self._account.ask()
        answer = SeriesAnswer(
            node=self._config.node.name,
            series=self._series_told(),
            arm=arm,
            rollout=rollout_told(self._account.latest),
        )
        return answer.model_dump(mode="json")

    def status(self) -> dict[str, Any] | None:
        """For `/status` of the agent; None unless a series runs."""
        plan = self._plan
        if plan is None or plan.phase is Phase.DONE:
            return None
        return {
            "task": plan.task,
            "phase": plan.phase.value,
            "done": len(plan.results),
            "wanted": len(plan.order),
            "attended": self._attended_for(ATTENDED_S),
        }

    # ------------------------------------------------------------------ what happens by itself

    def tick(self) -> None:
        """Notice what happened to the rollout and to the operator; returns at once. Called twice a second."""
        self._see_the_end()
        if self._plan is not None and self._plan.phase is not Phase.DONE:
            assert self._config.arm is not None
            abandoned = not self._attended_for(ABANDONED * self._config.arm.rest_s)
            step = series.tick(self._plan, self._clock(), self._attended_for(ATTENDED_S), abandoned)
            self._apply(step)

    def _attended_for(self, seconds: float) -> bool:
        return self._clock() - self._attended < seconds

    def _see_the_end(self) -> None:
        """The rollout may be over, by itself or as asked: its record says how."""
        plan = self._plan
        if plan is None or plan.phase not in (Phase.RUNNING, Phase.STOPPING):
            return
        if plan.rollout is None or self._arm.rollout == plan.rollout:
            return
        record = self._arm.rollouts.record(plan.rollout)
        if record is None:
            self._apply(series.lost(plan, "nothing of the rollout could be written", self._clock()))
        elif self._ran_another(plan, record):
            why = "the policy executed another version than it should have: the rollout does not count"
            self._apply(series.over(replace(plan, redo=True), record.reason, self._clock(), why))
        else:
            self._apply(series.over(plan, record.reason, self._clock(), record.shown.why))

    def _ran_another(self, plan: Plan, record: RolloutRecord) -> bool:
        """By the digest of the live tensors, which came with each chunk."""
        version = self._compared[plan.order[plan.place]]
        expected = version.tensors_digest if version else None
        return record.figures.chunks > 0 and record.digest != expected

    # ------------------------------------------------------------------ carrying out

    def _apply(self, step: Step) -> None:
        before, self._plan = self._plan, step.plan
        if before is None or before.phase is not step.plan.phase:
            done, wanted = len(step.plan.results), len(step.plan.order)
            logger.bind(series=self._id).info("series: {}, {} of {} done", step.plan.phase, done, wanted)
        if step.orders:
            task = asyncio.get_running_loop().create_task(self._carry_out(step.orders), name="series")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry_out(self, orders: tuple[Order, ...]) -> None:
        """Each ends with a report to the plan, whatever happens; a stop waits for nothing."""
        ways: dict[Do, Callable[[Order], Awaitable[Step]]] = {
            Do.PREPARE: self._prepare,
            Do.START: self._start,
            Do.TAKE_OVER: self._take_over,
            Do.HAND_BACK: self._hand_back,
            Do.LOWER: self._lower,
            Do.LABEL: self._label,
            Do.DISCARD: self._discard,
            Do.END: self._end,
        }
        for order in orders:
            if order.do is Do.STOP:
                await self._stop(order.reason)
                continue
            async with self._one_by_one:
                self._apply(await ways[order.do](order))

    async def _prepare(self, order: Order) -> Step:
        why_not = await self._swap(anew=self._now().paired)
        return series.prepared(self._now(), why_not, self._clock())

    async def _swap(self, anew: bool = False) -> str:
        """Have the policy execute what comes next; why it does not. A comparison's secret stays one."""
        plan, versions = self._now(), self._versions()
        version = self._compared[plan.order[plan.place]]
        if versions is None or version is None:
            return ""
        why = await sentence(versions.use(version, anew))
        if why and plan.paired:
            logger.error("{}", why)
            return "the policy could not be made ready for the next rollout; the agent's journal says why"
        return why

    async def _start(self, order: Order) -> Step:
        plan, answer = self._now(), dict[str, Any]()

        async def take() -> None:
            if self._arm.claim is not self._claim:  # the arm worker died meanwhile
                assert self._wanted is not None
                self._claim = await self._arm.series_start(plan.task, self._wanted.evaluation)

        async def roll_out() -> None:
            place = SeriesPlace(series=self._id, place=plan.place, seed=self._seed, paired=plan.paired)
            answer.update(await self._arm.series_rollout(self._pose, self._limit_s(), place))

        why = await sentence(take()) or await self._swap()
        if not why and self._now().stop:
            why = "it was stopped before it began: nothing moved"
        if not why and not self._attended_for(ATTENDED_S):
            why = "no terminal with keys was there: nothing was started"
        why = why or await sentence(roll_out())
        if why:
            return series.not_started(self._now(), why, self._clock())
        self._pose = self._pose or answer["pose"]
        return series.started(self._now(), str(answer["rollout"]), self._clock())

    async def _stop(self, reason: str) -> None:
        """Hold at once; a worker that does not obey is killed, and its death lets the arm go."""
        why = await sentence(self._arm.rollout_stop(reason))
        if why and self._arm.rollout is not None:
            logger.error("the rollout could not be stopped: {}", why)
            await sentence(self._arm.hold())

    async def _take_over(self, order: Order) -> Step:
        why = await sentence(self._arm.takeovers.take_over())
        return series.changed_hands(self._now(), order.rollout, why, self._clock())

    async def _hand_back(self, order: Order) -> Step:
        why = await sentence(self._arm.takeovers.hand_back())
        return series.changed_hands(self._now(), order.rollout, why, self._clock())

    async def _lower(self, order: Order) -> Step:
        answer = dict[str, Any]()

        async def work() -> None:
            answer.update(await self._arm.lower())

        why_not = await sentence(work())
        if answer.get("torque"):
            why_not = "the arm was told to hold on its way down, and holds"
        return series.lowered(self._now(), why_not)

    async def _label(self, order: Order) -> Step:
        async def work() -> None:
            self._arm.rollouts.label(order.rollout, order.success)

        why = await sentence(work())
        if why:
            return series.not_labelled(self._now(), why, self._clock())
        return series.labelled(self._now(), order.success, self._clock())

    async def _discard(self, order: Order) -> Step:
        async def work() -> None:
            self._arm.rollouts.discard(order.rollout)

        why = await sentence(work())
        if why:
            return series.not_discarded(self._now(), why, self._clock())
        return series.discarded(self._now(), self._clock())

    async def _end(self, order: Order) -> Step:
        async def show() -> None:
            self._occupy((), False)
            if self._now().paired:
                self._arm.rollouts.unblind()

        if self._claim is not None and self._arm.claim is self._claim:
            self._arm.rollouts_end()
        self._claim = None
        why = await sentence(show())
        return series.ended(self._now(), why or self._now().notice, self._clock())

    def _occupy(self, needed: tuple[Accepted | None, ...], blinded: bool) -> None:
        """Which versions must stay on the disk, and whether which one runs is for nobody's eyes."""
        if versions := self._versions():
            versions.needed, versions.blinded = needed, blinded

    def _now(self) -> Plan:
        assert self._plan is not None
        return self._plan

    # ------------------------------------------------------------------ versions

    def _chosen(self, wanted: StartSeries) -> tuple[Accepted | None, ...]:
        versions = self._versions()
        if versions is None and (wanted.version, wanted.against) != ("promoted", None):
            raise ArmfleetError(
                "this workstation has joined no fleet: there is the base alone",
                do="get a join bundle from the fleet's operator and run `armfleet join BUNDLE`",
                code=ExitCode.NOT_ENROLLED,
            )
        if versions is None:
            return (None,)
        if wanted.against is None:
            first = versions.promoted if wanted.version == "promoted" else versions.named(wanted.version)
            return (first,)
        first, second = versions.named(wanted.version), versions.named(wanted.against)
        if first.tensors_digest == second.tensors_digest:
            both = f"{wanted.version} and {wanted.against}"
            raise ArmfleetError(f"{both} are the same here: {_name(first)}", do="nothing is to be compared")
        return first, second

    def _folder(self, version: Accepted | None) -> Path | None:
        versions = self._versions()
        return versions.folder(version) if versions and version else None

    def _limit_s(self) -> float:
        longest = self._config.inference.max_s
        return min((self._wanted.max_s if self._wanted else None) or longest, longest)

    # ------------------------------------------------------------------ telling

    def _series_told(self) -> SeriesTold | None:
        if self._plan is None:
            return None
        names = [_name(version) for version in self._compared]
        return series_told(
            self._plan, self._id, names, self._seed, self._limit_s(), self._arm.takeovers, self._clock()
        )


def _name(version: Accepted | None) -> str:
    return BASE if version is None else f"version {version.version}"
