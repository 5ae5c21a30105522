"""What persons do and record by taking over in rollouts (`agent.robot.takeover`), as the agent asks for it
and hears of it."""

import asyncio
from typing import Any

from loguru import logger

from agent.config import AgentConfig
from agent.evaluation.rollout_book import RolloutBook
from agent.intake import Intake
from agent.room import check_disk, next_episode
from agent.supervision import Worker
from shared.errors import ArmfleetError
from shared.policy.rtc import CONTROL_HZ

ANSWER_S = 10.0
"""Longest wait for the arm worker, which answers once the policy is stopped, or may go on."""
LOOK_S = 0.05
"""Between two looks whether it has told that a segment is saved."""


class Takeovers:
    """Of the rollouts of one workstation.

    Args:
        config: agent.toml.
        worker: The arm worker.
        rollouts: Knows the one that runs.
        intake: Gets the episodes that are kept.
    """

    def __init__(self, config: AgentConfig, worker: Worker, rollouts: RolloutBook, intake: Intake) -> None:
        self._config, self._worker = config, worker
        self._rollouts, self._intake = rollouts, intake
        self._recording: str | None = None
        self._closing: set[str] = set()  # ended, and nothing is told of them yet
        self.said = ""
        """What became of the last segment, for people; empty if there is nothing to say."""
        self.kept: tuple[str, ...] = ()
        """Episodes of the present series, or the last one."""

    def forget(self) -> None:
        """Another series begins."""
        self.said, self.kept = "", ()

    async def take_over(self) -> None:
        """In the running rollout: the policy stops, the arm comes to the leader and follows it, recorded.

        Raises:
            ArmfleetError: no rollout runs, the disk is full, or the arm worker refuses.
        """
        self._expect_a_rollout()
        recording, folder = self._config.recording, self._config.episodes_dir
        check_disk(folder, recording.min_free_mb)
        episode_id = next_episode(folder)
        self._recording, self.said = episode_id, ""
        self._rollouts.interventions += 1
        fields = {"episode_id": episode_id, "max_s": recording.max_s}
        try:
            await self._worker.request("rollout_take_over", ANSWER_S, **fields)
        except ArmfleetError:
            self._over(episode_id)
            raise

    async def hand_back(self) -> None:
        """The policy goes on; the segment is saved meanwhile. Raises as `take_over`."""
        self._expect_a_rollout()
        self.ended()
        await self._worker.request("rollout_hand_back", ANSWER_S)

    def ended(self) -> None:
        """Nothing is added to the segment any more; what becomes of it will be told."""
        if self._recording is not None:
            self._closing.add(self._recording)
        self._recording = None

    def hear(self, name: str, fields: dict[str, Any]) -> None:
        """An event of the arm worker."""
        if name not in ("segment_saved", "segment_dropped"):
            return
        episode_id = str(fields["episode_id"])
        self._over(episode_id)
        if name == "segment_saved":
            self.kept = (*self.kept, episode_id)
            self.said = f"episode {episode_id} is kept: {int(fields['frames']) / CONTROL_HZ:.1f} s"
            self._intake.saved(episode_id)
        else:
            self.said = f"what was recorded is not kept: {fields.get('why')}"
        logger.bind(episode=episode_id).info("{}", self.said)

    def lost(self, why: str) -> None:
        """The arm worker died; what it had saved by then is found in its folder."""
        if self._recording is not None:
            self.said = f"what was recorded is lost: the arm worker {why}"
            logger.bind(episode=self._recording).error("{}", self.said)
        self._recording, self._closing = None, set()

    async def saved(self) -> None:
        """Wait until it is told what became of every segment that has ended."""
        while self._closing:
            await asyncio.sleep(LOOK_S)

    def _over(self, episode_id: str) -> None:
        self._closing.discard(episode_id)
        if self._recording == episode_id:
            self._recording = None

    def _expect_a_rollout(self) -> None:
        if self._rollouts.running is None:
            raise ArmfleetError("no rollout is running")
