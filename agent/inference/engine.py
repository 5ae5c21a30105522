"""LeRobot's RTC engine with settings that work, over the policy proxy. One engine per rollout.

Why these settings (measured):

* `execution_horizon` must be below the chunk, or the engine fails from the second chunk on, for good;
* the default queue threshold of 30 infers without pause, a core per arm: about half the chunk is right;
* the policy runs at 10 Hz, `ActionInterpolator` fills the control loop's 30 Hz;
* `LatencyTracker.max()` never decays, so one hiccup would slow every later rollout: hence a new engine each
  time, and the proxy forgets it within the rollout;
* of a new chunk those actions are left out whose time has passed: but not while the arm stood still, which it
  does before the first chunk and whenever one comes late. An engine that leaves them out then too never moves
  an arm again whose policy takes as long as a chunk lasts; this one is as slow as a synchronous one.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.policies.rtc import ActionQueue
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.rollout.inference.rtc import RTCInferenceEngine
from lerobot.rollout.robot_wrapper import ThreadSafeRobot
from lerobot.utils.action_interpolator import ActionInterpolator

from agent.config import InferenceSection
from agent.evaluation.rollouts import latency_counts
from agent.inference.bounds import Bounds
from agent.inference.fault import PolicyFault, policy_lost
from agent.inference.proxy import TAKEN_AT, PassThrough, PolicyProxy, Processed
from agent.robot.driver import Arm
from agent.robot.features import Shape, observation_features
from agent.robot.joints import POSITION_KEYS
from shared.policy.rtc import POLICY_HZ, STRIDE


class ExecutedQueue(ActionQueue):
    """LeRobot's queue, which takes the time that an inference took for actions executed, told what was."""

    def merge(
        self,
        original_actions: torch.Tensor,
        processed_actions: torch.Tensor,
        real_delay: int,
        action_index_before_inference: int | None = None,
    ) -> None:
        """Replace what is left by a new chunk.

        Args:
            original_actions, processed_actions: (T, A) and (T, 6).
            real_delay: Policy steps that the inference took.
            action_index_before_inference: `get_action_index` when it began.
        """
        executed = self.get_action_index() - (action_index_before_inference or 0)
        # And the one under way: while the arm moves, this is never less than the time says.
        super().merge(original_actions, processed_actions, min(real_delay, executed + 1))


class Engine(RTCInferenceEngine):
    """LeRobot's engine with that queue; its thread does not look at one before `resume`."""

    def start(self) -> None:
        """Launch the thread."""
        super().start()
        self._action_queue = ExecutedQueue(self._rtc_config)

    def pause(self) -> None:
        """Stop inferring, and forget: after `resume` no action comes before a later observation.

        LeRobot's `reset` empties the queue, into which a chunk that is being inferred would still be put.
        Here that goes into a queue that nobody reads any more.
        """
        super().pause()
        with self._obs_lock:
            self._obs_holder["obs"] = None
        self._action_queue = ExecutedQueue(self._rtc_config)


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
        self._launched = False
        self._engine = Engine(
            policy=self.proxy,
            preprocessor=PassThrough(),
            postprocessor=Processed(self.proxy),
            robot_wrapper=ThreadSafeRobot(arm.device),
            rtc_config=RTCConfig(execution_horizon=settings.execution_horizon),
            hw_features=observation_features(cameras)
            | {TAKEN_AT: {"dtype": "float32", "shape": (1,), "names": [TAKEN_AT]}},
            task=task,
            fps=float(POLICY_HZ),
            device="cpu",
            rtc_queue_threshold=settings.queue_threshold,
        )

    def start(self) -> None:
        """Begin to infer, also again after `pause`; the first action comes after the first `notify` and one
        inference."""
        if not self._launched:
            self._launched = True
            self._engine.reset()
            self._engine.start()
        self._engine.resume()

    def pause(self) -> None:
        """No action comes from what was seen before the next `start`; returns at once."""
        self._engine.pause()
        self._interpolator.reset()
        self._started = False

    def notify(self, state: np.ndarray, images: Mapping[str, np.ndarray], taken_at: float) -> None:
        """Offer the newest observation: (6,) units, (H, W, 3) uint8 RGB per camera, and when the oldest part
        of it was new, monotonic seconds."""
        values = dict(zip(POSITION_KEYS, (float(value) for value in state), strict=True))
        taken = {TAKEN_AT: self.proxy.since_made(taken_at)}
        self._engine.notify_observation({**values, **images, **taken})

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
    def fault(self) -> PolicyFault | None:
        """Why no further action is to be sent; also when the engine gave up after ten errors in a row."""
        if self.proxy.fault is None and self._engine.failed:
            return policy_lost(self.trouble)
        return self.proxy.fault

    @property
    def trouble(self) -> str:
        """What was wrong with the last inference; empty if nothing was."""
        return self.proxy.trouble

    @property
    def bounds(self) -> Bounds:
        """What the first chunk is held to; once an action came."""
        assert self.proxy.bounds is not None
        return self.proxy.bounds

    @property
    def chunk(self) -> int:
        """Actions in a chunk; once an action came."""
        assert self.proxy.processed is not None
        return self.proxy.processed.shape[1]

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
            "chunk_age_s": None if asked_at is None else round(time.monotonic() - asked_at, 3),
            "queue": queue.qsize() if queue is not None and latencies else None,
        }

    def stop(self) -> EngineFigures:
        """End inference; the figures of the rollout."""
        if self.trouble:
            self.proxy.close()  # nobody waits for a policy that hangs
        self._engine.stop()
        self.proxy.close()
        if latencies := self.proxy.latencies:
            self.figures.chunks = len(latencies)
            self.figures.latency_ms_mean = round(1e3 * float(np.mean(latencies)), 2)
            self.figures.latency_ms_max = round(1e3 * float(np.max(latencies)), 2)
            self.figures.latency_counts = latency_counts([1e3 * latency for latency in latencies])
        return self.figures
