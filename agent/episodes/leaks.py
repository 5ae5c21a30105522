"""What may never train: held-out episodes, their copies, and tasks that are only ever evaluated. Pure.

Two ways to recognise a demonstration:

- the **content digest** (`agent.episodes.split`) of its joint values: any copy with the same numbers,
  whatever its name, pictures, label or instruction;
- the **trace**: state and action three times a second (short episodes: up to every frame), rounded to two
  units. An episode is a near-duplicate when, at one alignment in time, three fifths of the moving points of
  the shorter of the two lie on the other, in every joint of state and action. It catches copies with noise
  (up to about a unit), rounded or re-recorded values, copies trimmed to two seconds of motion or more (short
  ones: to a fifth of a second), with a piece put on or cut out, or pasted into another episode.

What a trace does not catch: a copy played faster or slower, or resampled to another rate; mirrored or shifted
by more than two units; one with less motion left; pictures reused under other joint values.
Standing still never counts, so that all demonstrations may begin at the same rest pose.
"""

import base64
import binascii
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from shared.tasks import plain_task

POINTS_PER_S = 3.0
POINTS = 24
"""Points that a trace has at least, where the episode has as many frames."""
QUANTUM = 2.0
"""Units (degrees, hundredths of the gripper's range) per step of a trace: int8 then spans +-254."""
TOLERANCE = 2.0
"""Largest difference, units: half a quantum of rounding and a unit of noise, twelve steps of a 4096-count
encoder."""
MOVING = 4.0
"""A point moves when some joint changes by as much, units, over the 2 x `REACH` frames around it."""
REACH = 10
"""Frames; a third of a second at 30 Hz."""
SHARE = 0.6
"""Part of the shorter one's moving points that must coincide. Measured: two tries of a person share
nothing; of 1,560 pairs of simulated demonstrations in different scenes none is a near-duplicate, of 132
pairs of tries in the very same scene two are.
"""
TWO_PIECES = 0.8
"""The same for two alignments together, of which each has `FEWEST`: something was cut out between them."""
FEWEST = 6
"""Moving points below which nothing is said: two seconds of motion at three points a second."""


@dataclass(frozen=True)
class Trace:
    """The coarse path of an episode.

    Attributes:
        values: (points, 2 x joints) int8, state then action, in quanta.
        step: Frames between two points.
    """

    values: np.ndarray
    step: int

    def text(self) -> str:
        """One line for records and lists; `read_trace` is its inverse. 16 characters a point."""
        return f"{self.step}:{self.values.shape[1]}:{base64.b64encode(self.values.tobytes()).decode()}"


def trace_of(state: np.ndarray, action: np.ndarray, fps: float) -> Trace:
    """The trace of (T, joints) units at `fps` rows per second."""
    step = max(1, min(round(fps / POINTS_PER_S), len(state) // POINTS))
    return Trace(np.clip(np.rint(_path(state, action)[::step] / QUANTUM), -127, 127).astype(np.int8), step)


def read_trace(text: str) -> Trace:
    """Inverse of `Trace.text`.

    Raises:
        ValueError: it is none.
    """
    step, width, values = text.split(":")
    try:
        raw = np.frombuffer(base64.b64decode(values, validate=True), np.int8)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from error
    if int(step) < 1 or int(width) < 1:
        raise ValueError(f"a trace of step {step} and width {width}")
    return Trace(raw.reshape(-1, int(width)), int(step))


def near_duplicate(trace: Trace, state: np.ndarray, action: np.ndarray) -> bool:
    """Whether an episode, (T, joints) units, shows the demonstration that `trace` was taken of, or a part.

    Costs about 0.2 ms for demonstrations of two seconds, 1 ms for two of twelve.
    """
    known = trace.values.astype(np.float32) * QUANTUM
    path = _path(state, action)
    if known.shape[1] != path.shape[1]:
        return False
    moving = _moving(known, trace.step)
    shorter = min(moving.sum(), _moving(path, 1).sum() / trace.step)
    if shorter < FEWEST:
        return False
    close = np.repeat(moving[:, None], len(path), axis=1)
    for column in range(known.shape[1]):
        close &= np.abs(known[:, column, None] - path[None, :, column]) <= TOLERANCE
    points, frames = np.nonzero(close)
    if len(points) < FEWEST:
        return False
    offsets = frames - points * trace.step  # one alignment in time: one offset
    at, counts = np.unique(offsets, return_counts=True)
    best = points[offsets == at[np.argmax(counts)]]
    if len(best) >= max(FEWEST, SHARE * shorter):
        return True
    rest = ~np.isin(points, best)
    if not rest.any():
        return False
    second = np.unique(offsets[rest], return_counts=True)[1].max()
    return bool(len(best) + second >= TWO_PIECES * shorter and second >= FEWEST)


def _path(state: np.ndarray, action: np.ndarray) -> np.ndarray:
    return np.nan_to_num(np.concatenate([state, action], axis=1).astype(np.float32))


def _moving(points: np.ndarray, step: int) -> np.ndarray:
    """(points,) bool: not at rest, compared with the neighbours on both sides."""
    reach = max(1, round(REACH / step))
    index = np.arange(len(points))
    after, before = np.minimum(index + reach, len(points) - 1), np.maximum(index - reach, 0)
    return np.abs(points[after] - points[before]).max(axis=1) >= MOVING


@dataclass(frozen=True)
class HeldOut:
    """A demonstration that must not train, and on whose behalf."""

    digest: str
    trace: Trace | None
    what: str


class LeakGuard:
    """Says which episodes may not train. Remembers what it compared.

    Args:
        listed: Held out besides this workstation's own evaluation episodes.
        tasks: Instructions that are only ever evaluated; case, spaces and full stops don't matter.
    """

    def __init__(self, listed: Sequence[HeldOut] = (), tasks: Iterable[str] = ()) -> None:
        self._listed = tuple(listed)
        self._tasks = {plain_task(task) for task in tasks}
        self._known: dict[tuple[str, str], bool] = {}

    def why_not(
        self, digest: str, task: str, state: np.ndarray, action: np.ndarray, held_out: Sequence[HeldOut] = ()
    ) -> str:
        """Why an episode may not train, as a clause; "" if it may.

        Args:
            digest: Its content digest, computed from its rows.
            task: Its instruction.
            state, action: (T, joints) units.
            held_out: Evaluation episodes of this workstation.
        """
        if plain_task(task) in self._tasks:
            return f'its task "{task}" is only ever evaluated ([split] never_train_tasks)'
        for other in (*self._listed, *held_out):
            if other.digest == digest:
                return f"the same demonstration is held out for {other.what}"
        for other in (*self._listed, *held_out):
            if other.trace is not None and self._near(other.digest, other.trace, digest, state, action):
                return f"nearly the same demonstration is held out for {other.what}"
        return ""

    def _near(self, held: str, trace: Trace, digest: str, state: np.ndarray, action: np.ndarray) -> bool:
        key = (held, digest)
        if key not in self._known:
            self._known[key] = near_duplicate(trace, state, action)
        return self._known[key]
