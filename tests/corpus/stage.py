"""A shot: one episode between being acted and being written, where defects are put in.

    studio = Studio(out, seed, traces)
    shot = studio.shot("nan_state-plain")    # a sound episode of one of the workstations
    shot.state[40] = np.nan                  # what the rows will say
    shot.develop(folder)                     # draw, encode, write

A defect changes what it would change in reality: a broken encoder the recorded state and not the pictures, a
jammed joint both.
"""

import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .motion import FPS, Motion, synthesise, vary
from .scene import RIGS, SIZE, Effect, Props, Rig, View, make_props
from .writer import Film, Recording, encode, regular, write

CAMERAS = ("front", "wrist")
POOL = 5
"""Sound takes per workstation that cases start from; pictures that stay as they are, are drawn once."""
HISTORY = 7
"""Sound companion episodes per workstation; never the ones that cases start from."""
TASKS = (
    "Put the cube on the mark",
    "Pick up the cube and place it to the right",
    "Move the block next to the others",
    "Grab the small cube and set it down on the mat",
)


@dataclass
class Shot:
    """An episode to be written.

    Attributes:
        rig: Whose cameras see it.
        motion: What happened, (T, 6).
        props: What lay on the table.
        seed: Of the sensors' noise.
        task: Instruction.
        state, action: (T, D) as they will be recorded.
        timestamps: (T,) seconds.
        drawn: Camera -> (frames, 6) the joints to draw, a picture each.
        effects: Camera -> what its pictures go through.
        stock: Camera -> where to get a finished video of exactly this, if there is one.
        keys: Camera -> its key under observation.images.
        sidecar: Rows, or None.
        fps: Rows per second.
        size: (height, width) drawn; `declared` is what info.json says.
        codec, flags: See `encode`.
        video_fps: Rate in the video file.
        after: Damage to the finished folder.
    """

    rig: Rig
    motion: Motion
    props: Props
    seed: int
    task: str
    state: np.ndarray = field(init=False)
    action: np.ndarray = field(init=False)
    timestamps: np.ndarray = field(init=False)
    drawn: dict[str, np.ndarray] = field(init=False)
    effects: dict[str, list[Effect]] = field(default_factory=dict)
    stock: dict[str, Callable[[], Film]] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=lambda: {camera: camera for camera in CAMERAS})
    sidecar: list[dict[str, Any]] | None = None
    fps: int = FPS
    size: tuple[int, int] = SIZE
    declared: tuple[int, int] | None = None
    codec: str = "h264"
    flags: str | None = None
    video_fps: int | None = None
    names: list[str] | None = None
    robot_type: str = "so101_follower"
    after: list[Callable[[Path], object]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._take_over()

    def __len__(self) -> int:
        return len(self.motion)

    def act(self, motion: Motion) -> None:
        """Something else happened: rows and pictures follow."""
        self.motion, self.stock = motion, {}
        if self.sidecar is not None:
            self.sidecar = sidecar(len(motion), np.random.default_rng(self.seed), self.fps)
        self._take_over()

    def film(self, effect: Effect, *cameras: str) -> None:
        """Let the pictures of these cameras go through something."""
        for camera in cameras:
            self.effects.setdefault(camera, []).append(effect)
            self.stock.pop(camera, None)

    def redraw(self, camera: str, states: np.ndarray) -> None:
        """A camera sees these joints, a picture for each row."""
        self.drawn[camera] = states
        self.stock.pop(camera, None)

    def pictures(self, camera: str) -> Iterator[np.ndarray]:
        """What the camera records."""
        view = View(self.rig, "wrist" if camera == "wrist" else "front", self.props, self.size)
        frames = view.frames(self.drawn[camera], self.seed)
        for effect in self.effects.get(camera, []):
            frames = effect(frames)
        return frames

    def develop(self, folder: Path) -> None:
        """Draw and encode what is not in stock, write the folder, then damage it as asked."""
        with tempfile.TemporaryDirectory(prefix="armfleet-corpus-") as scratch:
            videos = {}
            for camera, key in self.keys.items():
                videos[key] = (
                    ready()
                    if (ready := self.stock.get(camera))
                    else encode(
                        self.pictures(camera),
                        Path(scratch) / f"{camera}.mp4",
                        self.video_fps or self.fps,
                        self.codec,
                        self.flags,
                    )
                )
            recording = Recording(
                self.state,
                self.action,
                self.task,
                self.fps,
                self.timestamps,
                videos,
                robot_type=self.robot_type,
                sidecar=self.sidecar,
                size=self.declared or self.size,
                codec=self.codec,
            )
            if self.names is not None:
                recording.names = self.names
            write(folder, recording)
        for damage in self.after:
            damage(folder)

    def _take_over(self) -> None:
        self.state, self.action = self.motion.state.copy(), self.motion.action.copy()
        self.timestamps = regular(len(self.motion), self.fps)
        self.drawn = {camera: self.motion.state for camera in self.keys}


class Studio:
    """Makes sound shots of the corpus's workstations, the same ones for the same seed.

    Args:
        stock: A folder for videos that several cases share.
        seed: Of the whole corpus.
        traces: Real motion, to be varied; without any, all motion is the model's.
    """

    def __init__(self, stock: Path, seed: int, traces: list[Motion]) -> None:
        self._stock, self._seed, self._traces = stock, seed, traces
        self._films: dict[tuple[int, int, str], Film] = {}

    def rng(self, name: str) -> np.random.Generator:
        """A generator of its own for everything with a name, whatever else the corpus holds."""
        return np.random.default_rng([self._seed, zlib.crc32(name.encode())])

    def shot(self, name: str, rig: int | None = None) -> Shot:
        """A sound take to start from; many names share the pictures of few takes."""
        rng = self.rng(name)
        which = (int(rng.integers(len(RIGS))) if rig is None else rig, int(rng.integers(POOL)))
        shot = self.take(f"pool {which}", which[0])
        shot.stock = {camera: partial(self._film, which, camera) for camera in CAMERAS}
        if rng.random() < 0.5:
            shot.sidecar = sidecar(len(shot), rng)
        return shot

    def _film(self, which: tuple[int, int], camera: str) -> Film:
        """A camera's video of a take of the pool: encoded for the first who asks."""
        key = (*which, camera)
        if key not in self._films:
            pristine = self.take(f"pool {which}", which[0])
            path = self._stock / f"{which[0]}-{which[1]}-{camera}.mp4"
            self._films[key] = encode(pristine.pictures(camera), path, FPS)
        return self._films[key]

    def take(self, name: str, rig: int, motion: Motion | None = None) -> Shot:
        """A sound take of its own."""
        rng = self.rng(name)
        motion = motion or self.motion(rng)
        task = TASKS[int(rng.integers(len(TASKS)))]
        return Shot(RIGS[rig], motion, make_props(motion.state, rng), int(rng.integers(2**31)), task)

    def motion(self, rng: np.random.Generator) -> Motion:
        """A demonstration: of a real one, if there are any, as often as of the model."""
        if self._traces and rng.random() < 0.6:
            return vary(self._traces[int(rng.integers(len(self._traces)))], rng)
        return synthesise(rng, seconds=float(rng.uniform(8, 12)))


def sidecar(rows: int, rng: np.random.Generator, fps: int = FPS) -> list[dict[str, Any]]:
    """What armfleet notes beside the rows: a healthy loop with two cameras of their own clocks."""
    lateness = np.abs(rng.normal(0, 0.0004, rows))
    walls = 1777887000.0 + np.arange(rows) / fps + lateness
    phases = {camera: rng.uniform(0.004, 0.028) for camera in CAMERAS}
    lines = []
    for row, wall in enumerate(walls):
        ages = {camera: phase + abs(rng.normal(0, 0.002)) for camera, phase in phases.items()}
        lines.append(
            {
                "frame": row,
                "tick": row + 120,
                "wall": round(float(wall), 6),
                "period": round(float(wall - walls[row - 1]), 6) if row else None,
                "late": round(float(lateness[row]), 6),
                "retries": int(rng.random() < 0.004),
                "cameras": {
                    camera: {"stamp": round(float(wall - age), 6), "age": round(age, 6), "repeat": False}
                    for camera, age in ages.items()
                },
            }
        )
    return lines
