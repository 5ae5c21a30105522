"""The arithmetic of `make bench-record`."""

import json

import pytest

from benchmarks import bench_record as bench
from benchmarks.stock_record import Recorded

GOOD = {"dropped": 0, "repeated": 0, "period_p99_ms": 33.6, "cpu_ratio": 1.0, "next_start_s": 0.4}


def row(front, side, period=1 / 30, repeat=False):
    cameras = {"front": {"stamp": front, "repeat": repeat}, "side": {"stamp": side, "repeat": False}}
    return {"period": period, "cameras": cameras}


def rows(frames):
    """A row per frame number; None repeats the last one."""
    made, last = [], 0
    for frame in frames:
        last = last if frame is None else frame
        made.append(row(100 + last / 30, 100.01 + len(made) / 30, repeat=frame is None))
    return made


def test_frames_between_two_rows_are_counted_by_their_stamps():
    assert bench.skipped(rows(range(60)), 30) == 0
    assert bench.skipped(rows([0, 1, 3, 4, 8]), 30) == 1 + 3
    jitter = [row(100 + i / 30 + 0.012 * (i % 2), 100 + i / 30) for i in range(30)]
    assert bench.skipped(jitter, 30) == 0
    assert bench.skipped([], 30) == 0


def test_a_repeat_is_counted_once_and_is_no_gap():
    made = rows([0, 1, None, 2, None, None, 3])
    assert bench.repeated(made) == 3
    assert bench.skipped(made, 30) == 0


def test_rows_without_a_frame_in_the_video_are_counted_per_camera():
    assert bench.not_encoded(90, {"front": 90, "side": 90}) == 0
    assert bench.not_encoded(90, {"front": 87, "side": 89}) == 4


def test_cpu_is_compared_per_row_with_the_cheaper_of_the_two():
    ours = Recorded(1800, {"front": 1800}, 20.0, 0.41)
    stock = Recorded(900, {"front": 900}, 40.0, 9.0)
    streaming = Recorded(1600, {"front": 1600}, 32.0, 0.3)
    assert stock.cpu_per_minute() == pytest.approx(80.0)
    found = bench.figures(ours, rows(range(1800)), stock, streaming)
    assert json.loads(json.dumps(found)) == {
        "dropped": 0,
        "repeated": 0,
        "period_p99_ms": 33.33,
        "cpu_ratio": 0.556,
        "cpu_ratio_stock": 0.25,
        "cpu_ratio_streaming": 0.556,
        "next_start_s": 0.41,
        "lerobot_next_start_s": 9.0,
        "lerobot_streaming_next_start_s": 0.3,
    }
    assert bench.met(found)


@pytest.mark.parametrize(
    "missed",
    [{"dropped": 1}, {"repeated": 1}, {"period_p99_ms": 36.0}, {"cpu_ratio": 1.001}, {"next_start_s": 1.0}],
)
def test_each_target_can_be_missed(missed):
    assert bench.met(GOOD)
    assert not bench.met(GOOD | missed)


def test_the_stock_command_gets_the_encoder_settings_of_the_recorder():
    options = bench.encoder_options()
    assert "--dataset.streaming_encoding=true" in options
    assert "--dataset.rgb_encoder.crf=23" in options
    assert "--dataset.rgb_encoder.preset=veryfast" in options
