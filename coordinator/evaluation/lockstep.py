"""Evaluation of a version in the simulator, without a clock: the same scenes for every version.

evaluator = Evaluator("sim/base")
results = evaluator.evaluate(Path("versions/000012"), tasks, seeds=range(500_000, 500_020))
results["push_left_red"]     # [1, 0, 1, …], one entry per seed
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.policy.chunker import Chunker
from sim.lockstep import SUBTICKS, Observation, rollout_batch
from sim.tasks import Task


class Evaluator:
    """A resident policy for rollouts in lockstep.

    Args:
        base: Folder or hub id of the base policy.
        device: torch device.
        threads: torch threads.

    Raises:
        ArmfleetError: BASE_MISSING; CONFIG_INVALID for a policy that does not fit the simulator's one camera.
    """

    def __init__(self, base: str | Path, device: str = "cpu", threads: int = 1) -> None:
        torch.set_num_threads(threads)
        self.chunker = Chunker(base, device)
        if len(self.chunker.cameras) != 1:
            raise ArmfleetError(
                f"the simulator has one camera, the base policy wants {', '.join(self.chunker.cameras)}",
                do="evaluate this policy on robots, and leave [evaluation] tasks empty",
                code=ExitCode.CONFIG_INVALID,
            )

    def evaluate(
        self,
        folder: Path | None,
        tasks: Sequence[Task],
        seeds: Sequence[int],
        delay_ticks: int = 1,
        noise_seed: int = 0,
    ) -> dict[str, list[int]]:
        """Roll out the version in `folder` (None: the base alone) on each seed's scene of each task.

        Args:
            delay_ticks: Simulated inference time in policy ticks of 0.1 s.
            noise_seed: The policy's noise restarts from it for each task, so that a result does not depend on
                what was evaluated before. Batches of other scenes want another one.

        Returns:
            For each task's key 1 (success) or 0 per seed.

        Raises:
            ArmfleetError: VERSION_REFUSED, BASE_MISMATCH.
        """
        self.chunker.load_version(folder)
        return self.evaluate_loaded(tasks, seeds, delay_ticks, noise_seed)

    def evaluate_loaded(
        self, tasks: Sequence[Task], seeds: Sequence[int], delay_ticks: int = 1, noise_seed: int = 0
    ) -> dict[str, list[int]]:
        """As `evaluate`, for whatever adapter `chunker` holds."""
        results = {}
        for task in tasks:
            self.chunker.reseed(noise_seed)
            rollouts = rollout_batch(
                self.predict,
                [task] * len(seeds),
                list(seeds),
                latency=delay_ticks * SUBTICKS,
            )
            results[task_key(task)] = [int(rollout.success) for rollout in rollouts]
        return results

    def predict(
        self, observations: list[Observation], delay: int, running: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """`sim.lockstep.Predict`."""
        state = np.stack([np.asarray(seen["state"]) for seen in observations])
        image = np.stack([np.asarray(seen["image"]) for seen in observations])
        return self.chunker.chunk(
            state,
            {self.chunker.cameras[0]: image},
            [str(seen["task"]) for seen in observations],
            inference_delay=delay,
            prev_chunk=running,
        )


def task_key(task: Task) -> str:
    """Name of a task in results: verb and colour."""
    return f"{task.verb}_{task.color}"
