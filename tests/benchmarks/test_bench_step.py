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
    from benchmarks.full_size.step_variants import Outcome, difference

    apart = difference(Outcome(2.0, torch.tensor([3.0, 4.0])), Outcome(2.5, torch.tensor([3.0, 4.5])))
    assert (apart.loss, apart.gradient) == (0.25, pytest.approx(0.1))


def test_the_pace_from_disk_is_read_off_lerobots_log_and_the_cache_counts_once_per_frame():
    from benchmarks.full_size import end_to_end

    line = "INFO step:{} smpl:4 ep:0 epch:0.25 loss:1.2 grdn:1.0 lr:1.0e-04 updt_s:{} data_s:0.400"
    log = "\n".join(
        line.format(number, seconds) for number, seconds in ((1, 90.0), (2, 7.6), (3, 9.6), (4, 5.6))
    )
    assert end_to_end.lerobot_pace(log) == 2.0
    with pytest.raises(RuntimeError, match="told of 0 steps"):
        end_to_end.lerobot_pace("it ended early")
    figures = end_to_end.Pace(lerobot_s=2.0, ours_s=0.25, cached_s=3.5).figures()
    assert figures == {
        "lerobot_train_frames_per_s": 0.5,
        "trainer_frames_per_s": 4.0,
        "trainer_frames_per_s_10_visits": 1.667,
        "trainer_frames_per_s_100_visits": 3.509,
        "ratio_end_to_end": 8.0,
        "visits_until_the_cache_pays": 2.0,
    }
