"""Decoding one camera's part of an episode, once, small: what the gate needs to see and no more. PyAV
only."""

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.video.reformatter import VideoReformatter

THUMBNAIL = 64
"""Side of the grey thumbnails: 4 x 5 pixels of a 240x320 picture are averaged into one, so that a joint's
motion shows and sensor noise does not."""
SAMPLES = 12
"""Full pictures kept of a camera, spread evenly, for sharpness and noise: about one a second."""
TINT = 16
"""Side of the mean colour map."""

Kind = Literal["", "missing", "corrupt", "codec"]


@dataclass(frozen=True)
class Video:
    """One camera's part of an episode.

    Attributes:
        frames: Decoded frames in the episode's span.
        thumbnails: (frames, THUMBNAIL, THUMBNAIL) uint8, grey, 0..255.
        size: (height, width) as decoded.
        fault: Why it could not be decoded, or "".
        kind: What that means: the file is missing, corrupt, or of a codec unknown here ("codec").
        declared: (height, width) according to the metadata, or None.
        stamps: (frames,) seconds since the span's start, by the container; None where there are none.
        errors: Packets that the decoder refused or repaired.
        samples: Full grey pictures, uint8, and
        sample_frames: their frame numbers.
        tint: (2, TINT, TINT) mean Cb and Cr about 0; None for grey or unread video.
    """

    frames: int
    thumbnails: np.ndarray
    size: tuple[int, int]
    fault: str = ""
    kind: Kind = ""
    declared: tuple[int, int] | None = None
    stamps: np.ndarray | None = None
    errors: int = 0
    samples: tuple[np.ndarray, ...] = ()
    sample_frames: tuple[int, ...] = ()
    tint: np.ndarray | None = None


@dataclass(frozen=True)
class Span:
    """Where an episode lies in a video file: seconds, and how many frames it should have.

    `end` is None for the last episode in the file: everything that follows belongs to it.
    """

    start: float
    end: float | None
    fps: float
    frames: int


def unreadable(fault: str, kind: Kind, declared: tuple[int, int] | None = None) -> Video:
    """A video of which nothing could be seen."""
    return Video(0, np.zeros((0, THUMBNAIL, THUMBNAIL), np.uint8), (0, 0), fault, kind, declared)


def read_video(path: Path, span: Span, declared: tuple[int, int] | None = None) -> Video:
    """Decode an episode's span; never raises for what is wrong with the file, but says so in `fault`."""
    if not path.is_file():
        return unreadable(f"{path.name} is missing", "missing", declared)
    taken = _Taken(span.frames)
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                return unreadable(f"{path.name} holds no video stream", "corrupt", declared)
            for frame, time in _frames(container, span, taken):
                taken.add(frame, time - max(0.0, span.start))
    except (av.DecoderNotFoundError, av.error.PatchWelcomeError) as error:
        return unreadable(f"{path.name}: no decoder here for its codec ({error.strerror})", "codec", declared)
    except (av.FFmpegError, OSError, ValueError, IndexError, RuntimeError) as error:
        if not taken.thumbnails:
            cause = f"{path.name}: {type(error).__name__}: {getattr(error, 'strerror', error)}"
            return unreadable(cause, "corrupt", declared)
        taken.errors += 1
    return taken.video(declared)


def glimpse_video(path: Path, span: Span, declared: tuple[int, int] | None = None) -> Video:
    """A few pictures of the span, evenly spread, for comparing with: keyframes only, a tenth of the cost."""
    taken = _Taken(SAMPLES)
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            stream.codec_context.skip_frame = "NONKEY"
            base = stream.time_base or Fraction(1, 90_000)
            for i in range(SAMPLES):
                time = max(0.0, span.start) + span.frames / span.fps * (i + 0.5) / SAMPLES
                container.seek(int(time / base), stream=stream)
                taken.add(next(container.decode(stream)), time)
    except (av.FFmpegError, OSError, ValueError, IndexError, TypeError, StopIteration) as error:
        if not taken.thumbnails:
            return unreadable(f"{path.name}: {type(error).__name__}", "corrupt", declared)
    return taken.video(declared)


def read_pictures(pictures: Iterable[bytes | None], frames: int, declared: tuple[int, int] | None) -> Video:
    """The same for pictures that are stored one by one (PNG or JPEG) in the table."""
    taken = _Taken(frames)
    for number, data in enumerate(pictures):
        try:
            with av.open(io.BytesIO(data or b""), "r") as container:
                taken.add(next(container.decode(video=0)), float(number))
        except (av.FFmpegError, OSError, ValueError, StopIteration):
            taken.errors += 1
    if not taken.thumbnails:
        return unreadable("none of its pictures can be read", "corrupt", declared)
    video = taken.video(declared)
    return Video(**(video.__dict__ | {"stamps": None}))


def _frames(
    container: av.container.InputContainer, span: Span, taken: "_Taken"
) -> Iterator[tuple[av.VideoFrame, float]]:
    """Frames of the span with their times in the file, packet by packet, so that damage is counted."""
    stream = container.streams.video[0]
    stream.thread_type = "NONE"
    stream.codec_context.options = {"err_detect": "explode"}  # else damage is patched over in silence
    half = 0.5 / span.fps
    if span.start > 0 and stream.time_base:
        container.seek(int((span.start - half) / stream.time_base), stream=stream)
    for packet in container.demux(stream):
        try:
            decoded = packet.decode()
        except av.error.EOFError:
            return
        except (av.DecoderNotFoundError, av.error.PatchWelcomeError):
            raise
        except av.FFmpegError:
            taken.errors += 1
            continue
        for frame in decoded:
            assert isinstance(frame, av.VideoFrame)
            time = float(frame.time or 0.0)
            if span.end is not None and time >= span.end - half:
                return
            if span.start <= 0 or time >= span.start - half:
                taken.errors += bool(frame.is_corrupt)
                yield frame, time


@dataclass
class _Taken:
    expected: int
    thumbnails: list[np.ndarray] = field(default_factory=list)
    stamps: list[float] = field(default_factory=list)
    samples: list[np.ndarray] = field(default_factory=list)
    sample_frames: list[int] = field(default_factory=list)
    tints: list[np.ndarray] = field(default_factory=list)
    size: tuple[int, int] = (0, 0)
    errors: int = 0
    scaler: VideoReformatter = field(default_factory=VideoReformatter)
    """For the thumbnails alone: a new one for each frame would cost more than the scaling."""

    def __post_init__(self) -> None:
        last = max(0, self.expected - 1)
        self._wanted = {round(last * (i + 0.5) / SAMPLES) for i in range(SAMPLES)}

    def add(self, frame: av.VideoFrame, time: float) -> None:
        number = len(self.thumbnails)
        self.stamps.append(time)
        small = self.scaler.reformat(frame, THUMBNAIL, THUMBNAIL, "gray", interpolation="AREA")
        self.thumbnails.append(small.to_ndarray())
        if number == 0:
            self.size = frame.height, frame.width
        elif self.size != (frame.height, frame.width):
            self.errors += 1
        if number in self._wanted:
            self.samples.append(frame.reformat(format="gray").to_ndarray())
            self.sample_frames.append(number)
            self.tints.append(_tint(frame))

    def video(self, declared: tuple[int, int] | None) -> Video:
        count = len(self.thumbnails)
        return Video(
            frames=count,
            thumbnails=np.stack(self.thumbnails) if count else np.zeros((0, THUMBNAIL, THUMBNAIL), np.uint8),
            size=self.size,
            declared=declared,
            stamps=np.array(self.stamps),
            errors=self.errors,
            samples=tuple(self.samples),
            sample_frames=tuple(self.sample_frames),
            tint=np.mean(self.tints, axis=0) if self.tints else None,
        )


def _tint(frame: av.VideoFrame) -> np.ndarray:
    """(2, TINT, TINT) Cb and Cr about zero."""
    planes = frame.reformat(TINT, TINT, format="yuv444p", interpolation="AREA").to_ndarray()
    return planes[1:].astype(np.float32) - 128.0
