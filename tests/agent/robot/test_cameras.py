"""Frames are handed out once, and a late one is waited for."""

import threading
import time

import numpy as np
import pytest
from lerobot.cameras.opencv import OpenCVCameraConfig

from agent.config import ZmqCamera
from agent.robot.cameras import LATE_S, Camera, Received, StampedOpenCvCamera, latest_frames

PERIOD = 1 / 30
IMAGE = np.zeros((48, 64, 3), np.uint8)


class Source:
    """A camera that has sent frames at `at` (monotonic, s), and sends one more at the n-th question."""

    def __init__(self, at, comes_at_call=None):
        self.arrivals, self.calls, self._comes = list(at), 0, comes_at_call

    def latest(self):
        self.calls += 1
        if self.calls == self._comes:
            self.arrivals.append(time.monotonic())
        return Received(IMAGE, self.arrivals[-1], self.arrivals[-1])


def camera(source):
    made = Camera("front", ZmqCamera(type="zmq", port=5555, width=64, height=48, fps=30))
    made._source = source  # no socket: only what has arrived matters here
    return made


def sent(newest_age, period=PERIOD):
    return time.monotonic() - newest_age - period * np.arange(10)[::-1]


def test_a_late_frame_is_waited_for():
    source = Source(sent(0.0), comes_at_call=6)
    late = camera(source)
    assert not late.latest().repeat
    source.arrivals = list(sent(PERIOD + 0.002))
    late._last_stamp = source.arrivals[-1]
    assert not latest_frames({"front": late})["front"].repeat


def test_a_frame_that_does_not_come_is_waited_for_only_so_long():
    source = Source(sent(PERIOD + 0.002))
    absent = camera(source)
    absent._last_stamp = source.arrivals[-1]
    began = time.monotonic()
    assert latest_frames({"front": absent})["front"].repeat
    assert LATE_S <= time.monotonic() - began < 20 * LATE_S


@pytest.mark.parametrize(("age", "period"), [(0.030, 2 * PERIOD), (0.001, PERIOD)])
def test_what_is_not_due_is_not_waited_for(age, period):
    now = time.monotonic()
    source = Source(now - age - period * np.arange(10)[::-1])
    early = camera(source)
    early._last_stamp = source.arrivals[-1]
    assert not early.overdue(now)


def test_an_opencv_frame_keeps_its_stamp():
    source = StampedOpenCvCamera(OpenCVCameraConfig(index_or_path=0, fps=30, width=64, height=48))
    source.frame_lock = threading.Lock()
    source.latest_frame, source.latest_timestamp = IMAGE, time.perf_counter()
    first = source.latest()
    assert source.latest() is first
    source.latest_timestamp += PERIOD
    assert source.latest().stamp != first.stamp
