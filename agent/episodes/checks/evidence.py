"""What the checks look at: an episode's numbers without NaN, what each joint is, how state follows action."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from agent.episodes.dataset import EpisodeData
from agent.episodes.following import Following, filled, follow, runs
from agent.episodes.history import History, Signature, signature
from agent.episodes.sight import Sight, see
from agent.episodes.twins import Twin, nearest
from agent.robot.joints import JOINTS

STILL = 0.8
"""Units about where it stands that count as standing still: nine encoder counts; hands at rest tremble."""
PAUSE_S = 0.3
"""Seconds without any change from which on it is a pause, not the encoders' resolution."""
GRIPPERS = ("gripper", "jaw", "claw", "finger")
"""What is in the names that people give to the joint that closes on things."""
LEVEL = {"shoulder_pan", "wrist_roll"}
"""Joints that turn about an axis on which the arm's weight does not pull: they settle within a unit of their
goal. The others sag by several."""


@dataclass(frozen=True)
class Joint:
    """One column of state and action.

    Attributes:
        name: As people know it: "joint 6 (gripper)", or the dataset's own name.
        known: One of the six joints of an SO-100/SO-101.
        gripper: It holds things: its state stays away from its goal while it does.
        level: Gravity does not load it.
    """

    index: int
    name: str
    known: bool
    gripper: bool
    level: bool


@dataclass(frozen=True)
class Evidence:
    """An episode and what may be compared with it; everything derived is computed once."""

    episode: EpisodeData
    history: History | None = None
    earlier: tuple[Signature, ...] = ()
    """Signatures of the episodes judged before it in the same call."""

    @cached_property
    def state(self) -> np.ndarray:
        """(T, joints) float64; a number that is none is replaced by the one before."""
        return filled(self.episode.state)

    @cached_property
    def action(self) -> np.ndarray:
        """As `state`."""
        return filled(self.episode.action)

    @property
    def fps(self) -> float:
        return self.episode.fps

    @property
    def rows(self) -> int:
        return len(self.episode.state)

    @cached_property
    def joints(self) -> tuple[Joint, ...]:
        """What each column is, by the dataset's names; six unnamed columns are those of an SO-100."""
        names = self.episode.names or (JOINTS if self.episode.state.shape[1] == len(JOINTS) else ())
        return tuple(_joint(i, names[i] if i < len(names) else "") for i in range(self.state.shape[1]))

    @cached_property
    def signature(self) -> Signature | None:
        """What is kept of it for comparing."""
        return signature(self.episode)

    @cached_property
    def nearest(self) -> Twin | None:
        """The most similar episode of the history and of the call."""
        mine = self.signature
        others = [*(self.history.episodes if self.history else ()), *self.earlier]
        return nearest(mine, others) if mine is not None else None

    @cached_property
    def following(self) -> Following | None:
        """How state follows action; None where too little moves to tell, or the shapes differ."""
        return follow(self.state, self.action, self.fps) if self.state.shape == self.action.shape else None

    @cached_property
    def acted(self) -> slice:
        """The rows that training keeps: without the lead-in and the tail in which state and action stand
        still. All of them where nothing moves."""
        first, last = (
            min(still_frames(array, backwards) for array in (self.state, self.action))
            for backwards in (False, True)
        )
        return slice(first, self.rows - last) if first + last < self.rows else slice(0, self.rows)

    @cached_property
    def idle(self) -> np.ndarray:
        """(T,) bool: rows in which nothing is shown: lead-in, tail, and pauses in which neither state nor
        action changes at all."""
        flags = np.ones(self.rows, bool)
        flags[self.acted] = False
        same = np.ones(max(0, self.rows - 1), bool)
        for array in (self.state, self.action):
            same &= (np.abs(np.diff(array, axis=0)) < 1e-6).all(axis=1)
        for start, length in runs(same):
            if length >= PAUSE_S * self.fps:
                flags[start : start + length + 1] = True
        return flags

    @cached_property
    def sights(self) -> dict[str, Sight]:
        """Motion and light of each camera that could be decoded and has as many frames as rows, nearly."""
        return {
            name: see(video, self.state, self.fps)
            for name, video in self.episode.videos.items()
            if not video.fault and video.frames >= 2
        }


def still_frames(array: np.ndarray, backwards: bool = False) -> int:
    """Rows at one end of (T, joints) in which all columns stay where they are there, within STILL."""
    ordered = array[::-1] if backwards else array
    moving = np.flatnonzero((np.abs(ordered - np.median(ordered[:3], axis=0)) > STILL).any(axis=1))
    return int(moving[0]) if len(moving) else len(ordered)


def plain_name(name: str) -> str:
    """`main_shoulder_pan`, `shoulder_pan.pos`, `left_shoulder_pan` -> `shoulder_pan`."""
    stem = name.lower().removesuffix(".pos").removesuffix("_pos").replace(" ", "_")
    return next((joint for joint in JOINTS if stem == joint or stem.endswith(f"_{joint}")), stem)


def _joint(index: int, name: str) -> Joint:
    plain = plain_name(name)
    known = plain in JOINTS
    shown = f"joint {index + 1} ({name.removesuffix('.pos')})" if name else f"joint {index + 1}"
    return Joint(index, shown, known, any(word in plain for word in GRIPPERS), plain in LEVEL)
