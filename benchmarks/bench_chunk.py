"""How much faster an action chunk of the full-size policy is than LeRobot's.

    make bench-chunk           # SmolVLA with random weights, two cameras, one CPU thread; on a GPU too if any

One observation, one noise, an adapter of rank 16 whose matrices are all other than 0. LeRobot's
`predict_action_chunk` and the fast path (`shared/policy/fast_chunk.py`) compute the chunk in float32 and with
VLM and expert in bfloat16 (`[policy] precision`), in turns, so that a busy neighbour slows all of them. A
ratio is the median over the turns, LeRobot's time over ours:

    ratio        LeRobot in float32, ours in bf16: what an operator gains who sets bf16
    fp32_ratio   both in float32: the same actions
    bf16_ratio   both in bf16

`max_action_difference` is between ours in bf16 and LeRobot's in float32, in the policy's normalised space;
`fp32_max_action_difference` is with both in float32. Exits with 1 when, on the CPU, the ratio, or on any
device a difference, misses its target. A processor without bf16 instructions gains nothing from bf16.
"""

import argparse
import copy
import os
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
    from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
    from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
CAMERAS = ("front", "wrist")
TASK = "push the red cube to the left"
STOCK, STOCK_BF16, OURS, OURS_BF16 = "lerobot", "lerobot, bf16", "fast path", "fast path, bf16"
RATIOS = {"ratio": (STOCK, OURS_BF16), "fp32_ratio": (STOCK, OURS), "bf16_ratio": (STOCK_BF16, OURS_BF16)}
RATIO_TARGET = 1.5
COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
BUSY = 0.9
"""Processor time over wall time of one thread, below which something else had its core."""

os.environ["HF_HUB_OFFLINE"] = "1"  # before LeRobot is imported


@dataclass(frozen=True)
class Lap:
    """Seconds of one chunk."""

    wall: float
    cpu: float


type Turn = dict[str, Lap]
"""One chunk by each path, by name."""


def figures_of(turns: Sequence[Turn], differences: dict[str, float]) -> dict[str, float]:
    """Medians over the turns; `differences` from LeRobot's actions in float32, by path. Pure."""

    def ratio(theirs: str, ours: str, of: Callable[[Lap], float]) -> float:
        return round(statistics.median(of(turn[theirs]) / of(turn[ours]) for turn in turns), 3)

    def latency(path: str) -> float:
        return round(1e3 * statistics.median(turn[path].wall for turn in turns), 1)

    return {
        **{figure: ratio(*paths, of=lambda lap: lap.wall) for figure, paths in RATIOS.items()},
        "ratio_processor": ratio(STOCK, OURS_BF16, of=lambda lap: lap.cpu),
        "max_action_difference": differences[OURS_BF16],
        "fp32_max_action_difference": differences[OURS],
        "bf16_stock_action_difference": differences[STOCK_BF16],
        "latency_ms": latency(OURS_BF16),
        "fp32_latency_ms": latency(OURS),
        "stock_latency_ms": latency(STOCK),
        "bf16_stock_latency_ms": latency(STOCK_BF16),
    }


def met(figures: dict[str, Any], prefix: str) -> bool:
    """Whether one device's figures meet their targets; `prefix` of their names: empty for the CPU. Pure."""
    from shared.policy.checked_chunk import LARGEST_DIFFERENCE, LARGEST_DIFFERENCE_BF16

    exact = figures[prefix + "fp32_max_action_difference"] <= LARGEST_DIFFERENCE
    near = figures[prefix + "max_action_difference"] <= LARGEST_DIFFERENCE_BF16
    return exact and near and (bool(prefix) or figures["ratio"] >= RATIO_TARGET)


def busy(turns: Sequence[Turn]) -> bool:
    """Whether something else had the processor for a good part of a chunk. Pure."""
    return any(lap.cpu < BUSY * lap.wall for turn in turns for lap in turn.values())


def table(device: str, turns: Sequence[Turn]) -> str:
    """Median, least and most seconds by each path, for a person."""
    lines = [f"{'chunk on ' + device:<24}{'seconds':>10}{'least':>10}{'most':>10}{'processor':>12}"]
    for path in turns[0]:
        wall = [turn[path].wall for turn in turns]
        cells = (statistics.median(wall), min(wall), max(wall))
        cpu = statistics.median(turn[path].cpu for turn in turns)
        lines.append(f"{path:<24}" + "".join(f"{cell:10.4f}" for cell in cells) + f"{cpu:12.4f}")
    return "\n".join(lines)


def compare(
    exact: "SmolVLAPolicy",
    half: "SmolVLAPolicy",
    batch: dict[str, "Tensor"],
    noise: "Tensor",
    rounds: int,
    done: Callable[[str], None],
) -> tuple[list[Turn], dict[str, float]]:
    """Times of `rounds` turns after one that warms up, and the largest difference of each path's actions.

    Args:
        exact, half: The same policy in float32 and in bfloat16, on one device.
        batch, noise: As `predict_action_chunk` takes them.
        rounds: Timed turns.
        done: Told each lap.
    """
    import torch

    from shared.policy.fast_chunk import FastChunk

    paths = {
        STOCK: exact.predict_action_chunk,
        STOCK_BF16: half.predict_action_chunk,
        OURS: FastChunk(exact).predict_action_chunk,
        OURS_BF16: FastChunk(half).predict_action_chunk,
    }
    wait = torch.cuda.synchronize if noise.is_cuda else lambda: None
    turns, differences = [], dict.fromkeys(paths, 0.0)
    for turn in range(rounds + 1):
        laps, actions = {}, {}
        for path, predict in paths.items():
            wait()
            cpu, start = time.process_time(), time.perf_counter()
            actions[path] = predict(dict(batch), noise=noise)
            wait()
            laps[path] = Lap(time.perf_counter() - start, time.process_time() - cpu)
            differences[path] = max(differences[path], float((actions[path] - actions[STOCK]).abs().max()))
            done(path)
        if turn:
            turns.append(laps)
    return turns, differences


def observation(policy: "SmolVLAPolicy", seed: int) -> dict[str, "Tensor"]:
    """One row, as the policy's processors give it."""
    import torch

    from benchmarks.full_size.policy import HEIGHT, WIDTH, full_size_processors

    generator = torch.Generator().manual_seed(seed)
    preprocess, _ = full_size_processors(policy.config)
    batch: dict[str, Any] = {
        "observation.state": torch.randn(1, 6, generator=generator) * 30,
        "task": [TASK],
    }
    for camera in CAMERAS:
        coarse = torch.rand(1, 3, HEIGHT // 40, WIDTH // 40, generator=generator)
        batch[f"observation.images.{camera}"] = coarse.repeat_interleave(40, 2).repeat_interleave(40, 3)
    return preprocess(batch)  # type: ignore[no-any-return]


def adapt(policy: "SmolVLAPolicy", seed: int) -> None:
    """An adapter whose matrices are all other than 0."""
    import torch

    from shared.policy.adapter import adapter_parameters, add_adapter
    from shared.recipe import PRESETS, Recipe

    torch.manual_seed(seed)  # of PEFT's first matrices
    model = add_adapter(policy, Recipe.model_validate(PRESETS["attention"] | {"rank": 16}))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in adapter_parameters(model).items():
        if ".lora_B." in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
    policy.requires_grad_(False)


def measure(rounds: int, seed: int) -> tuple[bool, dict[str, Any]]:
    """Measures on the CPU, and on a GPU if there is one; whether the targets are met, and the figures."""
    import torch

    from benchmarks.full_size.policy import full_size_policy

    torch.set_num_threads(1)
    devices = {"cpu": ""} | ({"cuda": "gpu_"} if torch.cuda.is_available() else {})
    figures: dict[str, Any] = {}
    ok, tables = True, []
    with (
        tempfile.TemporaryDirectory(prefix="armfleet-bench-chunk-") as folder,
        Progress(*COLUMNS, console=Console(stderr=True)) as progress,
    ):
        task = progress.add_task("building SmolVLA", total=len(devices) * 4 * (rounds + 1))
        exact = full_size_policy(Path(folder) / "vlm", CAMERAS, seed)
        half = copy.deepcopy(exact)
        half.model.vlm_with_expert.bfloat16()
        for policy in (exact, half):
            adapt(policy, seed)
        batch = observation(exact, seed)
        size = (1, exact.config.chunk_size, exact.config.max_action_dim)
        noise = torch.randn(size, generator=torch.Generator().manual_seed(seed))
        for device, prefix in devices.items():

            def done(path: str, device: str = device) -> None:
                progress.update(task, advance=1, description=f"{device}: {path}")

            moved = {key: part.to(device) if torch.is_tensor(part) else part for key, part in batch.items()}
            turns, differences = compare(
                exact.to(device), half.to(device), moved, noise.to(device), rounds, done
            )
            figures |= {prefix + key: value for key, value in figures_of(turns, differences).items()}
            ok &= met(figures, prefix)
            tables.append(table(device, turns))
            if device == "cpu" and busy(turns):
                tables.append("The machine was not idle: the times are too long, the ratios uncertain.")
    print("\n\n".join(tables))
    return ok, figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, and returns the exit status; the last line is JSON."""
    parser = argparse.ArgumentParser(description="An action chunk by the fast path, beside LeRobot's.")
    parser.add_argument("--rounds", type=int, default=5, help="timed turns")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "bench-chunk.json", help="the result as JSON")
    options = parser.parse_args(arguments)
    return measured("chunk", options.out, lambda: measure(options.rounds, options.seed))


if __name__ == "__main__":
    sys.exit(main())
