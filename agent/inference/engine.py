"""LeRobot's RTC engine with settings that work, over the policy proxy. One engine per rollout.

Why these settings (measured):

* `execution_horizon` must be below the chunk, or the engine fails from the second chunk on, for good;
* the default queue threshold of 30 infers without pause, a core per arm: about half the chunk is right;
* the policy runs at 10 Hz, `ActionInterpolator` fills the control loop's 30 Hz;
* `LatencyTracker.max()` never decays, so one hiccup would slow every later rollout: hence a new engine each
  time.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.rollout.inference.rtc import RTCInferenceEngine
from lerobot.rollout.robot_wrapper import ThreadSafeRobot
from lerobot.utils.action_interpolator import ActionInterpolator

from agent.config import InferenceSection
from agent.evaluation.rollouts import latency_counts
from agent.inference.proxy import PassThrough, PolicyProxy, Processed
from agent.robot.driver import Arm
from agent.robot.features import Shape, observation_features
from agent.robot.joints import POSITION_KEYS
from shared.policy.rtc import POLICY_HZ, STRIDE

# It warns whenever a latency is no whole number of policy steps: always. The latency is in our figures.
logging.getLogger("lerobot.policies.rtc.action_queue").setLevel(logging.ERROR)


@dataclass
class EngineFigures:
    """What a rollout's inference did.

    Attributes:
        chunks: Action chunks received.
        starved: Control ticks without an action after the first one came; the arm held.
        latency_ms_mean, latency_ms_max: From the observation's dispatch to the chunk, the socket included.
        latency_counts: The same by `agent.evaluation.rollouts.LATENCY_EDGES_MS`.
    """

    chunks: int = 0
    starved: int = 0
    latency_ms_mean: float = 0.0
    latency_ms_max: float = 0.0
    latency_counts: list[int] = field(default_factory=list)


class RolloutEngine:
    """Actions for one rollout.

    Args:
        arm: The follower; the engine asks it for its type and its action names only.
        socket: The policy process's data plane.
        task: Language instruction.
        cameras: Name -> (height, width, 3).
        settings: [inference] of agent.toml.

    `action` is called at CONTROL_HZ.
    """

    def __init__(
        self,
        arm: Arm,
        socket: Path,
        task: str,
        cameras: Mapping[str, Shape],
        settings: InferenceSection,
    ) -> None:
        self.figures = EngineFigures()
        self.proxy = PolicyProxy(socket, task)
        self._interpolator = ActionInterpolator(STRIDE)
        self._started = False
        self._engine = RTCInferenceEngine(
            policy=self.proxy,
            preprocessor=PassThrough(),
            postprocessor=Processed(self.proxy),
            robot_wrapper=ThreadSafeRobot(arm.device),
            rtc_config=RTCConfig(execution_horizon=settings.execution_horizon),
            hw_features=observation_features(cameras),
            task=task,
            fps=float(POLICY_HZ),
            device="cpu",
            rtc_queue_threshold=settings.queue_threshold,
        )

    def start(self) -> None:
        """Begin to infer; the first action comes after the first `notify` and one inference."""
        self._engine.reset()
        self._engine.start()
        self._engine.resume()

    def notify(self, state: np.ndarray, images: Mapping[str, np.ndarray]) -> None:
        """Offer the newest observation: (6,) units, and (H, W, 3) uint8 RGB per camera."""
        values = dict(zip(POSITION_KEYS, (float(value) for value in state), strict=True))
        self._engine.notify_observation({**values, **images})

    def action(self) -> np.ndarray | None:
        """The goal for this control tick, (6,) float32 units; None when there is none yet or none in time."""
        if self._interpolator.needs_new_action():
            action = self._engine.get_action(None)
            if action is None:
                if self._started:
                    self.figures.starved += 1
                return None
            self._started = True
            self._interpolator.add(action)
        interpolated = self._interpolator.get()
        return None if interpolated is None else interpolated.numpy()

    @property
    def started(self) -> bool:
        """The first action has come."""
        return self._started

    @property
    def failed(self) -> bool:
        """The engine gave up after repeated errors (ten in a row)."""
        return self._engine.failed

    def status(self) -> dict[str, Any]:
        """What it does now, for the live view; JSON-ready, from any thread.

        Returns:
            chunks, starved; latency_ms of the newest chunk, chunk_age_s since the observation that it answers
            was sent, and queue, its actions (of POLICY_HZ) not executed yet. None before the first.
        """
        latencies, queue = self.proxy.latencies, self._engine.action_queue
        asked_at = self.proxy.asked_at
        return {
            "chunks": len(latencies),
            "starved": self.figures.starved,
            "latency_ms": round(1e3 * latencies[-1], 1) if latencies else None,
            "chunk_age_s": None if asked_at is None else round(time.perf_counter() - asked_at, 3),
            "queue": queue.qsize() if queue is not None and latencies else None,
        }

    def stop(self) -> EngineFigures:
        """End inference; the figures of the rollout."""
        self._engine.stop()
        self.proxy.close()
        if latencies := self.proxy.latencies:
            self.figures.chunks = len(latencies)
            self.figures.latency_ms_mean = round(1e3 * float(np.mean(latencies)), 2)
            self.figures.latency_ms_max = round(1e3 * float(np.max(latencies)), 2)
            self.figures.latency_counts = latency_counts([1e3 * latency for latency in latencies])
        return self.figures
