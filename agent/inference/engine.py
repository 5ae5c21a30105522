"""LeRobot's RTC engine with settings that work, over the policy proxy. One engine per rollout.

Why these settings (measured):

* `execution_horizon` must be below the chunk, or the engine fails from the second chunk on, for good;
* the default queue threshold of 30 infers without pause, a core per arm: about half the chunk is right;
* the policy runs at 10 Hz, `ActionInterpolator` fills the control loop's 30 Hz;
* `LatencyTracker.max()` never decays, so one hiccup would slow every later rollout: hence a new engine each
  time.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.rollout.inference.rtc import RTCInferenceEngine
from lerobot.rollout.robot_wrapper import ThreadSafeRobot
from lerobot.utils.action_interpolator import ActionInterpolator

from agent.config import InferenceSection
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
    """

    chunks: int = 0
    starved: int = 0
    latency_ms_mean: float = 0.0
    latency_ms_max: float = 0.0


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

    def stop(self) -> EngineFigures:
        """End inference; the figures of the rollout."""
        self._engine.stop()
        self.proxy.close()
        if latencies := self.proxy.latencies:
            self.figures.chunks = len(latencies)
            self.figures.latency_ms_mean = round(1e3 * float(np.mean(latencies)), 2)
            self.figures.latency_ms_max = round(1e3 * float(np.max(latencies)), 2)
        return self.figures
