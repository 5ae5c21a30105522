"""Does each camera show something: there, complete, lit, sharp."""

from collections.abc import Iterator

import numpy as np

from agent.episodes.checks.evidence import Evidence
from agent.episodes.checks.registry import Finding, rule
from agent.episodes.following import longest_run, runs
from agent.episodes.footage import Video
from agent.episodes.pictures import edge_width, likeness, noise

SHORT_S = 0.25
"""A stretch of black or white so long is a fault whatever its share of the episode."""
BURNT = 0.5
"""Share of a picture at 250 and above; a window or a lamp in view burns out a sixth, a white sheet none."""
FLAT = 12.0
"""Contrast, grey levels, under which a picture shows nothing; a dim room has 15 and more."""
SPOILT_SHARE = 0.3
"""Share of the pictures looked at that must be blurred or noisy: fast motion blurs a few."""


@rule("video.missing", None, do="Import another copy; check the camera.")
def missing(e: Evidence, limit: float) -> Iterator[Finding]:
    """There is no camera at all, or a video file that the metadata names is missing."""
    if not e.episode.videos:
        yield Finding("the episode has no camera")
    for name, video in _of_kind(e, "missing"):
        yield Finding(f"the video of camera {name} can't be read: {video.fault}")


@rule("video.codec", None, do="Install PyAV with that codec, or convert the video.", outcome="undecidable")
def codec(e: Evidence, limit: float) -> Iterator[Finding]:
    """The video is of a codec that can't be decoded here.

    That is no defect of the episode, but nothing can be said of its pictures.
    """
    for name, video in _of_kind(e, "codec"):
        yield Finding(f"the video of camera {name} can't be judged: {video.fault}")


@rule("video.corrupt", 0, do="Import another copy; the episode is lost if there is none.")
def corrupt(e: Evidence, limit: float) -> Iterator[Finding]:
    """The video is damaged: no container, or packets that the decoder refuses.

    Decoders patch over damage in silence; here they are told not to. Sound videos have none. Threshold:
    packets.
    """
    for name, video in _of_kind(e, "corrupt"):
        yield Finding(f"the video of camera {name} can't be read: {video.fault}")
    for name, video in e.episode.videos.items():
        if video.errors > limit:
            yield Finding(f"{video.errors} packets of camera {name}'s video are damaged", video.errors)


@rule("video.size", 0, do="Import another copy, or mend meta/info.json.")
def size(e: Evidence, limit: float) -> Iterator[Finding]:
    """The pictures have another size than the metadata says.

    The policy's input is built from the metadata. Threshold: pixels.
    """
    for name, video in e.episode.videos.items():
        if (
            video.declared
            and not video.fault
            and max(np.abs(np.subtract(video.declared, video.size))) > limit
        ):
            said, true = ("x".join(map(str, pair)) for pair in (video.declared, video.size))
            yield Finding(f"camera {name} is declared as {said} and is {true} (height x width)")


@rule("video.frame_count", 0, do="Record it again: pictures and rows no longer belong together.")
def frame_count(e: Evidence, limit: float) -> Iterator[Finding]:
    """A camera has more or fewer frames than there are rows.

    A full encoder queue drops frames while rows go on: all later pictures are shown too early.
    """
    for name, video in e.episode.videos.items():
        if not video.fault and abs(video.frames - e.rows) > limit:
            yield Finding(f"camera {name} has {video.frames} frames for {e.rows} rows", video.frames)


@rule("video.stamps", 0.3, do="Record it again; imported: encode it again at the dataset's rate.")
def stamps(e: Evidence, limit: float) -> Iterator[Finding]:
    """A video's own time stamps don't fit the rows: another rate, or a gap.

    LeRobot looks for a row's picture at frame / fps. Threshold: frames by which one is off.
    """
    for name, video in e.episode.videos.items():
        if video.stamps is None or len(video.stamps) < 2:
            continue
        off = np.abs(video.stamps * e.fps - np.arange(len(video.stamps)))
        bad = np.flatnonzero(off > limit)
        if len(bad):
            text = f"pictures of camera {name} are up to {off.max():.1f} frames from where the rows want them"
            yield Finding(text, off.max(), bad)


@rule("video.black", 12.0, do="Take the cap off, light the scene; record it again.")
def black(e: Evidence, limit: float) -> Iterator[Finding]:
    """A camera is black, for 2 % of the frames or a quarter of a second.

    A room lit by a screen alone gives 20. Threshold: mean grey level, where contrast is gone too.
    """
    for name, sight in e.sights.items():
        yield from _empty(e, name, (sight.level < limit) & (sight.contrast < FLAT), "black", sight.level)


@rule("video.white", 240.0, do="Lower the exposure; record it again.")
def white(e: Evidence, limit: float) -> Iterator[Finding]:
    """A camera is overexposed, for 2 % of the frames or a quarter of a second.

    A white sheet under a lamp gives 220, with things on it that show. Threshold: mean grey level where the
    contrast is low as well, or half of the picture burnt out.
    """
    for name, sight in e.sights.items():
        burnt = (sight.thumbnails >= 250).mean(axis=(1, 2))
        flags = ((sight.level > limit) & (sight.contrast < 2 * FLAT)) | (burnt > BURNT)
        yield from _empty(e, name, flags, "white", sight.level)


@rule("video.flat", 2.0, do="Check the camera; record it again.")
def flat(e: Evidence, limit: float) -> Iterator[Finding]:
    """A camera shows one even colour, neither black nor white.

    Drivers give grey, green or blue where no signal comes. A dim room has a contrast of 5, a white sheet 10.
    Threshold: grey levels of contrast.
    """
    for name, sight in e.sights.items():
        flags = (sight.contrast < limit) & (sight.level >= 12) & (sight.level <= 240)
        yield from _empty(e, name, flags, "of one colour", sight.contrast)


@rule("video.blurred", 5.0, do="Focus and clean the lens; record it again.")
def blurred(e: Evidence, limit: float) -> Iterator[Finding]:
    """A camera is out of focus.

    The sharpest edges of a sound picture rise within 2 to 3 pixels of 320, blurred with a sigma of 2 pixels
    within 5. Motion blurs single pictures: 30 % must be. Threshold: pixels.
    """
    for name, video in _readable(e):
        widths = np.array([edge_width(picture) for picture in video.samples])
        bad = np.isfinite(widths) & (widths > limit)
        if len(widths) and bad.mean() > SPOILT_SHARE:
            frames = [video.sample_frames[i] for i in np.flatnonzero(bad)]
            yield Finding(
                f"camera {name} is blurred: edges rise over {np.median(widths[bad]):.1f} pixels",
                float(np.median(widths[bad])),
                frames,
            )


@rule("video.noise", 14.0, do="Check the camera's cable and gain; light the scene; record it again.")
def noisy(e: Evidence, limit: float) -> Iterator[Finding]:
    """A camera shows little but noise.

    A webcam in a dim room has a standard deviation of 5 to 10 grey levels. Threshold: that, in 30 % of the
    pictures; or pictures of which each has nothing in common with the next (correlation under 0.3).
    """
    for name, video in _readable(e):
        levels = np.array([noise(picture) for picture in video.samples])
        bad = levels > limit
        if len(levels) and bad.mean() > SPOILT_SHARE:
            frames = [video.sample_frames[i] for i in np.flatnonzero(bad)]
            yield Finding(
                f"camera {name} is noisy, by {np.median(levels[bad]):.0f} grey levels",
                float(np.median(levels[bad])),
                frames,
            )
            continue
        pairs = range(0, video.frames - 1, max(1, video.frames // 40))
        shown = [k for k in pairs if video.thumbnails[k].std() > 1.0]
        strange = [k for k in shown if likeness(video.thumbnails[k], video.thumbnails[k + 1]) < 0.3]
        if shown and len(strange) > SPOILT_SHARE * len(shown):
            yield Finding(
                f"the pictures of camera {name} have nothing in common with each other",
                len(strange) / len(shown),
                strange,
            )


def _of_kind(e: Evidence, kind: str) -> list[tuple[str, Video]]:
    return [(name, video) for name, video in e.episode.videos.items() if video.fault and video.kind == kind]


def _readable(e: Evidence) -> list[tuple[str, Video]]:
    return [(name, video) for name, video in e.episode.videos.items() if video.samples]


def _empty(e: Evidence, name: str, flags: np.ndarray, what: str, values: np.ndarray) -> Iterator[Finding]:
    _, length = longest_run(flags)
    share = float(flags.mean()) if len(flags) else 0.0
    if share > 0.02 or length >= SHORT_S * e.fps:
        spans = [frame for start, count in runs(flags) for frame in (start, start + count - 1)]
        yield Finding(
            f"camera {name} is {what} in {share:.0%} of the frames", float(values[flags].mean()), spans
        )
