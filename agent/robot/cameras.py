"""Cameras that say how old a frame is, and that say so when they stop.

LeRobot's `read_latest` repeats an old frame in silence; here every frame carries the publisher's time stamp
(ZMQ) or the capture time (OpenCV), and one that is too old raises CAMERA_LOST: an episode with it is not
kept. A message with the stamp of the one before it is the same frame again, and none.

A tick gets the frame that belongs to its deadline (`belonging`), also when it comes late itself. The newest
one would be the next tick's, which would then find nothing new: one frame lost and one recorded twice.
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
LATE_S, LATE_POLL_S = 0.012, 0.001
"""How long after its deadline a tick waits for a frame that should be there: a third of a period at 30 Hz, on
top of what the loop's phase leaves (`agent.robot.phase`). Else the one before is recorded twice, and this one
never."""
KEPT = 3
"""Frames a camera keeps: a tick that is late by up to two periods finds its own."""

cv2.setNumThreads(1)


@dataclass(frozen=True)
class Frame:
    """One image.

    Attributes:
        image: (H, W, 3) uint8, RGB. Shared, not to be written to.
        stamp: When the publisher took it, seconds since the epoch.
        age_s: Its age when it was handed out.
        repeat: The same frame was handed out before.
        at: When it came here, monotonic seconds: the publisher's clock may be another machine's.
    """

    image: np.ndarray
    stamp: float
    age_s: float
    repeat: bool
    at: float


class Received(NamedTuple):
    """A frame as its camera thread left it; `at` is the local monotonic time of its arrival."""

    image: np.ndarray
    stamp: float
    at: float


class _Stamped(Protocol):
    """What `Camera` needs from a LeRobot camera."""

    received: deque[Received]
    arrivals: deque[float]

    def connect(self, warmup: bool = True) -> None: ...
    def disconnect(self) -> None: ...
    @property
    def alive(self) -> bool: ...


class StampedZmqCamera(ZMQCamera):
    """LeRobot's ZMQ camera, keeping the publisher's time stamp that the original throws away."""

    def __init__(self, config: ZMQCameraConfig) -> None:
        super().__init__(config)
        self.received: deque[Received] = deque(maxlen=KEPT)
        self.arrivals: deque[float] = deque(maxlen=RATE_OVER)

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
        if not self.received or stamp != self.received[-1].stamp:
            at = time.monotonic()
            self.received.append(Received(image, stamp, at))
            self.arrivals.append(at)
        return image


class StampedOpenCvCamera(OpenCVCamera):
    """LeRobot's OpenCV camera with the capture time as wall clock."""

    def __init__(self, config: OpenCVCameraConfig) -> None:
        super().__init__(config)
        self.received: deque[Received] = deque(maxlen=KEPT)
        self.arrivals: deque[float] = deque(maxlen=RATE_OVER)

    @property
    def alive(self) -> bool:
        """The capturing thread runs."""
        return self.thread is not None and self.thread.is_alive()

    def _postprocess_image(self, image: np.ndarray) -> np.ndarray:
        image, at = super()._postprocess_image(image), time.monotonic()
        self.received.append(Received(image, time.time(), at))
        self.arrivals.append(at)
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
        self._handed: Received | None = None

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
            while not source.received:
                if time.monotonic() > deadline:
                    raise self._lost(f"sent no frame within {FIRST_FRAME_S:g} s")
                time.sleep(POLL_S)
            height, width, _ = source.received[-1].image.shape
            if (height, width, 3) != self.shape:
                found = f"{width}x{height}"
                raise self._lost(f"sends {found}, configured are {self.config.width}x{self.config.height}")
        except ArmfleetError:
            _disconnect(source)
            raise
        except Exception as error:
            _disconnect(source)
            raise self._lost(f"can't be opened: {error}") from error
        self._source = source
        logger.bind(camera=self.name).info("camera {} delivers", self.name)

    def check(self) -> None:
        """Whether it delivers.

        Raises:
            ArmfleetError: CAMERA_LOST: the newest frame is older than LOST_S, or there is none.
        """
        self._alive()

    def frame(self, deadline: float) -> Frame:
        """The frame that belongs to `deadline` (monotonic, s), at once. Raises as `check`."""
        received = self._alive()
        chosen = belonging(received, self._handed, deadline)
        repeat, self._handed = chosen is self._handed, chosen
        return Frame(chosen.image, chosen.stamp, time.time() - chosen.stamp, repeat, chosen.at)

    def overdue(self, deadline: float, now: float) -> bool:
        """Whether the frame that belongs to `deadline` should be in by `now` and isn't (monotonic, s)."""
        received, rate = self._received(), _rate(self.arrivals)
        if not received or rate is None or belonging(received, self._handed, deadline) is not self._handed:
            return False
        return received[-1].at + 1 / rate <= now

    def _alive(self) -> list[Received]:
        received = self._received()
        if not received:
            raise self._lost("is not connected")
        # Judged by arrival: the publisher's clock may be another machine's.
        silence = time.monotonic() - received[-1].at
        if silence > LOST_S:
            raise self._lost(f"sent its last frame {silence:.1f} s ago")
        return received

    def _received(self) -> list[Received]:
        return list(self._source.received) if self._source else []

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
        received = self._received()
        age = round(time.time() - received[-1].stamp, 3) if received else None
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


def belonging(received: Sequence[Received], handed: Received | None, deadline: float) -> Received:
    """The newest frame that had come by `deadline`; if that was handed out before, the one that came within
    LATE_S after it.

    Args:
        received: The last frames, oldest first; at least one.
        handed: What the tick before got.
        deadline: Monotonic, s.

    Returns:
        A frame; `handed` itself where the next is not in. Of frames that all came later, the oldest.
    """
    came = [frame for frame in received if frame.at <= deadline]
    if came and came[-1] is not handed:
        return came[-1]
    late = [frame for frame in received if deadline < frame.at <= deadline + LATE_S]
    return late[0] if late else came[-1] if came else received[0]


def frames_at(cameras: Mapping[str, Camera], deadline: float) -> dict[str, Frame]:
    """The frame of each camera that belongs to `deadline` (monotonic, s). Waits for one that is late until
    LATE_S after the deadline. Raises as `Camera.check`."""
    now = time.monotonic()
    while now < deadline + LATE_S and any(camera.overdue(deadline, now) for camera in cameras.values()):
        time.sleep(LATE_POLL_S)
        now = time.monotonic()
    return {name: camera.frame(deadline) for name, camera in cameras.items()}


def _disconnect(source: _Stamped) -> None:
    with suppress(DeviceNotConnectedError):
        source.disconnect()
