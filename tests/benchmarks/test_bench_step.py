"""The arithmetic of `make bench-step`."""

import pytest
import torch

from benchmarks import bench_step as bench

GOOD = {
    "ratio_vision": 6.0,
    "ratio_prefix": 14.0,
    "ratio_shared_draws": 16.0,
    "loss_difference": 1e-7,
    "gradient_difference": 1e-5,
    "loss_difference_16bit": 1e-5,
    "gradient_difference_16bit": 1e-3,
}


def turn(stock, vision, prefix, shared, busy=1.0):
    names = (bench.STOCK, bench.VISION, bench.PREFIX, bench.SHARED)
    wall = dict(zip(names, (stock, vision, prefix, shared), strict=True))
    return bench.Turn(wall, {name: seconds / busy for name, seconds in wall.items()})


def test_ratios_are_within_a_turn_and_per_draw():
    slow = turn(70, 10, 5, 10)  # a neighbour made all of it five times slower
    found = bench.ratios([turn(14, 2, 1, 4), slow, turn(16, 2, 1, 4)], draws=4)
    assert found == {"ratio_vision": 7.0, "ratio_prefix": 14.0, "ratio_shared_draws": 16.0}


@pytest.mark.parametrize("figure", GOOD)
def test_each_target_counts(figure):
    assert bench.met(GOOD, "")
    worse = GOOD[figure] * 0.99 if figure.startswith("ratio") else GOOD[figure] * 1000
    assert not bench.met(GOOD | {figure: worse}, "")
    on_gpu = {f"gpu_{name}": value for name, value in (GOOD | {figure: worse}).items()}
    assert bench.met(on_gpu, "gpu_") == figure.startswith("ratio")


def test_a_busy_machine_is_noticed():
    assert not bench.busy([turn(14, 2, 1, 4)])
    assert bench.busy([turn(14, 2, 1, 4), turn(14, 2, 1, 4, busy=1.5)])
    assert "14.000" in bench.table("cpu", [turn(14, 2, 1, 4)])


def test_differences_are_relative():
    from benchmarks.step_variants import Outcome, difference

    apart = difference(Outcome(2.0, torch.tensor([3.0, 4.0])), Outcome(2.5, torch.tensor([3.0, 4.5])))
    assert (apart.loss, apart.gradient) == (0.25, pytest.approx(0.1))
