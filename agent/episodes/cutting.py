"""Cutting one episode's part out of a dataset's video: packets as they are where it begins at a key frame and
nothing refers across its borders, else decoded and encoded again. PyAV; free of torch and LeRobot.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode

CODEC, CRF, GOP = "libx264", 17, 2
"""For parts that must be encoded again: visually lossless, and a key frame every other frame as in LeRobot's
own recordings, so that training may read frames in any order."""
OPTIONS = {"crf": str(CRF), "g": str(GOP), "preset": "veryfast"}


@dataclass(frozen=True)
class Span:
    """Seconds [start, end) of a video; half a frame of tolerance on both sides."""

    start: float
    end: float
    fps: float

    def holds(self, time: float) -> bool:
        """Whether a frame shown at `time` belongs to the span."""
        half = 0.5 / self.fps
        return self.start - half <= time < self.end - half


def cut(source: Path, span: Span, target: Path, may_encode: bool = True) -> bool:
    """Write the frames of `span` to `target`, its first one at time 0; whether they were encoded again.

    Frames that the source lacks are lacking in the target too: that is the gate's to see.

    Raises:
        ArmfleetError: EPISODE_DAMAGED: unreadable, no frame in the span, or it would have to be encoded again
            where `may_encode` is false (a depth map, whose values that would change).
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        packets = _packets(source, span)
        if packets is not None:
            _copy(source, packets, target)
            return False
        if not may_encode:
            raise _damaged(source, "its episodes begin between key frames, and depth can't be re-encoded")
        _encode(source, span, target)
    except (av.FFmpegError, OSError, IndexError) as error:
        raise _damaged(source, f"{type(error).__name__}: {error}") from error
    return True


def _packets(source: Path, span: Span) -> list[Any] | None:
    """The packets of the span in decoding order, or None where copying them would lose or add frames."""
    with av.open(str(source)) as container:
        stream = container.streams.video[0]
        base = stream.time_base
        if base is None:
            return None
        container.seek(max(0, int(span.start / base)), stream=stream)
        chosen: list[Any] = []
        past_end = False
        for packet in container.demux(stream):
            if packet.pts is None or packet.dts is None:
                continue
            time = float(packet.pts * base)
            if span.holds(time):
                if (
                    past_end
                    or (not chosen and not packet.is_keyframe)
                    or (chosen and packet.pts < chosen[0].pts)
                ):
                    return None  # it refers to a frame outside
                chosen.append(packet)
            elif chosen and time < span.start:
                return None  # decoded after our key frame, shown before it: an open group of pictures
            elif chosen:
                past_end = True
            if float(packet.dts * base) >= span.end:
                break
    return chosen or None


def _frames(source: Path, span: Span) -> Iterator[Any]:
    with av.open(str(source)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        if stream.time_base:
            container.seek(max(0, int(span.start / stream.time_base)), stream=stream)
        for frame in container.decode(stream):
            time = frame.time or 0.0
            if time >= span.end:
                return
            if span.holds(time):
                yield frame


def _copy(source: Path, packets: list[Any], target: Path) -> None:
    with av.open(str(source)) as origin, av.open(str(target), "w", format="mp4") as container:
        stream = container.add_stream_from_template(origin.streams.video[0])
        first, base = packets[0].pts, packets[0].time_base
        for packet in packets:
            packet.pts, packet.dts, packet.time_base = packet.pts - first, packet.dts - first, base
            packet.stream = stream
            container.mux(packet)


def _encode(source: Path, span: Span, target: Path) -> None:
    rate = Fraction(span.fps).limit_denominator(1001)
    with av.open(str(target), "w", format="mp4") as container:
        stream: Any = None
        first = 0.0
        for frame in _frames(source, span):
            time = float(frame.time or 0.0)
            if stream is None:
                first = time
                stream = container.add_stream(CODEC, rate=rate, options=OPTIONS)
                stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, "yuv420p"
                stream.codec_context.max_b_frames = 0
            plain = frame.reformat(format="yuv420p")
            plain.pict_type = av.video.frame.PictureType.NONE  # the encoder decides anew
            plain.time_base = 1 / rate
            plain.pts = round((time - first) * rate)
            container.mux(stream.encode(plain))
        if stream is None:
            raise _damaged(source, f"it has no frame between {span.start:.2f} and {span.end:.2f} s")
        container.mux(stream.encode(None))


def _damaged(source: Path, why: str) -> ArmfleetError:
    return ArmfleetError(
        f"the video {source.name} of {source.parent.parent.name} can't be cut: {why}",
        kept="the dataset, unchanged",
        do="import another copy of it, or leave this episode out",
        code=ExitCode.EPISODE_DAMAGED,
    )
