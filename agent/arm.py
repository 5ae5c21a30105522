"""What operators may ask of the arm: sessions, episodes, rollouts, hold and release. Owns the arm worker.

One claim at a time: `record` from session start to stop, `rollout` (or `evaluate`) until the rollout, or the
series of them, is done. A claim stops training before the arm moves. When the arm worker dies, whatever ran
is over, and the agent itself makes the arm hold and then lets go of it, before the worker is started again.
"""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

from loguru import logger

from agent.activity import Activity, Claim, may_claim
from agent.config import AgentConfig
from agent.evaluation.rollout_book import RolloutBook
from agent.evaluation.rollouts import SeriesPlace
from agent.heartbeat import Heartbeat, hangs
from agent.intake import Intake
from agent.judging import Judging
from agent.robot.release import release
from agent.room import check_disk, next_episode
from agent.state import Index
from agent.supervision import Worker
from agent.takeovers import Takeovers
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode

ALIGN_S = 30.0
"""Longest time for the follower to reach the leader's pose slowly."""
FIRST_FRAME_S = 10.0
SAVE_S = 90.0
"""Longest time to save an episode: the encoders finish their queues."""
STOP_S = 2.0
"""Longest wait for an answer to hold or release before the arm worker counts as hung."""
LOWER_S = 20.0
"""Longest wait for the arm to lie: a rollout's video is written first (10 s), the way down takes 6 s."""
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
        self._worker, self._intake = worker, Intake(index, judging)
        self._heartbeat = Heartbeat(worker)
        self._preempt, self._running_version = preempt, running_version
        self._rollout_allowed, self._after_rollout = rollout_allowed, after_rollout
        self._release = release
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Future[None]] = set()
        self.saving, self._look_at, self._rest_at = False, 0.0, 0.0  # saving: an episode that is kept
        self._at_rest = True  # limp, or held because an operator asked for it
        self.claim: Claim | None = None
        self.episode: str | None = None
        self.rollouts = RolloutBook(index)
        self.takeovers = Takeovers(config, worker, self.rollouts, self._intake)
        self.last_used = time.monotonic()
        self.fault = ""
        """What keeps the arm from being used (a cable, a camera); empty if nothing does."""
        self._fault_code = ExitCode.OK
        self.torque_fault = ""
        """Why torque could not be switched off after the arm worker's death; empty if it could."""

    @property
    def rollout(self) -> str | None:
        """Id of the rollout that runs."""
        return self.rollouts.running.rollout_id if self.rollouts.running else None

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
            self.episode, self.last_used = episode_id, time.monotonic()
            max_s = min(max_s, self._config.recording.max_s)
            try:
                answer = await self._worker.request(
                    "record_start", FIRST_FRAME_S, episode_id=episode_id, task=task, max_s=max_s
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
                self._intake.adopt()  # it may have got its name before the answer was lost
                raise
            finally:
                self.saving = False
            if keep and answer.get("kept", True):
                self._intake.saved(episode_id)
            return {"episode": episode_id, **answer}

    async def rollout_start(
        self, task: str, start_pose: list[float] | None, max_s: float | None, evaluation: bool
    ) -> dict[str, Any]:
        """Let the policy attempt `task`; returns at once, `rollout_done` ends it."""
        async with self._lock:
            self._rollout_allowed()
            await self._take(Activity.EVALUATE if evaluation else Activity.ROLLOUT, task)
            try:
                self._rollout_allowed()  # meanwhile training was stopped
                return await self._roll_out(task, start_pose, max_s)
            except ArmfleetError:
                self._give_back()
                raise

    async def series_start(self, task: str, evaluation: bool) -> Claim:
        """Take the arm for several rollouts; nothing moves yet."""
        async with self._lock:
            self.takeovers.forget()
            return await self._take(Activity.EVALUATE if evaluation else Activity.ROLLOUT, task, series=True)

    async def series_rollout(
        self, start_pose: list[float] | None, max_s: float | None, place: SeriesPlace
    ) -> dict[str, Any]:
        """As `rollout_start`, within a series; the answer has the pose in which the arm stood, too."""
        async with self._lock:
            if self.claim is None or not self.claim.series:
                raise ArmfleetError("no series is running", do="start one with a task")
            self._rollout_allowed()
            return await self._roll_out(self.claim.detail, start_pose, max_s, place)

    def rollouts_end(self) -> None:
        """Give the arm back; the policy returns to the promoted version."""
        self._give_back()
        task = asyncio.ensure_future(self._after_rollout())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _roll_out(
        self, task: str, pose: list[float] | None, max_s: float | None, place: SeriesPlace | None = None
    ) -> dict[str, Any]:
        max_s = min(max_s or float("inf"), self._config.inference.max_s)
        wanted = self.rollouts.begin(task, pose, max_s, self._running_version(), place)
        self._at_rest, self.last_used = False, time.monotonic()
        fields = {**wanted.model_dump(), "not_after": self.last_used + FIRST_FRAME_S}
        try:
            answer = await self._worker.request("rollout_start", FIRST_FRAME_S, **fields)
        except ArmfleetError as error:
            self.rollouts.running = None
            if hangs(error):  # it may have begun all the same
                await self._at_once("hold")
            raise
        logger.bind(rollout=wanted.rollout_id, version=wanted.version).info("rollout: {}", task)
        return {"rollout": wanted.rollout_id, "version": wanted.version, "pose": answer.get("pose")}

    async def rollout_stop(self, reason: str = "operator") -> dict[str, Any]:
        """End the running rollout; the arm holds."""
        if self.rollout is None:
            raise ArmfleetError("no rollout is running")
        self.takeovers.ended()
        return await self._worker.request("rollout_stop", STOP_S, reason=reason)

    async def lower(self) -> dict[str, Any]:
        """End what runs; the arm goes slowly to where it last lay limp, and is let go."""
        self.last_used = time.monotonic()
        answer = await self._worker.request("lower", LOWER_S)
        self._at_rest |= not answer.get("torque")  # stiff: somebody made it hold meanwhile
        return answer

    async def hold(self) -> dict[str, Any]:
        """Stop all motion; torque stays on until the arm is used or released. Raises a worker's refusal."""
        return await self._asked("hold")

    async def release(self) -> dict[str, Any]:
        """Switch torque off, with the worker or, if it doesn't answer, without it. Raises as `hold`."""
        return await self._asked("release")

    async def _asked(self, op: str) -> dict[str, Any]:
        self.last_used = time.monotonic()
        answer = await self._at_once(op)
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
            self._intake.adopt()
        idle_s, limit_s = now_s - self.last_used, self._config.arm.rest_s
        limit_s *= ABANDONED if self.claim is not None and not self.claim.series else 1
        if self._at_rest or self.rollout is not None or idle_s < limit_s or now_s < self._rest_at:
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
        self.takeovers.hear(name, fields)
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
            episode, self.episode = self.episode, None
            self._give_back()
        if episode is not None:
            logger.bind(episode=episode).error("episode {} was lost: the arm worker {}", episode, why)
        self.takeovers.lost(why)
        self.rollouts.lost(why)
        self._intake.adopt()

    async def finish(self) -> None:
        """For the end of the agent: an episode that is being saved gets its name, and is judged next time."""
        try:
            async with asyncio.timeout(FINISH_S):
                await self.takeovers.saved()
                if self.saving:
                    async with self._lock:
                        logger.info("the last episode is saved")
        except TimeoutError:
            logger.error("the episode being saved was not finished within {:g} s", FINISH_S)

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

    async def _take(self, activity: Activity, task: str, series: bool = False) -> Claim:
        may_claim(self.claim, activity)
        if self._worker.state != "ready":
            raise ArmfleetError(
                f"the arm worker is {self._worker.state}: {self._worker.reason}", do="try again shortly"
            )
        self.claim = claim = Claim(activity, task, datetime.now(), series)
        self._at_rest, self.last_used = False, time.monotonic()
        try:
            await self._preempt(f"the operator asked for {activity}")
        except BaseException:
            self._give_back()  # nobody would know of the claim, and so end it
            raise
        return claim

    def _give_back(self) -> None:
        self.claim, self.last_used = None, time.monotonic()

    def _rollout_done(self, fields: dict[str, Any]) -> None:
        if not self.rollouts.over(str(fields.get("rollout_id")), str(fields.get("reason", ""))):
            return
        self.last_used = time.monotonic()
        if self.claim is not None and not self.claim.series:
            self.rollouts_end()

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
