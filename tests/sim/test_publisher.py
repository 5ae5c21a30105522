"""Frames through LeRobot's unmodified ZMQ camera."""

import time
from collections.abc import Iterator

import numpy as np
import pytest
from lerobot.cameras.zmq import ZMQCamera, ZMQCameraConfig

from shared.errors import ArmfleetError
from sim.faults import CameraFault
from sim.publisher import CameraPublisher, noise_patch

RED = np.full((96, 96, 3), (200, 30, 30), np.uint8)
GREEN = np.full((96, 96, 3), (30, 200, 30), np.uint8)


@pytest.fixture
def publisher() -> Iterator[CameraPublisher]:
    publisher = CameraPublisher("front", "127.0.0.1", 0, noise_patch(7, 8))
    yield publisher
    publisher.close()


@pytest.fixture
def camera(publisher: CameraPublisher) -> Iterator[ZMQCamera]:
    config = ZMQCameraConfig(
        server_address="127.0.0.1",
        port=publisher.port,
        camera_name="front",
        width=96,
        height=96,
        fps=30,
        timeout_ms=100,
    )
    camera = ZMQCamera(config)
    camera.connect(warmup=False)
    yield camera
    camera.disconnect()


def received(camera: ZMQCamera, publisher: CameraPublisher, frame: np.ndarray) -> np.ndarray | None:
    """What the camera reads when `frame` is published ten times; None if nothing arrives."""
    camera.new_frame_event.clear()
    for _ in range(10):
        publisher.publish(frame, time.time())
        time.sleep(0.02)
    try:
        return camera.async_read(timeout_ms=100)
    except TimeoutError:
        return None


def test_colours_arrive_in_order_and_the_canary_sits_in_the_corner(
    camera: ZMQCamera, publisher: CameraPublisher
) -> None:
    image = received(camera, publisher, RED)
    assert image is not None
    assert image.shape == (96, 96, 3)
    np.testing.assert_allclose(image[40:, 40:].mean((0, 1)), (200, 30, 30), atol=4)
    assert image[:8, :8].std() > 30
    assert image[16:, 16:].std(axis=(0, 1)).max() < 5


@pytest.mark.parametrize(
    ("fault", "expected"),
    [("black", (0, 0, 0)), ("frozen", (200, 30, 30)), ("stuck", (200, 30, 30)), ("silent", None)],
)
def test_faults(
    camera: ZMQCamera,
    publisher: CameraPublisher,
    fault: CameraFault,
    expected: tuple[int, int, int] | None,
) -> None:
    assert received(camera, publisher, RED) is not None
    publisher.fault = fault
    image = received(camera, publisher, GREEN)
    if expected is None:
        assert image is None
    else:
        assert image is not None
        np.testing.assert_allclose(image[40:, 40:].mean((0, 1)), expected, atol=4)


def test_a_taken_port_is_named(publisher: CameraPublisher) -> None:
    with pytest.raises(ArmfleetError, match=str(publisher.port)):
        CameraPublisher("front", "127.0.0.1", publisher.port)


def test_the_canary_depends_on_its_seed_only() -> None:
    np.testing.assert_array_equal(noise_patch(1, 8), noise_patch(1, 8))
    assert (noise_patch(1, 8) != noise_patch(2, 8)).any()
