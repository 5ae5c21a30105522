"""Owns the session of recording that runs, whatever terminals come and go.

`session` decides; this carries it out with the arm, the store and the clock. What takes time is done in
tasks of its own: a key is answered at once, and the agent's tick never waits.
"""

import asyncio
import dataclasses
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

from loguru import logger

from agent.activity import Claim
from agent.arm import ArmDesk
from agent.config import AgentConfig
from agent.episodes.desk import Change
from agent.judging import Judging
from agent.room import NEWEST, Space
from agent.sessions import session
from agent.sessions.attending import ArmAccount, sentence
from agent.sessions.session import Act, Do, Order, Phase, Plan, Step
from agent.sessions.session_messages import (
    ATTENDED_S,
    Answer,
    EpisodeTold,
    GateTold,
    SessionTold,
    SpaceTold,
    StartRecording,
    episode_told,
)
from agent.state import Index
from agent.supervision import Worker
from shared.errors import ArmfleetError

READ_S = 1.0
"""What the index says of the episodes is shared by all terminals for so long."""


class SessionDesk:
    """The session.

    Args:
        config: agent.toml.
        arm: Moves and records.
        worker: The arm worker, for its account.
        index: Of the episodes.
        judging: The gate's queue.
        change: Labels and deletes episodes (`agent.episodes.desk.EpisodeDesk.change`).
        clock: Monotonic, seconds.
    """

    def __init__(
        self,
        config: AgentConfig,
        arm: ArmDesk,
        worker: Worker,
        index: Index,
        judging: Judging,
        change: Callable[[Change], Awaitable[dict[str, Any]]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config, self._arm = config, arm
        self._index, self._judging, self._change, self._clock = index, judging, change, clock
        self._space = Space(config)
        self._starting = False
        self._plan: Plan | None = None
        self._id = ""
        self._claim: Claim | None = None  # ours on the arm; another one means that ours has ended
        self._attended = float("-inf")
        self._tasks: set[asyncio.Task[None]] = set()
        self._account = ArmAccount(arm, worker, clock)
        self._read_at = float("-inf")
        self._told: list[EpisodeTold] = []

    # ------------------------------------------------------------------ what terminals ask

    async def start(self, wanted: StartRecording) -> dict[str, Any]:
        """Take the arm and wait for the first key; returns when the follower follows. The answer, as `look`.

        Raises:
            ArmfleetError: a session is there already, or the arm can't be taken.
        """
        if self._starting or (self._plan is not None and self._plan.phase is not Phase.DONE):
            raise ArmfleetError(
                f"a session is running: {self._plan.task if self._plan else wanted.task}",
                kept="it",
                do="`armfleet record` goes on with it, and its key q ends it",
            )
        self._starting = True
        try:
            await self._follow(wanted.task)
        finally:
            self._starting = False
        self._id, self._read_at = secrets.token_hex(4), float("-inf")
        plan = Plan(wanted.task, wanted.episodes, wanted.reset_s, wanted.max_s, since=self._clock())
        self._apply(Step(plan))
        logger.info("a session of {} episodes: {}", wanted.episodes, wanted.task)
        await self._measure([row["id"] for row in self._index.episodes()[-NEWEST:]])
        return await self.look(keys=True)

    def act(self, act: Act) -> dict[str, Any]:
        """Press a key; what follows from it may take a while and shows in `look`.

        Raises:
            ArmfleetError: there is no session.
        """
        if self._plan is None:
            raise ArmfleetError("no session is running", do='start one: armfleet record --task "…"')
        self._attended = self._clock()
        self._apply(session.press(self._plan, act, self._clock()))
        return {"phase": self._plan.phase.value}

    async def look(self, keys: bool = False) -> dict[str, Any]:
        """All that a terminal draws; `keys`: it has keys, so that somebody is there."""
        if keys:
            self._attended = self._clock()
        arm = await self._account.ask()
        answer = Answer(
            node=self._config.node.name,
            session=self._session_told(),
            arm=arm,
            space=SpaceTold(
                minutes=self._space.minutes(),
                bytes_per_s=self._space.bytes_per_s,
                measured=self._space.measured,
            ),
            episodes=self._episodes_told(),
            gate=GateTold(waiting=self._judging.waiting, fault=self._judging.fault),
        )
        return answer.model_dump(mode="json")

    def status(self) -> dict[str, Any] | None:
        """For `/status` of the agent; None unless a session runs."""
        plan = self._plan
        if plan is None or plan.phase is Phase.DONE:
            return None
        return {
            "task": plan.task,
            "phase": plan.phase.value,
            "kept": len(plan.kept),
            "wanted": plan.wanted,
            "attended": self._attended_now(),
        }

    # ------------------------------------------------------------------ what happens by itself

    def tick(self) -> None:
        """Notice what happened to the arm and what time it is; returns at once. Called twice a second."""
        plan, now = self._plan, self._clock()
        if plan is None or plan.phase in session.BUSY or plan.phase is Phase.DONE:
            return
        if plan.phase is not Phase.INTERRUPTED and self._arm.claim is not self._claim:
            why = self._arm.fault or "The arm was made to hold, was let go, or its process ended."
            self._apply(session.interrupted(plan, why, now))
        elif plan.phase is Phase.RECORDING and self._arm.episode != plan.episode:
            if not self._arm.saving:  # by somebody else, through the plain routes
                self._apply(self._outcome("it was ended by another command"))
        else:
            self._apply(session.tick(plan, now, self._attended_now(), self._full(plan)))

    def _full(self, plan: Plan) -> bool:
        recording = self._arm.status()["hardware"].get("recording") or {}
        return recording.get("episode_id") == plan.episode and bool(recording.get("full"))

    def _attended_now(self) -> bool:
        return self._clock() - self._attended < ATTENDED_S

    # ------------------------------------------------------------------ carrying out

    def _apply(self, step: Step) -> None:
        before, self._plan = self._plan, step.plan
        if before is None or before.phase is not step.plan.phase:
            logger.info("session: {}, {} of {} kept", step.plan.phase, len(step.plan.kept), step.plan.wanted)
        if step.orders:
            task = asyncio.get_running_loop().create_task(self._carry_out(step.orders), name="session")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry_out(self, orders: tuple[Order, ...]) -> None:
        """One after the other; each ends with a report to the plan, whatever happens."""
        ways: dict[Do, Callable[[Order], Awaitable[Step | None]]] = {
            Do.RECORD: self._record,
            Do.SAVE: self._save,
            Do.DROP: self._drop,
            Do.TAKE_BACK: self._take_back,
            Do.LABEL: self._label,
            Do.FOLLOW: self._come_back,
            Do.END: self._end,
        }
        for order in orders:
            step = await ways[order.do](order)
            if step is not None:
                self._apply(step)

    async def _record(self, order: Order) -> Step:
        plan = self._now()
        answer: dict[str, Any] = {}

        async def work() -> None:
            answer.update(await self._arm.episode_start(plan.task, plan.length_s or float("inf")))

        why = await sentence(work())
        if why:
            return session.not_started(self._now(), why, self._clock())
        return session.started(self._now(), str(answer["episode"]), self._clock())

    async def _save(self, order: Order) -> Step:
        episode = self._now().episode or ""
        why = await sentence(self._arm.episode_stop(keep=True))
        await self._measure([episode])
        return self._outcome(why)

    def _outcome(self, why: str) -> Step:
        """What became of the plan's episode: its folder is the truth, also when an answer was lost."""
        plan = self._now()
        self._read_at = float("-inf")
        if plan.episode and (self._config.episodes_dir / plan.episode).is_dir():
            return session.saved(plan, self._clock())
        return session.not_saved(plan, why, self._clock())

    async def _drop(self, order: Order) -> Step:
        why = await sentence(self._arm.episode_stop(keep=False))
        if why:  # it is no more all the same: the arm worker had lost it, or died
            logger.warning("discarding episode {}: {}", self._now().episode, why)
        return session.dropped(self._now(), self._clock())

    async def _take_back(self, order: Order) -> Step:
        why = await self._changed(Change(op="delete", episodes=[order.episode]))
        self._read_at = float("-inf")
        if why:
            return session.not_taken_back(self._now(), why, self._clock())
        return session.taken_back(self._now(), order.episode, self._clock())

    async def _label(self, order: Order) -> None:
        why = await self._changed(Change(op="label", episodes=[order.episode], label=order.label))
        self._read_at = float("-inf")
        if why:
            self._plan = dataclasses.replace(self._now(), notice=why)

    async def _changed(self, wanted: Change) -> str:
        """Why it was refused; empty if it was done."""
        refused: dict[str, str] = {}

        async def work() -> None:
            refused.update((await self._change(wanted))["refused"])

        return await sentence(work()) or " ".join(refused.values())

    async def _come_back(self, order: Order) -> Step:
        why = await sentence(self._follow(self._now().task))
        if why:
            return session.not_followed(self._now(), why, self._clock())
        return session.followed(self._now(), self._clock())

    async def _end(self, order: Order) -> Step:
        why = ""
        if self._claim is not None and self._arm.claim is self._claim:
            why = await sentence(self._arm.session_stop())
        self._claim = None
        return session.ended(self._now(), why, self._clock())

    async def _follow(self, task: str) -> None:
        await self._arm.session_start(task)
        self._claim = self._arm.claim

    async def _measure(self, episodes: list[str]) -> None:
        rows = [row for row in self._index.episodes_named(episodes) if row.get("origin") is None]
        for row in rows:
            if row.get("fps"):
                await asyncio.to_thread(self._space.note, row["id"], row["frames"] / row["fps"])

    def _now(self) -> Plan:
        assert self._plan is not None
        return self._plan

    # ------------------------------------------------------------------ telling

    def _session_told(self) -> SessionTold | None:
        plan, now = self._plan, self._clock()
        if plan is None:
            return None
        longest = self._config.recording.max_s
        return SessionTold(
            id=self._id,
            task=plan.task,
            wanted=plan.wanted,
            phase=plan.phase,
            kept=list(plan.kept),
            discarded=plan.discarded,
            lost=plan.lost,
            episode=plan.episode,
            label=plan.label,
            elapsed_s=round(now - plan.since, 2),
            limit_s=min(plan.length_s or longest, longest),
            reset_s=plan.reset_s,
            left_s=plan.left_s(now),
            pausing=plan.pausing,
            notice=plan.notice,
        )

    def _episodes_told(self) -> list[EpisodeTold]:
        if self._plan is not None and self._clock() - self._read_at >= READ_S:
            self._read_at = self._clock()
            rows = self._index.episodes_named(self._plan.kept)
            self._told = [told for told in map(episode_told, rows) if told is not None]
        return self._told
