"""The arithmetic of `make bench-chunk`, and its comparison on the tiny base."""

import copy
from pathlib import Path

import pytest
import torch

from benchmarks import bench_chunk as bench
from benchmarks.bench_chunk import OURS, OURS_BF16, STOCK, STOCK_BF16, Lap, Turn

GOOD = {"ratio": 1.5, "max_action_difference": 0.05, "fp32_max_action_difference": 1e-5}


def turn(stock: float, ours: float, busy: float = 1.0) -> Turn:
    """bf16 takes half the time."""
    seconds = {STOCK: stock, STOCK_BF16: stock / 2, OURS: ours, OURS_BF16: ours / 2}
    return {path: Lap(wall, wall / busy) for path, wall in seconds.items()}


def test_ratios_are_within_a_turn() -> None:
    slow = turn(30, 20)  # a neighbour made all of it slower
    found = bench.figures_of([turn(3, 2), slow, turn(4, 2)], {OURS: 1e-6, OURS_BF16: 0.01, STOCK_BF16: 0.02})
    assert (found["ratio"], found["fp32_ratio"], found["bf16_ratio"], found["ratio_processor"]) == (
        3,
        1.5,
        1.5,
        3,
    )
    assert (found["latency_ms"], found["fp32_latency_ms"], found["stock_latency_ms"]) == (1000, 2000, 4000)
    assert (found["max_action_difference"], found["fp32_max_action_difference"]) == (0.01, 1e-6)


@pytest.mark.parametrize(
    ("figure", "bad"),
    [("ratio", 1.49), ("max_action_difference", 0.06), ("fp32_max_action_difference", 2e-5)],
)
def test_each_target_counts(figure: str, bad: float) -> None:
    assert bench.met(GOOD, "")
    assert not bench.met(GOOD | {figure: bad}, "")
    on_gpu = {"gpu_" + key: value for key, value in (GOOD | {figure: bad}).items()}
    assert bench.met(on_gpu, "gpu_") == (figure == "ratio")


def test_a_busy_machine_is_noticed() -> None:
    assert not bench.busy([turn(3, 2)])
    assert bench.busy([turn(3, 2), turn(3, 2, busy=1.5)])
    assert "3.000" in bench.table("cpu", [turn(3, 2)])


def test_all_paths_are_timed_on_the_same_observation(tiny_base: Path) -> None:
    from shared.policy.base import load_base, load_processors

    exact, (preprocess, _) = load_base(tiny_base), load_processors(tiny_base)
    batch = preprocess(
        {
            "observation.state": torch.zeros(1, 6),
            "observation.images.front": torch.rand(1, 3, 96, 96),
            "task": [bench.TASK],
        }
    )
    noise = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(0))
    half = copy.deepcopy(exact)
    half.model.vlm_with_expert.bfloat16()
    for policy in (exact, half):
        bench.adapt(policy, 0)
    done: list[str] = []
    turns, differences = bench.compare(exact, half, batch, noise, 2, done.append)
    assert differences[STOCK] == 0 < differences[OURS] <= 1e-5 < differences[OURS_BF16]
    assert (len(turns), len(done)) == (2, 12)
    assert all(lap.wall > 0 for each in turns for lap in each.values())
