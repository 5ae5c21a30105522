"""Publishes a camera's frames as LeRobot's `ZMQCamera` expects them.

One PUB socket per camera; each message is one JSON text
`{"timestamps": {name: seconds}, "images": {name: base64 JPEG}}` (`lerobot.cameras.zmq.camera_zmq`). The
timestamp is the wall clock when the frame was rendered: LeRobot's `read_latest` repeats old frames
silently, and nothing else tells.
"""

import base64
import json
from typing import Any

import numpy as np
import zmq
from loguru import logger

from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from sim.cameras import encode_frame
from sim.faults import CameraFault

QUEUED_FRAMES = 2
"""Frames kept for a subscriber that lags; older ones are dropped, as a camera drops them."""


def noise_patch(seed: int, pixels: int) -> np.ndarray:
    """The canary: (pixels, pixels, 3) uint8 noise. Where its bytes turn up, an image has been."""
    return np.random.default_rng(seed).integers(0, 256, (pixels, pixels, 3), np.uint8)


class CameraPublisher:
    """One virtual camera's socket. Use it on one thread only.

    Args:
        name: the camera's name in the messages.
        host, port: where subscribers connect; port 0 picks a free one.
        canary: (n, n, 3) uint8 patch put into the upper left corner of every image, or None.

    Raises:
        ArmfleetError: CAMERA_LOST, the port is taken.
    """

    def __init__(self, name: str, host: str, port: int, canary: np.ndarray | None = None) -> None:
        self.name = name
        self.fault: CameraFault = "none"
        self._canary = canary
        self._frozen: bytes | None = None
        self._stuck: str | None = None
        self._socket: zmq.Socket[Any] = zmq.Context.instance().socket(zmq.PUB)
        self._socket.setsockopt(zmq.SNDHWM, QUEUED_FRAMES)
        self._socket.setsockopt(zmq.LINGER, 0)
        try:
            self._socket.bind(f"tcp://{host}:{port or '*'}")
        except zmq.ZMQError as error:
            self._socket.close()
            raise ArmfleetError(
                f"camera {name} can't be published on port {port} of {host}: {error}",
                do="choose another port",
                code=ExitCode.CAMERA_LOST,
            ) from error
        endpoint: str = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self.port = int(endpoint.rsplit(":", 1)[1])
        logger.info("Camera {} is published at {}", name, endpoint)

    def publish(self, frame: np.ndarray, timestamp: float) -> None:
        """Sends one (H, W, 3) uint8 RGB frame, rendered at `timestamp` (wall clock, s)."""
        fault = self.fault
        if fault == "silent":
            return
        if fault != "frozen" or self._frozen is None:
            self._frozen = encode_frame(self._finish(frame, fault))
        if fault != "stuck" or self._stuck is None:
            image = base64.b64encode(self._frozen).decode()
            self._stuck = json.dumps({"timestamps": {self.name: timestamp}, "images": {self.name: image}})
        self._socket.send_string(self._stuck)

    def close(self) -> None:
        """Closes the socket; frames not yet sent are dropped."""
        self._socket.close()

    def _finish(self, frame: np.ndarray, fault: CameraFault) -> np.ndarray:
        if fault == "black":
            return np.zeros_like(frame)
        if self._canary is None:
            return frame
        frame = frame.copy()
        side = len(self._canary)
        frame[:side, :side] = self._canary
        return frame
