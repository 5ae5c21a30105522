"""One rollout with all that belongs to it: actions, takeovers, trace, record, and the event at its end."""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from loguru import logger

from agent.config import AgentConfig
from agent.episodes.record import now
from agent.episodes.recorder import EpisodeRecorder
from agent.evaluation.rollouts import RolloutRecord, RolloutWanted
from agent.evaluation.trace import RolloutTrace
from agent.inference.engine import RolloutEngine
from agent.inference.fault import PolicyFault, named
from agent.robot.driver import Arm
from agent.robot.features import Shape
from agent.robot.first_chunk import Cut
from agent.robot.joints import label
from agent.robot.rollout import Rollout
from agent.robot.takeover import Takeovers
from shared.errors import ArmfleetError
from shared.policy.rtc import CONTROL_HZ


class Attempt:
    """Makes the activity, and writes its folder when it is over.

    Attributes:
        rollout: The activity.

    Args:
        config: agent.toml.
        follower: Connected.
        cameras: Name -> (height, width, 3).
        wanted: As asked for.
        emit: Gets `rollout_done`, and what `agent.robot.takeover` tells.
        recorder: Of the workstation.
        saving: Held while an episode is being saved.
    """

    def __init__(
        self,
        config: AgentConfig,
        follower: Arm,
        cameras: Mapping[str, Shape],
        wanted: RolloutWanted,
        emit: Callable[..., None],
        recorder: EpisodeRecorder,
        saving: threading.Lock,
    ) -> None:
        self._config, self._wanted, self._emit = config, wanted, emit
        self._takeovers = Takeovers(wanted.rollout_id, wanted.task, recorder, saving, emit)
        self._engine = RolloutEngine(follower, config.policy_socket, wanted.task, cameras, config.inference)
        self._trace = RolloutTrace(CONTROL_HZ)
        pose, max_s = wanted.start_pose, min(wanted.max_s, config.inference.max_s)
        start_pose = None if pose is None else np.array(pose, np.float32)
        self.rollout = Rollout(
            self._engine, self._trace, start_pose, max_s, CONTROL_HZ, self._ended, self._cut
        )

    def take_over(self, episode_id: str, max_s: float) -> dict[str, Any]:
        """Let the leader move the arm, and record it. Raises as `Takeovers.begin`."""
        self._takeovers.begin(self.rollout, episode_id, max_s, self._version)
        return {}

    def hand_back(self) -> dict[str, Any]:
        """Let the policy go on. Raises as `Takeovers.hand_back`."""
        self._takeovers.hand_back(self.rollout)
        return {}

    def status(self) -> dict[str, Any]:
        """For `status` of the arm process."""
        frames = self._takeovers.frames
        return {
            "rollout_id": self._wanted.rollout_id,
            **self._engine.status(),
            "bounded": self.rollout.bounded,
            "policy_s": round(self.rollout.ticks / CONTROL_HZ, 1),
            "recorded_s": None if frames is None else round(frames / CONTROL_HZ, 1),
            "apart": self.rollout.apart,
        }

    @property
    def _version(self) -> int | None:
        """What the policy process said that it executes; before it said so, what it should."""
        proxy = self._engine.proxy
        return proxy.version if proxy.latencies else self._wanted.version

    def _cut(self, cut: Cut) -> None:
        version = self._engine.proxy.version
        logger.bind(rollout=self._wanted.rollout_id, version=version).warning(
            "the first chunk of {} goes beyond what it was trained on: {} wanted {:.0f}, was given {:.0f}",
            named(version),
            label(cut.joint),
            cut.wanted,
            cut.allowed,
        )

    def _ended(self, reason: str, error: ArmfleetError | None) -> None:
        self._takeovers.end(reason, error)
        figures = self._trace.figures(self._engine.stop(), self.rollout.bounded)
        wanted, proxy = self._wanted, self._engine.proxy
        if isinstance(error, PolicyFault):  # others are the loop's, which has said them
            logger.bind(rollout=wanted.rollout_id, version=proxy.version).error("{}", error)
        record = RolloutRecord(
            id=wanted.rollout_id,
            task=wanted.task,
            version=self._version,
            digest=proxy.digest,
            created=now(),
            reason=reason,
            why=str(error) if error else "",
            figures=figures,
            interventions=self._takeovers.count if wanted.place else None,
            place=wanted.place,
            blinded=wanted.blinded,
        )
        folder: Path | None = None
        try:
            folder = self._trace.write(self._config.rollouts_dir, record)
        except Exception as failure:  # a full disk, or pictures that can't be encoded: the end is told anyhow
            log = logger.bind(rollout=record.id).opt(exception=not isinstance(failure, OSError))
            log.error("the rollout could not be written: {}", failure)
        self._emit(
            "rollout_done",
            rollout_id=record.id,
            reason=record.reason,
            version=record.version,
            digest=record.digest,
            folder=str(folder) if folder else None,
            error=error.to_dict() if error else None,
            **record.figures.model_dump(),
        )
