"""Keeping a rollout while it runs, and writing it when it is over: trace, video, record; whole or not at
all."""

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import av
import cv2
import numpy as np

from agent.evaluation.rollouts import FILE, TRACE, VIDEO, RolloutFigures, RolloutRecord
from agent.robot.loop import Observation
from shared.files import durable_folder

VIDEO_HZ = 10
WIDEST = 320
"""Pixels of one camera in the video; a rollout of 20 s with two of them then fits in 10 MB of memory."""
JPEG_QUALITY = 90
CRF = "18"


class Figures(Protocol):
    """What the engine counted; see `agent.inference.engine.EngineFigures`."""

    chunks: int
    starved: int
    latency_ms_mean: float
    latency_ms_max: float
    latency_counts: list[int]


class RolloutTrace:
    """Collects ticks in memory. Frames are kept as JPEG, ten a second.

    Args:
        fps: Ticks per second.
    """

    def __init__(self, fps: int) -> None:
        self._every = max(1, round(fps / VIDEO_HZ))
        self._rows: list[str] = []
        self._periods: list[float] = []
        self._pictures: list[bytes] = []

    def add(self, seen: Observation, goal: np.ndarray) -> None:
        """One tick of the running phase."""
        if len(self._rows) % self._every == 0 and seen.frames:
            self._pictures.append(_picture([frame.image for frame in seen.frames.values()]))
        if self._rows:
            self._periods.append(seen.period_s)
        row = {
            "tick": seen.tick,
            "wall": round(seen.wall, 6),
            "state": [round(float(value), 3) for value in seen.state],
            "goal": [round(float(value), 3) for value in goal],
            "retries": seen.retries,
        }
        self._rows.append(json.dumps(row))

    def figures(self, engine: Figures, bounded: int) -> RolloutFigures:
        """The numbers of the rollout; `bounded` as in them."""
        periods = 1e3 * np.array(self._periods or [0.0])
        return RolloutFigures(
            ticks=len(self._rows),
            chunks=engine.chunks,
            starved=engine.starved,
            bounded=bounded,
            latency_ms_mean=engine.latency_ms_mean,
            latency_ms_max=engine.latency_ms_max,
            latency_counts=engine.latency_counts,
            period_ms_mean=round(float(periods.mean()), 3),
            period_ms_max=round(float(periods.max()), 3),
        )

    def write(self, root: Path, record: RolloutRecord) -> Path:
        """Write the rollout's folder below `root`; the folder.

        Raises:
            OSError: the disk is full, or the id is taken.
        """
        with durable_folder(root / record.id) as work:
            (work / TRACE).write_text("".join(row + "\n" for row in self._rows))
            write_video(work / VIDEO, self._pictures)
            (work / FILE).write_text(record.model_dump_json(indent=1) + "\n")
        return root / record.id


def write_video(path: Path, pictures: Sequence[bytes], hz: int = VIDEO_HZ) -> None:
    """Encode JPEG pictures of equal size as H.264; no file for none."""
    if not pictures:
        return
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "h264", rate=hz, options={"crf": CRF, "preset": "veryfast", "threads": "1"}
        )
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, hz)
        for index, jpeg in enumerate(pictures):
            image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
            assert image is not None  # encoded by `_picture`
            if index == 0:
                stream.height, stream.width = image.shape[:2]
            frame = av.VideoFrame.from_ndarray(image.astype(np.uint8, copy=False), format="bgr24")
            frame.pts, frame.time_base = index, Fraction(1, hz)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _picture(images: Sequence[np.ndarray]) -> bytes:
    """Cameras side by side at the height of the lowest, at most WIDEST wide each, sides even; RGB in, JPEG
    out."""
    scale = min(1.0, *(WIDEST / image.shape[1] for image in images))
    height = round(min(image.shape[0] for image in images) * scale) // 2 * 2
    row = []
    for image in images:
        width = round(image.shape[1] * height / image.shape[0]) // 2 * 2
        row.append(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
    bgr = cv2.cvtColor(np.hstack(row), cv2.COLOR_RGB2BGR)
    done, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert done
    return jpeg.tobytes()
