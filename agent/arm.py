"""What operators may ask of the arm: sessions, episodes, rollouts, hold and release. Owns the arm worker.

One claim at a time: `record` from session start to session stop, `rollout` (or `evaluate`) until the
rollout is done. A claim stops training before the arm moves. When the arm worker dies, whatever ran is
over, and the agent itself makes the arm hold and then lets go of it, before the worker is started again.
"""

import asyncio
import os
import signal
import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

from loguru import logger

from agent.activity import Activity, Claim, may_claim
from agent.config import AgentConfig
from agent.episodes.record import now
from agent.evaluation.rollouts import RolloutRecord
from agent.heartbeat import Heartbeat, hangs
from agent.judging import Judging
from agent.robot.release import release
from agent.room import check_disk, next_episode
from agent.state import Index
from agent.supervision import Worker
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode

ALIGN_S = 30.0
"""Longest time for the follower to reach the leader's pose slowly."""
FIRST_FRAME_S = 10.0
SAVE_S = 90.0
"""Longest time to save an episode: the encoders finish their queues."""
STOP_S = 2.0
"""Longest wait for an answer to hold or release before the arm worker counts as hung."""
RELEASE_S = 2.5
"""Bound of agent.robot.release, which promises two seconds."""
FINISH_S = 60.0
"""Longest wait of an ending agent for an episode that is being saved; below the unit's TimeoutStopSec=."""
ABANDONED = 10.0
"""A session for which nothing was asked during so many times `rest_s` is over: its operator went away."""
LOOK_S = 60.0
"""Pause between looks for episodes saved without an answer, and before a refused rest is tried anew."""

TELEOPERATION = "teleoperation"
"""Name of the arm worker's activity during a session (agent.robot.teleop)."""

type Preempt = Callable[[str], Awaitable[None]]


class ArmDesk:
    """The arm, as operators see it.

    Args:
        config: Of the agent; `config.arm` is set.
        worker: The arm worker; its events and its death are handed to `on_event` and `on_death`.
        index: Episodes and rollouts.
        judging: The gate's queue.
        preempt: Stops training now; awaited with the reason.
        running_version: Version that the policy executes.
        rollout_allowed: Raises ArmfleetError if the policy can't be used now.
        after_rollout: Awaited after each rollout (a version may wait for its swap).
        release: Holds and releases the arm at a port without the worker.
    """

    def __init__(
        self,
        config: AgentConfig,
        worker: Worker,
        index: Index,
        judging: Judging,
        preempt: Preempt,
        running_version: Callable[[], int | None],
        rollout_allowed: Callable[[], None],
        after_rollout: Callable[[], Awaitable[None]],
        release: Callable[[str], None] = release,
    ) -> None:
        assert config.arm is not None
        self._config, self._port = config, config.arm.follower_port
        self._worker, self._index, self._judging = worker, index, judging
        self._heartbeat = Heartbeat(worker)
        self._preempt, self._running_version = preempt, running_version
        self._rollout_allowed, self._after_rollout = rollout_allowed, after_rollout
        self._release = release
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Future[None]] = set()
        self.saving = False  # an episode that is kept
        self._look_at = self._rest_at = 0.0
        self._at_rest = True  # limp, or held because an operator asked for it
        self.claim: Claim | None = None
        self.episode: str | None = None
        self.rollout: str | None = None
        self._current: dict[str, Any] = {}
        self.last_used = time.monotonic()
        self.fault = ""
        """What keeps the arm from being used (a cable, a camera); empty if nothing does."""
        self._fault_code = ExitCode.OK
        self.torque_fault = ""
        """Why torque could not be switched off after the arm worker's death; empty if it could."""

    @property
    def rolling_out(self) -> bool:
        """The policy must not change now; true from the claim on, before the rollout has its id."""
        return self.claim is not None and self.claim.activity is not Activity.RECORD

    async def session_start(self, task: str) -> dict[str, Any]:
        """Take the arm for recording; the follower follows the leader from now on."""
        async with self._lock:
            await self._take(Activity.RECORD, task)
            try:
                answer = await self._worker.request("teleop_start", ALIGN_S)
            except ArmfleetError:
                self._give_back()
                raise
            return {"session": task, **answer}

    async def session_stop(self) -> dict[str, Any]:
        """End teleoperation and let the agent train again."""
        async with self._lock:
            if self.claim is None or self.claim.activity is not Activity.RECORD:
                raise ArmfleetError("no session is running", do="start one with a task")
            if self.episode is not None:
                raise ArmfleetError(
                    f"episode {self.episode} is being recorded", do="end it first, keeping it or not"
                )
            answer = await self._worker.request("teleop_stop", SAVE_S)
            self._give_back()
            return answer

    async def episode_start(self, task: str, max_s: float = float("inf")) -> dict[str, Any]:
        """Begin to record an episode in the running session; `max_s` can shorten [recording] max_s."""
        async with self._lock:
            if self.claim is None or self.claim.activity is not Activity.RECORD:
                raise ArmfleetError("no session is running", do="start a session first")
            if self.episode is not None:
                raise ArmfleetError(f"episode {self.episode} is being recorded", do="end it first")
            check_disk(self._config.episodes_dir, self._config.recording.min_free_mb)
            episode_id = next_episode(self._config.episodes_dir)
            self.episode = episode_id
            self.last_used = time.monotonic()
            try:
                answer = await self._worker.request(
                    "record_start",
                    FIRST_FRAME_S,
                    episode_id=episode_id,
                    task=task,
                    max_s=min(max_s, self._config.recording.max_s),
                )
            except ArmfleetError:
                self.episode = None
                raise
            logger.bind(episode=episode_id).info("recording episode {}: {}", episode_id, task)
            return {"episode": episode_id, **answer}

    async def episode_stop(self, keep: bool) -> dict[str, Any]:
        """End the episode; one that is kept goes to the gate."""
        async with self._lock:
            if self.episode is None:
                raise ArmfleetError("no episode is being recorded")
            episode_id, self.episode = self.episode, None
            self.last_used = time.monotonic()
            self.saving = keep
            try:
                answer = await self._worker.request("record_stop", SAVE_S, keep=keep)
            except ArmfleetError:
                self._adopt()  # it may have got its name before the answer was lost
                raise
            finally:
                self.saving = False
            if keep and answer.get("kept", True):
                self._saved(episode_id)
            return {"episode": episode_id, **answer}

    async def rollout_start(
        self, task: str, start_pose: list[float] | None, max_s: float | None, evaluation: bool
    ) -> dict[str, Any]:
        """Let the policy attempt `task`; returns at once, `rollout_done` ends it."""
        async with self._lock:
            self._rollout_allowed()
            await self._take(Activity.EVALUATE if evaluation else Activity.ROLLOUT, task)
            rollout_id = f"{datetime.now():%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"
            self.rollout, version = rollout_id, self._running_version()
            self._current = {"task": task, "version": version, "success": None}
            try:
                self._rollout_allowed()  # meanwhile training was stopped
                await self._worker.request(
                    "rollout_start",
                    FIRST_FRAME_S,
                    rollout_id=rollout_id,
                    task=task,
                    start_pose=start_pose,
                    max_s=min(max_s or self._config.inference.max_s, self._config.inference.max_s),
                    version=version,
                )
            except ArmfleetError:
                self.rollout = None
                self._give_back()
                raise
            logger.bind(rollout=rollout_id, version=version).info("rollout: {}", task)
            return {"rollout": rollout_id, "version": version}

    async def rollout_stop(self) -> dict[str, Any]:
        """End the running rollout; the arm holds."""
        if self.rollout is None:
            raise ArmfleetError("no rollout is running")
        return await self._worker.request("rollout_stop", STOP_S, reason="operator")

    def rollout_result(self, rollout_id: str) -> dict[str, Any]:
        """One rollout; `state` is running or done."""
        if rollout_id == self.rollout:
            return {"id": rollout_id, "state": "running", **self._current}
        found = self._index.rollout(rollout_id)
        if found is None:
            raise ArmfleetError(f"there is no rollout {rollout_id}")
        return {**found, "state": "done"}

    def label(self, rollout_id: str, success: bool) -> dict[str, Any]:
        """Keep the operator's verdict on a finished rollout."""
        if rollout_id == self.rollout:
            raise ArmfleetError("the rollout is still running", do="label it when it is done")
        self.rollout_result(rollout_id)
        self._index.label_rollout(rollout_id, success)
        return self.rollout_result(rollout_id)

    async def hold(self) -> dict[str, Any]:
        """Stop all motion; torque stays on until the arm is used or released. Raises a worker's refusal."""
        self.last_used = time.monotonic()
        answer = await self._at_once("hold")
        self._at_rest = True
        return answer

    async def release(self) -> dict[str, Any]:
        """Switch torque off, with the worker or, if it doesn't answer, without it. Raises as `hold`."""
        self.last_used = time.monotonic()
        answer = await self._at_once("release")
        self._at_rest = True
        return answer

    async def rest(self) -> None:
        """Let go of an arm that nobody has used for `rest_s`, also in an abandoned session (which ends), and
        look for saved episodes that nobody heard of, and whether the worker hangs. Called every tick.
        """
        assert self._config.arm is not None
        self._heartbeat.tick()
        now_s = time.monotonic()
        if now_s > self._look_at and not self._lock.locked():
            self._look_at = now_s + LOOK_S
            self._adopt()
        idle_s, limit_s = now_s - self.last_used, self._config.arm.rest_s
        limit_s *= ABANDONED if self.claim is not None else 1
        if self._at_rest or self.rolling_out or idle_s < limit_s or now_s < self._rest_at:
            return
        if not self._heartbeat.reaches(self._fault_code) or self._worker.state != "ready":
            return
        try:
            await self._at_once("release")  # nobody used the arm: the training window stays open
        except ArmfleetError as error:
            self._rest_at = now_s + LOOK_S
            logger.error("the arm can't be let go: {}", error)
            return
        self._at_rest = True
        logger.info("the arm rests: nobody used it for {:.0f} s", idle_s)

    async def _at_once(self, op: str) -> dict[str, Any]:
        """Hold or release, without a claim. A worker that hangs is killed; one that refuses raises."""
        try:
            answer = await self._worker.request(op, STOP_S)
        except ArmfleetError as error:
            if self._worker.pid is None:
                await self._let_go()
                return {"done": "release", "by": "the agent"}
            if self._worker.state == "ready" and not hangs(error):
                raise
            logger.error("the arm worker did not {} and is killed: {}", op, error)
            os.kill(self._worker.pid, signal.SIGKILL)  # its death makes the agent release the arm
            return {"done": "release", "by": "the agent, after the arm worker was killed"}
        return {"done": op, "by": "the arm worker", **answer}

    def on_event(self, name: str, fields: dict[str, Any]) -> None:
        """Events of the arm worker."""
        if name == "rollout_done":
            self._rollout_done(fields)
        elif name in ("ready", "fault"):
            error = fields.get("fault" if name == "ready" else "error")
            self._note_fault(ArmfleetError.from_dict(error) if error else None)
        elif name == "fault_cleared":
            self._note_fault(None)
        elif name == "warnings":
            self._heartbeat.warnings = list(fields.get("warnings", []))
        elif name == "episode_lost":
            why = ArmfleetError.from_dict(fields["error"]) if fields.get("error") else fields.get("reason")
            logger.bind(episode=self.episode).error("episode {} was lost: {}", self.episode, why)
            self.episode = None
        elif name == "activity_ended" and fields.get("activity") == TELEOPERATION:
            self.episode = None  # stopped, or ended by hold, by release, or by a fault
            if self.claim is not None and self.claim.activity is Activity.RECORD:
                self._give_back()

    def _note_fault(self, error: ArmfleetError | None) -> None:
        self.fault, self._fault_code = (str(error), error.code) if error else ("", ExitCode.OK)

    async def on_death(self, why: str) -> None:
        """The arm worker died: the arm must not stay under torque, and nothing runs any more."""
        try:
            await self._let_go()
        finally:
            lost, self.rollout, episode, self.episode = self.rollout, None, self.episode, None
            self._give_back()
        if episode is not None:
            logger.bind(episode=episode).error("episode {} was lost: the arm worker {}", episode, why)
        if lost is not None:
            self._note_lost_rollout(lost, why)
        self._adopt()

    async def finish(self) -> None:
        """For the end of the agent: an episode that is being saved gets its name, and is judged next time."""
        if not self.saving:
            return
        try:
            async with asyncio.timeout(FINISH_S), self._lock:
                logger.info("the last episode is saved")
        except TimeoutError:
            logger.error("the episode being saved was not finished within {:g} s", FINISH_S)

    def _note_lost_rollout(self, rollout_id: str, why: str) -> None:
        known = {key: self._current[key] for key in ("task", "version")}
        reason = f"the arm worker {why}"
        self._index.note_lost_rollout(
            RolloutRecord(id=rollout_id, digest=None, created=now(), reason=reason, **known)
        )

    async def _let_go(self) -> None:
        try:
            async with asyncio.timeout(RELEASE_S):
                await asyncio.to_thread(self._release, self._port)
        except ArmfleetError as error:
            self.torque_fault = str(error)
        except TimeoutError:
            self.torque_fault = f"{self._port} did not answer within {RELEASE_S} s"
        else:
            self.torque_fault = ""
            logger.info("the arm was held and released by the agent")
            return
        logger.critical("torque may still be on: {}", self.torque_fault)

    async def _take(self, activity: Activity, task: str) -> None:
        may_claim(self.claim, activity)
        if self._worker.state != "ready":
            raise ArmfleetError(
                f"the arm worker is {self._worker.state}: {self._worker.reason}", do="try again shortly"
            )
        self.claim = Claim(activity, task, datetime.now())
        self._at_rest = False
        self.last_used = time.monotonic()
        await self._preempt(f"the operator asked for {activity}")

    def _give_back(self) -> None:
        self.claim, self.last_used = None, time.monotonic()

    def _saved(self, episode_id: str) -> None:
        self._index.refresh_episode(episode_id)
        self._judging.add(episode_id)

    def _adopt(self) -> None:
        """Hand on the episodes that were saved although nobody heard so: the answer was late, or lost."""
        for episode_id in self._index.unknown_episodes():
            logger.bind(episode=episode_id).info("episode {} was saved after all", episode_id)
            self._saved(episode_id)

    def _rollout_done(self, fields: dict[str, Any]) -> None:
        rollout_id = str(fields.get("rollout_id"))
        if rollout_id != self.rollout:
            logger.warning("the end of a rollout that is not running was reported: {}", rollout_id)
            return
        self.rollout = None
        self._give_back()
        logger.bind(rollout=rollout_id).info("the rollout is over: {}", fields.get("reason", ""))
        try:
            self._index.refresh_rollout(rollout_id)
        except ArmfleetError as error:
            logger.bind(rollout=rollout_id).error("{}", error)
        task = asyncio.ensure_future(self._after_rollout())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def status(self) -> dict[str, Any]:
        """For `/status`."""
        return {
            "episode": self.episode,
            "rollout": self.rollout,
            "unused_s": round(time.monotonic() - self.last_used, 1),
            "fault": self.fault,
            "torque_fault": self.torque_fault,
            **self._heartbeat.status(),
        }
