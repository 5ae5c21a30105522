"""Encodes the pictures of an episode while it is recorded, a thread per camera.

LeRobot's `DatasetWriter` calls the methods of `EpisodeEncoder` in place of its own `StreamingVideoEncoder`,
which does the same work with the same result, but costs half as much again: it copies every picture twice and
takes statistics of each one (a third of its time; its other way of recording takes them of a sample), and
when an encoder fails it does not say whether the disk was full.
"""

import queue
import shutil
import tempfile
import threading
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from lerobot.configs.video import RGBEncoderConfig
from lerobot.datasets.compute_stats import RunningQuantileStats, auto_downsample_height_width

QUEUE = 300
"""Pictures that may wait for an encoder, ten seconds: a full queue drops pictures while the rows stay."""
SAMPLED = 6
"""Every which picture goes into the statistics: 300 of a minute's 1800, of which LeRobot samples 277 where it
has them as files (`compute_stats.sample_indices`)."""
FINISH_S = 50.0
"""Longest wait for the pictures in a queue; below the arm process's own limit for saving."""
ENCODER_THREADS = 1


class EpisodeEncoder:
    """The videos of one episode at a time.

    Attributes:
        dropped: Pictures that found the queue full; their rows have none.

    Args:
        fps: Pictures per second.
        config: Codec and quality.
    """

    def __init__(self, fps: int, config: RGBEncoderConfig) -> None:
        self._fps, self._config = fps, config
        self._videos: dict[str, _Video] = {}
        self.dropped = 0

    def start_episode(
        self, video_keys: Iterable[str], temp_dir: Path, depth_video_keys: Iterable[str] = ()
    ) -> None:
        """Begin a video for each key, in a folder of its own below `temp_dir`; no camera here has depth."""
        self.cancel_episode()
        self.dropped = 0
        for key in video_keys:
            folder = Path(tempfile.mkdtemp(dir=temp_dir))
            video = self._videos[key] = _Video(folder / f"{key}.mp4", self._fps, self._config)
            video.start()

    def feed_frame(self, video_key: str, image: np.ndarray) -> None:
        """Take over one picture, (H, W, 3) uint8 RGB; nobody may write to it any more. Does not wait.

        Raises:
            OSError: the video can't be written, of this picture or an earlier one.
            RuntimeError: it can't be encoded.
        """
        video = self._videos[video_key]
        video.check()
        try:
            video.waiting.put_nowait(image)
        except queue.Full:
            self.dropped += 1

    def finish_episode(self) -> dict[str, tuple[Path, dict[str, np.ndarray]]]:
        """Encode what waits and close the files.

        Returns:
            By key: the file, and the statistics of its pictures' channels, values 0..255.

        Raises:
            OSError, RuntimeError: as `feed_frame`; RuntimeError also when it took longer than FINISH_S.
        """
        for video in self._videos.values():
            video.end()
        found = {}
        for key, video in self._videos.items():
            video.join(FINISH_S)
            if video.is_alive():
                raise RuntimeError(f"the encoder of {key} did not finish within {FINISH_S:g} s")
            video.check()
            found[key] = video.path, video.stats.get_statistics()
        self._videos.clear()
        return found

    def cancel_episode(self) -> None:
        """Throw away what was encoded and what waits."""
        for video in self._videos.values():
            video.cancelled = True
            video.end()
        for video in self._videos.values():
            video.join(FINISH_S)
            shutil.rmtree(video.path.parent, ignore_errors=True)
        self._videos.clear()

    def close(self) -> None:
        """As `cancel_episode`; does nothing after `finish_episode`."""
        self.cancel_episode()


class _Video(threading.Thread):
    """One camera's video."""

    def __init__(self, path: Path, fps: int, config: RGBEncoderConfig) -> None:
        super().__init__(name="encoder", daemon=True)
        self.path, self._fps, self._config = path, fps, config
        self.waiting: queue.Queue[np.ndarray | None] = queue.Queue(QUEUE)
        self.stats = RunningQuantileStats()
        self.cancelled = False
        self._error: Exception | None = None

    def check(self) -> None:
        """Raise what ended the thread, if something did."""
        error = self._error
        if isinstance(error, OSError):
            raise OSError(error.errno, f"{self.path.name}: {error.strerror}") from error
        if error is not None:
            raise RuntimeError(f"{self.path.name} can't be encoded: {error}") from error

    def end(self) -> None:
        """No picture follows."""
        while self.is_alive():
            try:
                self.waiting.put(None, timeout=0.1)
                return
            except queue.Full:
                continue

    def run(self) -> None:
        try:
            first = self.waiting.get()
            if first is not None:
                self._encode(first)
        except Exception as error:
            self._error = error

    def _encode(self, first: np.ndarray) -> None:
        options = self._config.get_codec_options(ENCODER_THREADS, as_strings=True)
        with av.open(str(self.path), "w") as container:
            stream = container.add_stream(self._config.vcodec, self._fps, options=options)
            stream.pix_fmt = self._config.pix_fmt
            stream.height, stream.width = first.shape[:2]
            stream.time_base = step = Fraction(1, self._fps)  # the container changes its own with the first
            image: np.ndarray | None = first
            number = 0
            while image is not None and not self.cancelled:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
                frame.pts, frame.time_base = number, step
                container.mux(stream.encode(frame))
                if number % SAMPLED == 0:
                    small = auto_downsample_height_width(image.transpose(2, 0, 1))
                    self.stats.update(small.transpose(1, 2, 0).reshape(-1, 3))
                number += 1
                image = self.waiting.get()
            container.mux(stream.encode())
