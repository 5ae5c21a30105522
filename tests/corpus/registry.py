"""The list of what the corpus can do to an episode."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from .stage import Shot, Studio

SEVERITIES = ("subtle", "plain", "blatant")
T = TypeVar("T")


@dataclass
class Scene:
    """What a defect works on.

    Attributes:
        shot: The episode that will be judged; sound until the defect has been put in.
        level: 0 subtle, 1 plain, 2 blatant.
        rng: The case's own.
        studio: For more shots.
        more: Further episodes of the same `armfleet gate` call, in their order, before the shot.
        history: Companion episodes to compare with are given.
        remember: Further episodes that this case's history contains.
    """

    shot: Shot
    level: int
    rng: np.random.Generator
    studio: Studio
    more: list[Shot] = field(default_factory=list)
    history: bool = False
    remember: list[Shot] = field(default_factory=list)

    def pick(self, subtle: T, plain: T, blatant: T) -> T:
        """The value of this severity."""
        return (subtle, plain, blatant)[self.level]

    def damage(self, change: Callable[[Path], object]) -> None:
        """Done to the finished folder."""
        self.shot.after.append(change)


@dataclass(frozen=True)
class Defect:
    """A class of defects.

    Attributes:
        name: Of the class.
        put: Puts it into a scene.
        fits: Prefixes of check ids that name it rightly.
        trim: Training can cut it off: a note is enough.
        about: One line.
    """

    name: str
    put: Callable[[Scene], None]
    fits: tuple[str, ...]
    trim: bool
    about: str


@dataclass(frozen=True)
class Oddity:
    """Something unusual that is no defect."""

    name: str
    put: Callable[[Scene], None]
    about: str


DEFECTS: dict[str, Defect] = {}
ODDITIES: dict[str, Oddity] = {}


def defect(*fits: str, trim: bool = False) -> Callable[[Callable[[Scene], None]], Callable[[Scene], None]]:
    """Register a class of defects; its docstring says what it is."""

    def register(put: Callable[[Scene], None]) -> Callable[[Scene], None]:
        about = " ".join((put.__doc__ or "").split())
        DEFECTS[put.__name__] = Defect(put.__name__, put, fits, trim, about)
        return put

    return register


def oddity(put: Callable[[Scene], None]) -> Callable[[Scene], None]:
    """Register a sound episode; its docstring says what is odd about it."""
    ODDITIES[put.__name__] = Oddity(put.__name__, put, " ".join((put.__doc__ or "").split()))
    return put
