"""Ticks fall between the arrivals of the cameras' frames, and stay there."""

import numpy as np
import pytest

from agent.robot.loop import SLEW_S, Ticker
from agent.robot.phase import quietest

PERIOD = 1 / 30
RNG = np.random.default_rng(2)


def arrivals(first, fps=30.0, count=31, late=0.0):
    """Times of `count` frames; every third is `late`."""
    times = first + np.arange(count) / fps
    times[::3] += late
    return times.tolist()


def distance(a, b):
    return abs((a - b + PERIOD / 2) % PERIOD - PERIOD / 2)


@pytest.mark.parametrize(
    ("phases", "best"),
    [((0.002,), 0.002 + PERIOD / 2), ((0.0, 0.004), 0.004 + (PERIOD - 0.004) / 2), ((0.030, 0.001), 0.0155)],
)
def test_the_middle_of_the_longest_stretch_is_chosen(phases, best):
    found = quietest([arrivals(1000.0 * PERIOD + phase) for phase in phases], PERIOD)
    assert distance(found, best) < 1e-6


def test_frames_that_waited_for_the_processor_do_not_shift_it():
    assert distance(quietest([arrivals(0.0, late=0.02)], PERIOD), PERIOD / 2) < 1e-6
    hurried = [*arrivals(0.0, count=6), 6 * PERIOD + 0.012]  # the newest of few is late
    assert distance(quietest([hurried], PERIOD), PERIOD / 2) < 1e-6


@pytest.mark.parametrize(
    "cameras", [[], [[]], [[1.0, 1.0 + PERIOD]], [arrivals(0.0, fps=25)], [arrivals(0, 60)]]
)
def test_without_a_camera_of_the_loops_rate_there_is_none(cameras):
    assert quietest(cameras, PERIOD) is None


@pytest.mark.parametrize("fps", [29.9, 29.97, 30.03])
def test_a_camera_with_its_own_clock_is_neither_repeated_nor_skipped(fps):
    frames = np.array(arrivals(5.0, fps, count=4000)) + RNG.uniform(0, 0.004, 4000)
    now = [float(frames[40])]
    ticker = Ticker(30, quietest([frames[10:41].tolist()], PERIOD), clock=lambda: now[0])
    seen, before = [], None
    for _ in range(3600):
        come = int(np.searchsorted(frames, now[0]))
        ticker.follow(quietest([frames[come - 31 : come].tolist()], PERIOD))
        _, deadline = ticker.next_deadline()
        if before is not None:
            assert deadline - before == pytest.approx(PERIOD, abs=SLEW_S + 1e-9)
        before, now[0] = deadline, deadline
        seen.append(int(np.searchsorted(frames, deadline)))
    assert set(np.diff(seen)) == {1}


def test_a_steady_loop_does_not_move():
    ticker = Ticker(30, clock=lambda: 100.0)
    first = ticker.next_deadline()[1]
    ticker.follow(first + 7 * PERIOD + 0.001)
    ticker.follow(None)
    assert ticker.next_deadline()[1] == pytest.approx(first + PERIOD)
