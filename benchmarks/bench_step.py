"""How much faster a training step is from the training cache than LeRobot's own, at full size.

    make bench-step            # SmolVLA with random weights, two cameras, one CPU thread; on a GPU too if any

The same policy with the same adapter takes the same step four ways, in turns, so that a busy neighbour slows
all of them: LeRobot's `forward` on pictures in memory; the agent's `Loop.step` from cached features; from
cached prefixes, both read from disk; and the latter with four draws per frame. Each has the backward pass,
clipping and AdamW in it, with a learning rate of 0, so that all start from the same numbers. A ratio is the
median over the turns; that of four draws is per draw.

Then `lerobot-train` and the agent's trainer, each on its own, from the same dataset on disk
(`benchmarks.full_size.end_to_end`).

Exits with 1 when a ratio on the CPU, or a difference of loss or gradient, misses its target. The ratios on a
GPU, and what is measured from disk, are only reported.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.outcome import measured

if TYPE_CHECKING:
    from benchmarks.full_size.step_variants import Outcome, Variants

ROOT = Path(__file__).resolve().parents[1]
STOCK, VISION, PREFIX, SHARED = "lerobot", "vision tier", "prefix tier", "prefix tier, 4 draws"
RATIO_TARGETS = {"ratio_vision": 6.0, "ratio_prefix": 14.0, "ratio_shared_draws": 16.0}
EXACT_TARGET, HALF_TARGET = 1e-5, 1e-3
COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
BUSY = 0.9
"""Processor time over wall time of one thread, below which something else had its core."""

os.environ["HF_HUB_OFFLINE"] = "1"  # before LeRobot is imported


@dataclass
class Turn:
    """Seconds of one step of every variant, by name."""

    wall: dict[str, float]
    cpu: dict[str, float]


def ratios(turns: Sequence[Turn], draws: int) -> dict[str, float]:
    """LeRobot's time over ours. Pure."""
    named = {"ratio_vision": (VISION, 1), "ratio_prefix": (PREFIX, 1), "ratio_shared_draws": (SHARED, draws)}
    return {
        figure: round(statistics.median(n * turn.wall[STOCK] / turn.wall[name] for turn in turns), 2)
        for figure, (name, n) in named.items()
    }


def met(figures: dict[str, Any], prefix: str) -> bool:
    """Whether one device's figures meet their targets; `prefix` of their names: empty for the CPU. Pure."""
    fast = all(figures[prefix + figure] >= target for figure, target in RATIO_TARGETS.items())
    exact = all(figures[f"{prefix}{what}_difference"] <= EXACT_TARGET for what in ("loss", "gradient"))
    half = all(figures[f"{prefix}{what}_difference_16bit"] <= HALF_TARGET for what in ("loss", "gradient"))
    return exact and half and (fast or bool(prefix))


def table(device: str, turns: Sequence[Turn]) -> str:
    """Median seconds of each variant, for a person."""
    lines = [f"{'step on ' + device:<24}{'seconds':>10}{'least':>10}{'most':>10}{'processor':>12}"]
    for name in turns[0].wall:
        wall = [turn.wall[name] for turn in turns]
        cells = (statistics.median(wall), min(wall), max(wall))
        cpu = statistics.median(turn.cpu[name] for turn in turns)
        lines.append(f"{name:<24}" + "".join(f"{cell:10.3f}" for cell in cells) + f"{cpu:12.3f}")
    return "\n".join(lines)


def busy(turns: Sequence[Turn]) -> bool:
    """Whether something else had the processor for a good part of a step on the CPU. Pure."""
    return any(turn.cpu[name] < BUSY * turn.wall[name] for turn in turns for name in turn.wall)


def timed(step: Callable[[], "Outcome"], synchronise: Callable[[], None]) -> tuple["Outcome", float, float]:
    """What a step gave, its wall time and its processor time in s."""
    synchronise()
    wall, cpu = time.perf_counter(), time.process_time()
    outcome = step()
    synchronise()
    return outcome, time.perf_counter() - wall, time.process_time() - cpu


def measure_device(
    variants: "Variants", rounds: int, done: Callable[[str], None]
) -> tuple[list[Turn], dict[str, float]]:
    """Times of `rounds` turns, and the figures of one device."""
    from benchmarks.full_size.step_variants import DRAWS, difference

    steps = {
        STOCK: variants.stock,
        VISION: variants.from_features,
        PREFIX: variants.from_prefixes,
        SHARED: variants.shared_draws,
    }
    first, turns = {}, []
    for turn in range(rounds + 1):  # the first warms up and gives what is compared
        wall, cpu = {}, {}
        for name, step in steps.items():
            outcome, wall[name], cpu[name] = timed(step, variants.synchronise)
            if turn == 0:
                first[name] = outcome
            done(name)
        if turn:
            turns.append(Turn(wall, cpu))
    exact = difference(first[STOCK], variants.exact())
    half = [difference(first[STOCK], first[name]) for name in (VISION, PREFIX)]
    done("compared")
    return turns, {
        **ratios(turns, DRAWS),
        "loss_difference": exact.loss,
        "gradient_difference": exact.gradient,
        "loss_difference_16bit": max(each.loss for each in half),
        "gradient_difference_16bit": max(each.gradient for each in half),
        **variants.bytes_per_frame(),
    }


def measure(rounds: int, seed: int) -> tuple[bool, dict[str, Any]]:
    """Measures on the CPU, and on a GPU if there is one; whether the targets are met, and the figures."""
    import torch

    from benchmarks.full_size.policy import full_size_policy
    from benchmarks.full_size.step_variants import CAMERAS, Variants

    torch.set_num_threads(1)
    devices = {"cpu": ""} | ({"cuda": "gpu_"} if torch.cuda.is_available() else {})
    folder = Path(tempfile.mkdtemp(prefix="armfleet-bench-step-"))
    figures: dict[str, Any] = {}
    ok, tables = True, []
    try:
        with Progress(*COLUMNS, console=Console(stderr=True)) as progress:
            task = progress.add_task("building SmolVLA", total=len(devices) * (4 * (rounds + 1) + 2))
            policy = full_size_policy(folder / "vlm", CAMERAS, seed)
            for device, prefix in devices.items():

                def done(what: str, device: str = device) -> None:
                    progress.update(task, advance=1, description=f"{device}: {what}")

                variants = Variants(policy.to(device), folder / device, seed)
                done("cached")
                turns, found = measure_device(variants, rounds, done)
                variants.close()
                figures |= {prefix + figure: value for figure, value in found.items()}
                tables.append(table(device, turns))
                if device == "cpu" and busy(turns):
                    tables.append("The machine was not idle: the times are too long, the ratios uncertain.")
                ok &= met(figures, prefix)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("\n\n".join(tables))
    return ok, figures


def measure_all(options: argparse.Namespace) -> tuple[bool, dict[str, Any]]:
    """Both parts; whether the targets are met, and the figures."""
    ok, figures = measure(options.rounds, options.seed)
    if not options.end_to_end:
        return ok, figures
    from benchmarks.full_size import end_to_end

    folder = Path(tempfile.mkdtemp(prefix="armfleet-bench-step-"))
    try:
        with Progress(*COLUMNS, console=Console(stderr=True)) as progress:
            task = progress.add_task("from disk", total=3)
            pace = end_to_end.measure(
                folder, options.seed, lambda what: progress.update(task, advance=1, description=what)
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return ok, figures | pace.figures()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, and returns the exit status; the last line is JSON."""
    parser = argparse.ArgumentParser(description="A training step from the cache, beside LeRobot's.")
    parser.add_argument("--rounds", type=int, default=3, help="timed turns, at least 3 for a median")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-end-to-end", dest="end_to_end", action="store_false", help="leave that out")
    parser.add_argument("--out", type=Path, default=ROOT / "bench-step.json", help="the result as JSON")
    options = parser.parse_args(arguments)
    return measured("step", options.out, lambda: measure_all(options))


if __name__ == "__main__":
    sys.exit(main())
