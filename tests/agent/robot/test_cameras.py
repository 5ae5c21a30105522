"""Frames are handed out once, to the tick they belong to, and a late one is waited for."""

import base64
import json
import time
from collections import deque
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lerobot.cameras.opencv import OpenCVCameraConfig
from lerobot.cameras.zmq import ZMQCameraConfig

from agent.config import ZmqCamera
from agent.robot.cameras import (
    KEPT,
    LATE_S,
    Camera,
    Received,
    StampedOpenCvCamera,
    StampedZmqCamera,
    belonging,
    frames_at,
)
from sim.cameras import encode_frame

PERIOD = 1 / 30
IMAGE = np.zeros((48, 64, 3), np.uint8)


class Source:
    """A camera that has sent frames at `at` (monotonic, s), and sends one more at the n-th question."""

    def __init__(self, at, comes_at_question=None):
        self._frames = deque([Received(IMAGE, time_, time_) for time_ in at], maxlen=KEPT)
        self.arrivals, self._questions, self._comes = list(at), 0, comes_at_question

    @property
    def received(self):
        self._questions += 1
        if self._questions == self._comes:
            now = time.monotonic()
            self._frames.append(Received(IMAGE, now, now))
        return self._frames


def camera(source):
    made = Camera("front", ZmqCamera(type="zmq", port=5555, width=64, height=48, fps=30))
    made._source = source  # no socket: only what has arrived matters here
    return made


def sent(newest_age, period=PERIOD):
    return time.monotonic() - newest_age - period * np.arange(10)[::-1]


def handed_out(source):
    made = camera(source)
    assert not made.frame(source.arrivals[-1]).repeat
    return made


def test_a_late_frame_is_waited_for():
    late = handed_out(Source(sent(PERIOD + 0.002), comes_at_question=8))
    assert not frames_at({"front": late}, time.monotonic())["front"].repeat


def test_a_frame_that_does_not_come_is_waited_for_only_so_long():
    absent = handed_out(Source(sent(PERIOD + 0.002)))
    began = time.monotonic()
    assert frames_at({"front": absent}, began)["front"].repeat
    assert LATE_S <= time.monotonic() - began < 20 * LATE_S


@pytest.mark.parametrize(("age", "period"), [(0.030, 2 * PERIOD), (0.001, PERIOD)])
def test_what_is_not_due_is_not_waited_for(age, period):
    now = time.monotonic()
    early = handed_out(Source(now - age - period * np.arange(10)[::-1]))
    assert not early.overdue(now, now)


@given(
    late=st.lists(st.floats(0, 0.017), min_size=30, max_size=60),
    overslept=st.lists(st.floats(0, 0.06), min_size=60, max_size=60),
    margin=st.floats(0.006, 0.027),
)
def test_neither_late_frames_nor_late_ticks_cost_a_frame(late, overslept, margin):
    """Frames `margin` before their deadlines, up to 17 ms late; ticks up to two periods late."""
    arrivals = [n * PERIOD - margin + min(delay, margin + LATE_S) for n, delay in enumerate(late)]
    frames = [Received(IMAGE, float(n), at) for n, at in enumerate(arrivals)]
    handed, got = frames[0], [0.0]
    for n in range(1, len(frames) - 3):
        now = n * PERIOD + LATE_S + overslept[n]
        kept = deque([frame for frame in frames if frame.at <= now], maxlen=KEPT)
        handed = belonging(kept, handed, n * PERIOD)
        got.append(handed.stamp)
    assert all(after - before == 1 for before, after in pairwise(got))


def test_a_message_with_the_stamp_of_the_one_before_is_no_new_frame():
    config = ZMQCameraConfig("127.0.0.1", 5555, camera_name="front", width=64, height=48, fps=30)
    source, jpeg = StampedZmqCamera(config), base64.b64encode(encode_frame(IMAGE)).decode()
    stamps = [7.0, 7.0, 7.1, 7.1, 7.1]
    messages = [json.dumps({"timestamps": {"front": at}, "images": {"front": jpeg}}) for at in stamps]
    source.socket = SimpleNamespace(recv=iter(messages).__next__)
    shown = [source._read_from_hardware() for _ in messages]
    assert [frame.stamp for frame in source.received] == [7.0, 7.1]
    assert len(source.arrivals) == 2
    assert shown[-1].shape == IMAGE.shape


def test_an_opencv_frame_has_the_time_of_its_capture():
    source = StampedOpenCvCamera(OpenCVCameraConfig(index_or_path=0, fps=30, width=64, height=48))
    source.capture_width, source.capture_height = 64, 48
    bgr = np.full((48, 64, 3), (1, 2, 3), np.uint8)
    began = time.monotonic(), time.time()
    shown = source._postprocess_image(bgr)
    [frame] = source.received
    assert frame.image is shown
    assert tuple(frame.image[0, 0]) == (3, 2, 1)
    assert began <= (frame.at, frame.stamp) <= (time.monotonic(), time.time())
