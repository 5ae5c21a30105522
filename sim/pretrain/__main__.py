"""`python -m sim.pretrain --out sim/base`: make, measure and write the base policy."""

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a missing file is an error, never a download

import torch
from loguru import logger
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from shared.files import write_atomic
from shared.metrics import wilson
from sim.pretrain.data import Samples, generate
from sim.pretrain.evaluate import FIRST_SEED, loaded, successes
from sim.pretrain.policy import make_policy, save_policy, statistics
from sim.pretrain.train import train
from sim.pretrain.vlm import write_vlm
from sim.tasks import VERBS

REPORT_EVERY = 100  # steps


def main() -> int:
    """Generate, train, save, measure; at most 25 minutes on a quiet computer with the defaults."""
    options = _options()
    torch.set_num_threads(options.threads)
    out: Path = options.out
    write_vlm(out / "vlm")
    with _progress() as bar:
        samples = _generate(bar, options.episodes)
        policy = make_policy(str(out / "vlm"))
        stats = statistics(samples)
        began = time.monotonic()
        steps = _train(bar, policy, samples, stats, options)
        took = time.monotonic() - began
    save_policy(policy, stats, out)
    predict = loaded(out)
    counts = {verb: successes(predict, verb, options.rollouts) for verb in VERBS}
    parameters = sum(parameter.numel() for parameter in policy.parameters())
    write_atomic(out / "README.md", _readme(options, parameters, len(samples), steps, took, counts))
    for verb, count in counts.items():
        logger.info("{}: {} of {} rollouts", verb, count, options.rollouts)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m sim.pretrain", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("sim/base"))
    parser.add_argument("--minutes", type=float, default=16.0, help="processor time of training alone")
    parser.add_argument("--episodes", type=int, default=3000)
    parser.add_argument("--rollouts", type=int, default=60, help="per verb, to measure the result")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        transient=True,
    )


def _generate(bar: Progress, episodes: int) -> Samples:
    task = bar.add_task("demonstrations", total=episodes)
    began = time.monotonic()
    samples = generate(episodes, lambda done: bar.update(task, completed=done))
    logger.info("{} samples from {} episodes in {:.0f} s", len(samples), episodes, time.monotonic() - began)
    return samples


def _train(
    bar: Progress, policy: torch.nn.Module, samples: Samples, stats: dict, options: argparse.Namespace
) -> int:
    task = bar.add_task("training", total=1.0)
    recent: list[tuple[float, float]] = []

    def on_step(step: int, share: float, flow: float, ground: float) -> None:
        recent.append((flow, ground))
        bar.update(task, completed=share)
        if step % REPORT_EVERY == 0:
            means = [sum(column) / len(recent) for column in zip(*recent, strict=True)]
            logger.info("step {}: flow {:.4f}, grounding {:.4f}, {:.0%} of the time", step, *means, share)
            recent.clear()

    return train(policy, samples, stats, options.minutes * 60, options.seed, on_step)


def _readme(
    options: argparse.Namespace,
    parameters: int,
    samples: int,
    steps: int,
    seconds: float,
    counts: dict[str, int],
) -> str:
    rows = []
    for verb, count in counts.items():
        low, high = wilson(count, options.rollouts)
        rows.append(f"| {verb} | {count}/{options.rollouts} | {low:.0%}-{high:.0%} |")
    table = "\n".join(rows)
    return f"""# The tiny base policy

LeRobot's SmolVLA with {parameters / 1e6:.2f} M parameters, for the simulator in `sim/` only. Made by `make
base` (`python -m sim.pretrain`), trained on {samples} samples of {options.episodes} touch and hover episodes
for {steps} steps ({seconds / 60:.0f} min, seed {options.seed}). The sentences of the pushes were heard, no
push was ever shown.

Measured on scenes from seed {FIRST_SEED} on, asynchronous inference with one tick of delay (0.1 s), RTC over
four actions, at most 6 s a rollout:

| task | success | 95 % interval (Wilson) |
|---|---|---|
{table}

Interface: camera `observation.images.front` (96x96, 0..1), `observation.state` and `action` (degrees, gripper
0..100), chunks of eight actions at 10 Hz. Mean and standard deviation are stored in the processors and stay
as they are for every station. Licence: Apache-2.0, like the repository.
"""


if __name__ == "__main__":
    raise SystemExit(main())
