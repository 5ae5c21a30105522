"""What a camera's thumbnails say: light, change from frame to frame, and when they fit the joints' motion."""

from dataclasses import dataclass

import numpy as np

from agent.episodes.following import runs
from agent.episodes.footage import Video

SHIFT_S = 3.0
"""Shifts tried, either way."""
INTRUSION = 0.1
"""Share of frames whose change is taken as no more than the others': a hand crosses the picture."""
CROSSING = 0.2
"""Share of frames that may be left out as unexplained when a shift is checked again."""
FEWEST = 60
"""Frames that must overlap for a shift to mean something: six speeds explain a third of 20 frames of
noise."""
LEAST_OVERLAP = 0.7
"""Share of the frames that must overlap: two short pieces of motion always fit somewhere."""


@dataclass(frozen=True)
class Fit:
    """When pictures and joints fit best.

    Attributes:
        shift_s: Seconds by which the pictures come late (negative: early).
        gain: By how much the share of explained change grows against no shift, with and without the frames
        that
            are explained worst, the smaller of both.
        explained: That share at the best shift, 0..1.
        reach_s: Shifts up to which it was looked for.
        curve: That share at each shift, from -reach_s to reach_s.
    """

    shift_s: float
    gain: float
    explained: float
    reach_s: float
    curve: np.ndarray

    def at(self, shift_s: float) -> float:
        """Share of explained change at a shift, or a frame beside it; 0 out of reach."""
        half = len(self.curve) // 2
        place = half + round(shift_s / self.reach_s * half) if half else 0
        return float(self.curve[max(0, place - 1) : place + 2].max(initial=0.0)) if place >= 0 else 0.0


@dataclass(frozen=True)
class Sight:
    """One camera, by frame.

    Changes are taken over two frames: encoders of short groups alternate between two qualities, which makes
    every second frame seem new.

    Attributes:
        level, contrast: (frames,) mean and standard deviation, grey levels.
        change: (frames - 2,) mean absolute change of thumbnails over two frames, brightness and contrast
            taken out: lamps flicker and exposure drifts.
        largest: (frames - 2,) largest change of any thumbnail pixel over two frames.
        step: (frames - 1,) mean absolute change from frame to frame.
        speed: (rows - 2, joints) units moved over two rows.
        fps: Rows per second.
        thumbnails: As decoded.
    """

    level: np.ndarray
    contrast: np.ndarray
    change: np.ndarray
    largest: np.ndarray
    step: np.ndarray
    speed: np.ndarray
    fps: float
    thumbnails: np.ndarray

    def fit(self, start: int = 0, stop: int | None = None) -> Fit | None:
        """Best shift over rows start..stop; None where pictures or joints hardly change there."""
        speed = _smooth(self.speed[start:stop])
        change = _smooth(self.change[start:stop])
        count = min(len(speed), len(change))
        if count < FEWEST + 10:
            return None
        reach = min(round(SHIFT_S * self.fps), count - FEWEST, round(count * (1 - LEAST_OVERLAP)))
        moving = speed[:, speed.max(axis=0) > 0.1]
        if moving.shape[1] == 0 or change.std() < 1e-6:
            return None
        change = np.minimum(change, np.percentile(change, 100 * (1 - INTRUSION)))
        shifts = np.arange(-reach, reach + 1)
        explained = np.array([_explained(change[:count], moving[:count], int(k)) for k in shifts])
        best = int(np.argmax(explained))
        near = np.abs(shifts) <= max(1, round(0.034 * self.fps))
        gain = float(explained[best] - explained[near].max())
        if gain > 0.05:
            at, home = int(shifts[best]), int(shifts[near][np.argmax(explained[near])])
            pair = [_trimmed(change[:count], moving[:count], shift) for shift in (at, home)]
            gain = min(gain, pair[0] - pair[1])
        return Fit(float(shifts[best]) / self.fps, gain, float(explained[best]), reach / self.fps, explained)


def see(video: Video, state: np.ndarray, fps: float) -> Sight:
    """Compute a camera's Sight beside the joints' (T, joints) states."""
    flat = video.thumbnails.reshape(video.frames, -1).astype(np.float32)
    level, contrast = flat.mean(axis=1), flat.std(axis=1)
    even = (flat - level[:, None]) / np.maximum(contrast, 1.0)[:, None] * np.float32(np.median(contrast))
    return Sight(
        level=level,
        contrast=contrast,
        change=np.abs(even[2:] - even[:-2]).mean(axis=1),
        largest=np.abs(flat[2:] - flat[:-2]).max(axis=1),
        step=np.abs(even[1:] - even[:-1]).mean(axis=1),
        speed=np.abs(state[2:] - state[:-2]),
        fps=fps,
        thumbnails=video.thumbnails,
    )


def still_runs(sight: Sight, levels: float, least: int) -> list[tuple[int, int]]:
    """(first frame, frames) of stretches in which no thumbnail pixel changes by more than `levels`."""
    return [(a, n + 2) for a, n in runs(sight.largest <= levels) if n + 2 >= least]


def _explained(change: np.ndarray, speed: np.ndarray, shift: int) -> float:
    """Share of the pictures' change explained by joint speeds `shift` frames before; least squares."""
    if shift >= 0:
        seen, moved = change[shift:], speed[: len(speed) - shift]
    else:
        seen, moved = change[:shift], speed[-shift:]
    centred = seen - seen.mean()
    total = float(centred @ centred)
    if total <= 0:
        return 0.0
    columns = np.column_stack([moved - moved.mean(axis=0)])
    weights, *_ = np.linalg.lstsq(columns, centred, rcond=1e-6)
    rest = centred - columns @ weights
    return 1.0 - float(rest @ rest) / total


def _trimmed(change: np.ndarray, speed: np.ndarray, shift: int) -> float:
    """The same without the frames that change most beyond what is explained: something crosses the
    picture."""
    if shift >= 0:
        seen, moved = change[shift:], speed[: len(speed) - shift]
    else:
        seen, moved = change[:shift], speed[-shift:]
    columns = np.column_stack([np.ones(len(moved)), moved])
    kept = np.ones(len(seen), bool)
    for _ in range(3):
        weights, *_ = np.linalg.lstsq(columns[kept], seen[kept], rcond=1e-6)
        rest = seen - columns @ weights
        kept = rest <= np.quantile(rest, 1 - CROSSING)
    centred = seen[kept] - seen[kept].mean()
    total = float(centred @ centred)
    return 1.0 - float(rest[kept] @ rest[kept]) / total if total > 0 else 0.0


def _smooth(values: np.ndarray) -> np.ndarray:
    """Mean of three frames: encoder steps and codec noise weigh less."""
    if len(values) < 3:
        return values.astype(np.float64)
    return (values[:-2] + values[1:-1] + values[2:]) / 3.0
