"""From a dataset on disk to gradient steps: `lerobot-train` beside the agent's trainer, at full size.

One demonstration with random motion and coarse noise in its pictures, as a LeRobot dataset with two videos of
640x480; the policy has random weights and lies on disk like a downloaded one. Both start as their users start
them, with LoRA on the same modules, one thread, one draw per frame. LeRobot decodes the batch's frames in
each step; the agent decodes and encodes each frame once, before its first step.
"""

import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from agent.episodes.record import EpisodeRecord, write_record
from agent.training.trainer import LocalTrainer
from benchmarks.full_size.policy import HEIGHT, WIDTH, full_size_policy, full_size_processors
from benchmarks.full_size.step_variants import CAMERAS, COARSE, TASK
from shared.policy.initial import initial_adapter
from shared.recipe import PRESETS, Recipe

FRAMES, BATCH = 16, 4
LEROBOT_STEPS, OUR_STEPS = 4, 12
"""The first step of each warms up, and does not count."""
LIMIT_S = 1800.0
STEP_LINE = re.compile(r"step:\d+.*updt_s:([\d.]+).*data_s:([\d.]+)")


@dataclass(frozen=True)
class Pace:
    """Seconds per frame that went through a training step, and for each frame once beforehand."""

    lerobot_s: float
    ours_s: float
    cached_s: float

    def figures(self) -> dict[str, float]:
        """Frames/s with nothing counted but steps; of ours also with the cache's share, when each frame
        is visited 10 and 100 times; and the number of visits after which the cache has paid."""
        with_cache = {
            f"trainer_frames_per_s_{visits}_visits": round(1 / (self.ours_s + self.cached_s / visits), 3)
            for visits in (10, 100)
        }
        return {
            "lerobot_train_frames_per_s": round(1 / self.lerobot_s, 3),
            "trainer_frames_per_s": round(1 / self.ours_s, 3),
            **with_cache,
            "ratio_end_to_end": round(self.lerobot_s / self.ours_s, 2),
            "visits_until_the_cache_pays": round(self.cached_s / (self.lerobot_s - self.ours_s), 2),
        }


def measure(folder: Path, seed: int, done: Callable[[str], None]) -> Pace:
    """Makes policy and dataset, lets both train.

    Args:
        folder: For everything, 4 GB; its owner removes it.
        seed: Of weights, motion, pictures.
        done: Told what was done, three times.

    Raises:
        RuntimeError: `lerobot-train` failed.
    """
    base, store = folder / "policy", folder / "episodes"
    write_policy(base, folder / "vlm", seed)
    write_dataset(store / "000001", seed)
    done("policy and dataset on disk")
    lerobot_s = lerobot_train(base, store / "000001", folder / "lerobot")
    done("lerobot-train")
    cached_s, ours_s = ours(base, store, folder / "training", seed)
    done("the agent's trainer")
    return Pace(lerobot_s, ours_s, cached_s)


def write_policy(folder: Path, vlm: Path, seed: int) -> None:
    """As `SmolVLAPolicy.from_pretrained` reads it."""
    policy = full_size_policy(vlm, CAMERAS, seed)
    policy.save_pretrained(folder)
    for processor in full_size_processors(policy.config):
        processor.save_pretrained(folder)


def write_dataset(folder: Path, seed: int) -> None:
    """One admitted episode."""
    rng = np.random.default_rng(seed)
    vector = {"dtype": "float32", "shape": (6,), "names": [f"joint{i}.pos" for i in range(6)]}
    video = {"dtype": "video", "shape": (HEIGHT, WIDTH, 3), "names": ["height", "width", "channels"]}
    images = {f"observation.images.{camera}": video for camera in CAMERAS}
    features = {"observation.state": vector, "action": vector, **images}
    folder.parent.mkdir(parents=True)
    dataset = LeRobotDataset.create("bench/one", fps=30, root=folder, features=features, use_videos=True)
    path = np.cumsum(rng.normal(0, 5, (FRAMES, 6)), axis=0).astype(np.float32)
    spot = np.ones((COARSE, COARSE, 1), np.uint8)
    for state in path:
        noise = rng.integers(0, 255, (len(CAMERAS), HEIGHT // COARSE, WIDTH // COARSE, 3), dtype=np.uint8)
        pictures = {key: np.kron(noise[place], spot) for place, key in enumerate(images)}
        dataset.add_frame({"observation.state": state, "action": state + 1, "task": TASK, **pictures})
    dataset.save_episode()
    dataset.finalize()
    fields = {
        "id": folder.name,
        "task": TASK,
        "frames": FRAMES,
        "fps": 30,
        "created": "2026-01-01T00:00:00.000+00:00",
        "verdict": "admitted",
        "split": "train",
        "digest": "0" * 64,
    }
    write_record(folder, EpisodeRecord.model_validate(fields))


def lerobot_train(base: Path, dataset: Path, out: Path) -> float:
    """Seconds per frame: median over the steps of loading and update, as its own log says."""
    recipe = Recipe.model_validate(PRESETS["attention"])
    options = {
        "policy.path": base,
        "policy.device": "cpu",
        "policy.push_to_hub": "false",
        "dataset.repo_id": "bench/one",
        "dataset.root": dataset,
        "peft.method_type": "LORA",
        "peft.r": recipe.rank,
        "peft.lora_alpha": recipe.alpha,
        "peft.target_modules": recipe.target_modules,
        "peft.full_training_modules": f"[{','.join(recipe.modules_to_save)}]",
        "steps": LEROBOT_STEPS,
        "batch_size": BATCH,
        "num_workers": 0,
        "log_freq": 1,
        "save_checkpoint": "false",
        "output_dir": out,
    }
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "lerobot.scripts.lerobot_train",
            *(f"--{key}={value}" for key, value in options.items()),
        ],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    return lerobot_pace(done.stdout + done.stderr)


def lerobot_pace(log: str) -> float:
    """Seconds per frame in the log of `lerobot-train`. Pure.

    Raises:
        RuntimeError: it says nothing of the steps.
    """
    steps = [float(update) + float(data) for update, data in STEP_LINE.findall(log)]
    if len(steps) < LEROBOT_STEPS:
        raise RuntimeError(f"lerobot-train told of {len(steps)} steps: {log[-2000:]}")
    return statistics.median(steps[1:]) / BATCH


def ours(base: Path, store: Path, state: Path, seed: int) -> tuple[float, float]:
    """Seconds per frame: until the first step began, and per step."""
    fields = PRESETS["attention"] | {"batch": BATCH, "draws": 1, "steps": OUR_STEPS, "seed": seed}
    recipe = Recipe.model_validate(fields)
    tensors, _ = initial_adapter(base, recipe)
    trainer = LocalTrainer(base, store, state)
    ends = []
    began = time.perf_counter()
    trainer.train(tensors, 0, recipe, 1e-4, on_step=lambda *_: ends.append(time.perf_counter()))
    step_s = float(np.median(np.diff(ends)))
    return (ends[0] - began - step_s) / FRAMES, step_s / BATCH
