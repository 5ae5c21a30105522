"""How good the base is, measured as the product runs it: asynchronous chunks, one tick of delay, RTC
guidance."""

from pathlib import Path

import numpy as np
import torch
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy

from sim.lockstep import QUEUE_THRESHOLD, Observation, Predict, rollout_batch
from sim.pretrain.policy import CAMERA_KEY, STATE_KEY
from sim.tasks import COLORS, Task

FIRST_SEED = 900_000
"""Evaluation scenes of the base; no training scene has such a seed."""


def loaded(folder: Path) -> Predict:
    """The policy of a folder, loaded as anybody with LeRobot would, with RTC over the queue's left-over."""
    policy = SmolVLAPolicy.from_pretrained(folder)
    policy.config.rtc_config = RTCConfig(execution_horizon=QUEUE_THRESHOLD)
    policy.init_rtc_processor()
    before, after = make_pre_post_processors(policy.config, pretrained_path=str(folder))

    def predict(
        observations: list[Observation], delay: int, running: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        images = np.stack([np.asarray(seen["image"]) for seen in observations]).transpose(0, 3, 1, 2)
        batch = {
            CAMERA_KEY: torch.from_numpy(images).float() / 255,
            STATE_KEY: torch.from_numpy(np.stack([np.asarray(seen["state"]) for seen in observations])),
            "task": [str(seen["task"]) for seen in observations],
        }
        left_over = None if running is None else torch.from_numpy(running[:, 1:])
        chunks = policy.predict_action_chunk(
            before(batch), inference_delay=delay, prev_chunk_left_over=left_over
        )
        return chunks.numpy(), after(chunks).numpy()

    return predict


def successes(predict: Predict, verb: str, rollouts: int, first_seed: int = FIRST_SEED) -> int:
    """Successful rollouts of a verb, the colours in turn; repeatable."""
    torch.manual_seed(0)
    tasks = [Task(verb, COLORS[index % len(COLORS)]) for index in range(rollouts)]
    results = rollout_batch(predict, tasks, range(first_seed, first_seed + rollouts))
    return sum(result.success for result in results)
