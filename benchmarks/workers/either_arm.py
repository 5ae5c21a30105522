"""The arm process, in which each rollout has the inference that its name asks for: `sync-…` LeRobot's own
synchronous engine, any other the product's.

    python -m benchmarks.workers.either_arm --config agent.toml

Synchronous is what `lerobot-rollout --inference.type=sync` does, with its `SyncInferenceEngine` unmodified:
when the actions of the last chunk are used up, the control loop stands still, with the arm holding, until the
policy has answered; then n_action_steps of the new chunk are executed. Rates and interpolation are the
product's (`--fps=10 --interpolation_multiplier=3`), and so is the policy process: LeRobot would load the
policy into this one, here it answers over the same socket as for the product's engine, which costs a
millisecond.
"""

import argparse
import json
import os
import sys
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from lerobot.rollout.inference.sync import SyncInferenceEngine
from lerobot.utils.feature_utils import build_dataset_frame

from agent.inference.proxy import TAKEN_AT, PassThrough, PolicyProxy
from agent.robot import station, worker
from agent.robot.attempt import Attempt
from agent.robot.features import ROBOT_TYPE, dataset_features
from agent.robot.joints import POSITION_KEYS

SYNC = "sync-"


class Selecting:
    """The policy as `SmolVLAPolicy.select_action` shows it: actions of a chunk one by one, the next chunk
    when they are used up.

    Args:
        proxy: Of the policy process.
        steps: n_action_steps of the policy.
    """

    config = SimpleNamespace(use_amp=False)

    def __init__(self, proxy: PolicyProxy, steps: int) -> None:
        self._proxy, self._steps = proxy, steps
        self._actions: deque[torch.Tensor] = deque()

    def reset(self) -> None:
        """Forget what is left of the last chunk."""
        self._actions.clear()

    def select_action(self, batch: dict[str, Any]) -> torch.Tensor:
        """The next action in joint units, (1, 6)."""
        if not self._actions:
            self._proxy.predict_action_chunk(batch)
            assert self._proxy.processed is not None
            self._actions.extend(self._proxy.processed[0, : self._steps])
        return self._actions.popleft().unsqueeze(0)


class Inline(SyncInferenceEngine):
    """LeRobot's engine, asked as the product asks the other one: observations come by `notify_observation`.

    Args:
        policy: What acts.
        features: LeRobot's, of observation and action.
        task: Language instruction.
    """

    action_queue = None
    """Asked for by the live view: there is none."""

    def __init__(self, policy: Selecting, features: dict[str, dict], task: str) -> None:
        super().__init__(
            policy=policy,
            preprocessor=PassThrough(),
            postprocessor=PassThrough(),
            dataset_features=features,
            ordered_action_keys=list(POSITION_KEYS),
            task=task,
            device="cpu",
            robot_type=ROBOT_TYPE,
        )
        self._features = features | {TAKEN_AT: {"dtype": "float32", "shape": (1,), "names": [TAKEN_AT]}}
        self._seen: dict[str, Any] = {}

    def notify_observation(self, obs: dict[str, Any]) -> None:
        """Keep the newest."""
        self._seen = obs

    def get_action(self, obs_frame: dict[str, Any] | None) -> torch.Tensor:
        """Of the newest observation; `obs_frame` is not looked at."""
        return super().get_action(build_dataset_frame(self._features, self._seen, prefix="observation"))


class EitherAttempt(Attempt):
    """As named above."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        if self._wanted.rollout_id.startswith(SYNC):
            base = json.loads((Path(self._config.policy.base) / "config.json").read_text())
            policy = Selecting(self._engine.proxy, base["n_action_steps"])
            cameras = {name: (each.height, each.width, 3) for name, each in self._config.cameras.items()}
            self._engine._engine = Inline(policy, dataset_features(cameras), self._wanted.task)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, required=True)
    station.Attempt = EitherAttempt  # type: ignore[misc]
    status = worker.main(parser.parse_args().config)
    sys.stderr.flush()
    os._exit(status)  # as the worker itself
