"""Cameras that say how old a frame is, and that say so when they stop.

LeRobot's `read_latest` repeats an old frame in silence; here every frame carries the publisher's time stamp
(ZMQ) or the capture time (OpenCV), and one that is too old raises CAMERA_LOST: an episode with it is not
kept.
"""

import base64
import json
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import zmq
from lerobot.cameras.opencv import OpenCVCamera, OpenCVCameraConfig
from lerobot.cameras.zmq import ZMQCamera, ZMQCameraConfig
from lerobot.utils.errors import DeviceNotConnectedError
from loguru import logger

from agent.config import OpenCvCamera, ZmqCamera
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode

FIRST_FRAME_S = 5.0
"""Longest wait for the first frame: a USB camera needs up to three seconds."""
LOST_S = 1.0
"""Age at which a camera counts as stopped: 30 missed frames at 30 Hz."""
RECEIVE_MS = 500
RATE_OVER = 31
"""Arrivals from which a camera's rate is told: those of the last second at 30 Hz."""
POLL_S = 0.02
LATE_S, LATE_POLL_S = 0.008, 0.001
"""How long a tick waits for a frame that should be there: a quarter of a period at 30 Hz, on top of what the
loop's phase leaves (`agent.robot.phase`). Else the one before is recorded twice, and this one never."""

cv2.setNumThreads(1)


@dataclass(frozen=True)
class Frame:
    """One image.

    Attributes:
        image: (H, W, 3) uint8, RGB. Shared, not to be written to.
        stamp: When the publisher took it, seconds since the epoch.
        age_s: Its age when it was handed out.
        repeat: The same frame was handed out before.
    """

    image: np.ndarray
    stamp: float
    age_s: float
    repeat: bool


class Received(NamedTuple):
    """A frame as its camera thread left it; `at` is the local monotonic time of its arrival."""

    image: np.ndarray
    stamp: float
    at: float


class _Stamped(Protocol):
    """What `Camera` needs from a LeRobot camera."""

    def latest(self) -> Received | None: ...
    def connect(self, warmup: bool = True) -> None: ...
    def disconnect(self) -> None: ...
    @property
    def alive(self) -> bool: ...
    @property
    def arrivals(self) -> deque[float]: ...


class StampedZmqCamera(ZMQCamera):
    """LeRobot's ZMQ camera, keeping the publisher's time stamp that the original throws away."""

    def __init__(self, config: ZMQCameraConfig) -> None:
        super().__init__(config)
        self._newest: Received | None = None
        self.arrivals: deque[float] = deque(maxlen=RATE_OVER)

    def latest(self) -> Received | None:
        """The newest frame, or None before the first."""
        return self._newest

    @property
    def alive(self) -> bool:
        """The receiving thread runs; LeRobot's ends after eleven time-outs in a row."""
        return self.thread is not None and self.thread.is_alive()

    def _read_from_hardware(self) -> np.ndarray:
        socket = self.socket
        if socket is None:
            raise DeviceNotConnectedError(f"{self} is closed")
        try:
            message: dict[str, Any] = json.loads(socket.recv())
        except zmq.Again as error:
            raise TimeoutError(f"no frame within {RECEIVE_MS} ms") from error
        images = message["images"]
        name = self.camera_name if self.camera_name in images else next(iter(images))
        image = cv2.imdecode(np.frombuffer(base64.b64decode(images[name]), np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise RuntimeError(f"{self} received something that is no image")
        stamp = float(message.get("timestamps", {}).get(name, time.time()))
        self._newest = Received(image, stamp, time.monotonic())
        self.arrivals.append(self._newest.at)
        return image


class StampedOpenCvCamera(OpenCVCamera):
    """LeRobot's OpenCV camera with the capture time as wall clock."""

    def __init__(self, config: OpenCVCameraConfig) -> None:
        super().__init__(config)
        self.arrivals: deque[float] = deque(maxlen=RATE_OVER)
        self._captured: float | None = None
        self._newest: Received | None = None

    def latest(self) -> Received | None:
        """The newest frame, or None before the first. It keeps its stamp: repeats are told by that."""
        with self.frame_lock:
            image, captured = self.latest_frame, self.latest_timestamp
        if image is not None and captured is not None and captured != self._captured:
            age = time.perf_counter() - captured
            self._newest = Received(image, time.time() - age, time.monotonic() - age)
            self._captured = captured
        return self._newest

    @property
    def alive(self) -> bool:
        """The capturing thread runs."""
        return self.thread is not None and self.thread.is_alive()

    def _read_from_hardware(self) -> np.ndarray:
        image = super()._read_from_hardware()
        self.arrivals.append(time.monotonic())
        return image


class Camera:
    """One configured camera of the workstation.

    Args:
        name: As in [cameras.NAME]; the dataset's key is observation.images.NAME.
        config: Its section of agent.toml.
    """

    def __init__(self, name: str, config: ZmqCamera | OpenCvCamera) -> None:
        self.name, self.config = name, config
        self._source: _Stamped | None = None
        self._last_stamp = 0.0

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, 3)."""
        return self.config.height, self.config.width, 3

    def connect(self) -> None:
        """Start receiving, and wait for the first frame.

        Raises:
            ArmfleetError: CAMERA_LOST: no frame within FIRST_FRAME_S, or one of another size than configured.
        """
        self.close()
        source = self._build()
        try:
            source.connect(warmup=False)
            deadline = time.monotonic() + FIRST_FRAME_S
            while (newest := source.latest()) is None:
                if time.monotonic() > deadline:
                    raise self._lost(f"sent no frame within {FIRST_FRAME_S:g} s")
                time.sleep(POLL_S)
            if newest.image.shape != self.shape:
                found = f"{newest.image.shape[1]}x{newest.image.shape[0]}"
                raise self._lost(f"sends {found}, configured are {self.config.width}x{self.config.height}")
        except ArmfleetError:
            _disconnect(source)
            raise
        except Exception as error:
            _disconnect(source)
            raise self._lost(f"can't be opened: {error}") from error
        self._source = source
        logger.bind(camera=self.name).info("camera {} delivers", self.name)

    def latest(self) -> Frame:
        """The newest frame, at once.

        Raises:
            ArmfleetError: CAMERA_LOST: the newest frame is older than LOST_S.
        """
        newest = self._source.latest() if self._source else None
        if newest is None:
            raise self._lost("is not connected")
        # Judged by arrival: the publisher's clock may be another machine's.
        silence = time.monotonic() - newest.at
        if silence > LOST_S:
            raise self._lost(f"sent its last frame {silence:.1f} s ago")
        repeat, self._last_stamp = newest.stamp == self._last_stamp, newest.stamp
        return Frame(newest.image, newest.stamp, time.time() - newest.stamp, repeat)

    def overdue(self, now: float) -> bool:
        """Whether the newest frame was handed out already and by `now` (monotonic) the next should be in."""
        newest, rate = self._source.latest() if self._source else None, _rate(self.arrivals)
        if newest is None or rate is None or newest.stamp != self._last_stamp:
            return False
        return newest.at + 1 / rate <= now

    @property
    def arrivals(self) -> list[float]:
        """Monotonic times at which the last frames came, oldest first."""
        return list(self._source.arrivals) if self._source else []

    def revive(self) -> None:
        """Connect again if it has stopped; raises as `connect`. For idle times: it may take FIRST_FRAME_S."""
        if self._source is None or not self._source.alive:
            self.connect()

    def close(self) -> None:
        """Stop receiving."""
        source, self._source = self._source, None
        if source is not None:
            _disconnect(source)

    def status(self) -> dict[str, object]:
        """For `status` of the arm process; JSON-ready."""
        newest = self._source.latest() if self._source else None
        age = round(time.time() - newest.stamp, 3) if newest else None
        rate = _rate(self.arrivals)
        return {"connected": self._source is not None, "age_s": age, "rate_hz": rate}

    def _build(self) -> _Stamped:
        size = {"fps": self.config.fps, "width": self.config.width, "height": self.config.height}
        if isinstance(self.config, ZmqCamera):
            return StampedZmqCamera(
                ZMQCameraConfig(
                    server_address=self.config.address,
                    port=self.config.port,
                    camera_name=self.name,
                    timeout_ms=RECEIVE_MS,
                    **size,
                )
            )
        return StampedOpenCvCamera(OpenCVCameraConfig(index_or_path=self.config.index_or_path, **size))

    def _lost(self, cause: str) -> ArmfleetError:
        return ArmfleetError(
            f"camera {self.name} {cause}",
            kept="all saved episodes; one that was being recorded is not kept",
            do="check its cable and its section in agent.toml; the agent connects again by itself",
            code=ExitCode.CAMERA_LOST,
        )


def _rate(arrivals: Sequence[float]) -> float | None:
    """Frames per second over the last second or so; None before there are two."""
    if len(arrivals) < 2 or arrivals[-1] == arrivals[0]:
        return None
    return round((len(arrivals) - 1) / (arrivals[-1] - arrivals[0]), 1)


def latest_frames(cameras: Mapping[str, Camera]) -> dict[str, Frame]:
    """The newest frame of each camera; a late one is waited for up to LATE_S. Raises as `Camera.latest`."""
    now = time.monotonic()
    until = now + LATE_S
    while now < until and any(camera.overdue(now) for camera in cameras.values()):
        time.sleep(LATE_POLL_S)
        now = time.monotonic()
    return {name: camera.latest() for name, camera in cameras.items()}


def _disconnect(source: _Stamped) -> None:
    with suppress(DeviceNotConnectedError):
        source.disconnect()
