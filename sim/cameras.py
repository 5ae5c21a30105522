"""What LeRobot's ZMQ camera does to a frame on its way: JPEG, with RGB passed to the encoder as it is.

`lerobot.cameras.zmq` publishers encode RGB arrays with OpenCV, which takes them for BGR, and the subscriber
decodes the same way: the colours come back in order, the compression works on swapped channels. Lockstep
frames take the same round trip, so that a policy sees the same artefacts on both clocks.
"""

import cv2
import numpy as np

JPEG_QUALITY = 95
"""OpenCV's default, hence what the ZMQ image server uses."""


def encode_frame(frame: np.ndarray) -> bytes:
    """JPEG of an (H, W, 3) uint8 RGB frame.

    Raises:
        ValueError: OpenCV cannot encode this array.
    """
    done, data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise ValueError(f"cannot encode a frame of shape {frame.shape}")
    return data.tobytes()


def decode_frame(data: bytes) -> np.ndarray:
    """The (H, W, 3) uint8 RGB frame of `encode_frame`.

    Raises:
        ValueError: The data is no JPEG.
    """
    frame = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if frame is None:
        raise ValueError("this is not a JPEG frame")
    return frame


def as_received(frame: np.ndarray) -> np.ndarray:
    """A frame as the arm's process receives it, (H, W, 3) uint8 RGB."""
    return decode_frame(encode_frame(frame))
