"""Drawn pictures of a workstation: a table with cubes and the arm, seen from the front and from the wrist.

Not beautiful but lawful: what a camera shows follows from the joints alone, by forward kinematics and a
pinhole camera; the table has texture, the lamp a shade, the sensor noise.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Literal

import cv2
import numpy as np

from .motion import ELBOW, GRIPPER, LIFT, PAN, ROLL, WRIST

Camera = Literal["front", "wrist"]
Effect = Callable[[Iterator[np.ndarray]], Iterator[np.ndarray]]
"""Changes the frames of a video on their way to the encoder: (height, width, 3) uint8 RGB each."""
SIZE = (240, 320)
UPPER, FOREARM, HAND, SHOULDER_Z = 0.116, 0.135, 0.13, 0.117
"""Metres, of an SO-101."""
TEXTURE = 512
TABLE_M = 1.1
"""Side of the square of table that the texture covers; beyond it repeats."""
NOISE_TILES = 12
HALF_CUBE = 0.016
CORNERS = HALF_CUBE * np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
FACES = (
    ([0, 1, 3, 2], 0, -1, 0.8),
    ([4, 5, 7, 6], 0, 1, 0.8),
    ([0, 1, 5, 4], 1, -1, 0.62),
    ([2, 3, 7, 6], 1, 1, 0.62),
    ([1, 3, 7, 5], 2, 1, 1.0),
)
"""Of a cube: four corners, the axis it faces and which way, its brightness."""


@dataclass(frozen=True)
class Rig:
    """One workstation as its cameras see it.

    Attributes:
        name: Folder name.
        seed: Of everything below and of its texture.
        table, wall, arm: RGB.
        eye, target: Of the front camera, metres from the arm's base: x forward, y left, z up.
        noise: The sensor's, grey levels.
        light: Factor on brightness.
    """

    name: str
    seed: int
    table: tuple[int, int, int]
    wall: tuple[int, int, int]
    arm: tuple[int, int, int]
    eye: tuple[float, float, float]
    target: tuple[float, float, float] = (0.16, 0.0, 0.08)
    noise: float = 2.5
    light: float = 1.0

    @cached_property
    def texture(self) -> np.ndarray:
        """The table from above, (TEXTURE, TEXTURE, 3) uint8: grain, blotches, a mat with a grid."""
        rng = np.random.default_rng(self.seed)
        image = np.ones((TEXTURE, TEXTURE, 3), np.float32) * self.table
        for cells, strength in ((6, 16), (24, 9), (128, 7)):
            blotches = cv2.resize(rng.normal(0, 1, (cells, cells)).astype(np.float32), (TEXTURE, TEXTURE))
            image += strength * blotches[..., None]
        grain = cv2.resize(rng.normal(0, 1, (160, 3)).astype(np.float32), (TEXTURE, TEXTURE))
        image += 8 * grain[..., None]
        image = np.clip(image, 0, 255).astype(np.uint8)
        for line in range(60, TEXTURE, 64):
            shade = tuple(int(c * 0.72) for c in self.table)
            cv2.line(image, (line, 90), (line, 420), shade, 1, cv2.LINE_AA)
            cv2.line(image, (90, line), (420, line), shade, 1, cv2.LINE_AA)
        return image


@dataclass(frozen=True)
class Cube:
    """Where a cube lies, metres; side 3 cm; RGB."""

    x: float
    y: float
    color: tuple[int, int, int]


@dataclass(frozen=True)
class Props:
    """What lies on the table in one episode; the first cube is the one that is taken and put elsewhere."""

    cubes: tuple[Cube, ...]
    grasp: int
    release: int
    end: tuple[float, float]


class Arm:
    """Where the links are for given joints."""

    def __init__(self, units: np.ndarray) -> None:
        pan = np.radians(units[PAN] * 1.1)
        first = np.radians(90 - units[LIFT])
        second = first - np.radians(90 + 0.97 * units[ELBOW])
        third = second - np.radians(0.95 * units[WRIST])
        self.forward = np.array([np.cos(pan), np.sin(pan), 0.0])
        self.side = np.array([-np.sin(pan), np.cos(pan), 0.0])
        up = np.array([0.0, 0.0, 1.0])
        self.shoulder = np.array([0.0, 0.0, SHOULDER_Z])
        self.elbow = self.shoulder + UPPER * (np.cos(first) * self.forward + np.sin(first) * up)
        self.wrist = self.elbow + FOREARM * (np.cos(second) * self.forward + np.sin(second) * up)
        self.pointing = np.cos(third) * self.forward + np.sin(third) * up
        self.tip = self.wrist + HAND * self.pointing
        roll = np.radians(units[ROLL] * 1.6 + 90)
        normal = np.cross(self.pointing, self.side)
        self.across = np.cos(roll) * self.side + np.sin(roll) * normal
        self.opening = 0.055 * units[GRIPPER] / 100 + 0.004


def make_props(states: np.ndarray, rng: np.random.Generator) -> Props:
    """Cubes for a motion: one lies where the jaws close, and where they open again it stays."""
    grip = states[:, GRIPPER]
    wide = int(np.argmax(grip))
    below = np.flatnonzero(grip[wide:] < 0.5 * grip[wide])
    grasp = wide + int(below[0]) if len(below) else len(grip)
    opened = np.flatnonzero(grip[grasp:] > 0.6 * grip[wide])
    release = grasp + int(opened[0]) if len(opened) else len(grip)
    start, end = (Arm(states[min(at, len(states) - 1)]).tip[:2] for at in (grasp, release))
    colors = [(196, 52, 40), (52, 120, 60), (44, 84, 180), (214, 178, 50), (120, 60, 140)]
    rng.shuffle(colors)
    others = [Cube(float(rng.uniform(0.14, 0.34)), float(rng.uniform(-0.2, 0.2)), c) for c in colors[1:3]]
    return Props(
        (Cube(*map(float, start), colors[0]), *others), grasp, release, (float(end[0]), float(end[1]))
    )


class View:
    """A camera of one rig, and the pictures it takes of one episode."""

    def __init__(self, rig: Rig, camera: Camera, props: Props, size: tuple[int, int] = SIZE) -> None:
        self.rig, self.camera, self.props, self.size = rig, camera, props, size
        height, width = size
        self.focal = (0.95 if camera == "front" else 0.62) * width
        columns, rows = np.meshgrid((np.arange(80) + 0.5) * width / 80, (np.arange(60) + 0.5) * height / 60)
        self._rays = np.stack(
            [(columns - width / 2) / self.focal, (rows - height / 2) / self.focal, np.ones_like(rows)],
            axis=-1,
        ).reshape(-1, 3)
        if camera == "front":
            self._look(np.array(rig.eye), np.array(rig.target) - rig.eye, np.array([0, 0, 1.0]))
            self._still = self._background()

    def frames(self, states: np.ndarray, seed: int) -> Iterator[np.ndarray]:
        """One picture for each row of states (T, 6)."""
        rng = np.random.default_rng([seed, self.rig.seed, len(self.camera)])
        plus, minus = _noise(self.rig.noise, self.size)
        for row, units in enumerate(states):
            image = self._picture(Arm(units), row)
            if self.rig.light != 1.0:
                image = cv2.convertScaleAbs(image, alpha=self.rig.light)
            first, second = rng.integers(NOISE_TILES, size=2)
            yield cv2.subtract(cv2.add(image, plus[first]), minus[second])

    def _picture(self, arm: Arm, row: int) -> np.ndarray:
        if self.camera == "wrist":
            eye = arm.wrist + 0.02 * arm.pointing + 0.055 * np.cross(arm.across, arm.pointing)
            # Mounted above the jaws, tilted towards their tips.
            self._look(eye, arm.tip + 0.04 * arm.pointing - eye, np.cross(arm.across, arm.pointing))
            image = self._background()
        else:
            image = self._still.copy()
            self._shadow(image, arm)
        held = self.props.grasp <= row < self.props.release
        for index, cube in enumerate(self.props.cubes):
            place = np.array([cube.x, cube.y, 0.015])
            if index == 0 and held:
                place = arm.tip
            elif index == 0 and row >= self.props.release:
                place = np.array([*self.props.end, 0.015])
            self._cube(image, place, cube.color)
        self._arm(image, arm)
        return image

    def _look(self, eye: np.ndarray, direction: np.ndarray, up: np.ndarray) -> None:
        z = direction / np.linalg.norm(direction)
        x = np.cross(z, up)
        x /= np.linalg.norm(x)
        self._eye, self._axes = eye, np.stack([x, np.cross(z, x), z])

    def _background(self) -> np.ndarray:
        """Table and wall, by following each ray to the table."""
        height, width = self.size
        world = self._rays @ self._axes
        down = np.minimum(world[:, 2], -1e-3)
        reach = np.minimum(-self._eye[2] / down, 6.0)
        at = (self._eye + world * reach[:, None])[:, :2] / TABLE_M * TEXTURE + TEXTURE / 2
        maps = [cv2.resize(at[:, k].reshape(60, 80).astype(np.float32), (width, height)) for k in (1, 0)]
        image = cv2.remap(self.rig.texture, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        far = cv2.resize(
            np.linalg.norm(at - TEXTURE / 2, axis=1).reshape(60, 80).astype(np.float32), (width, height)
        )
        beyond = far > TEXTURE * 0.62
        if beyond.any():
            azimuth = np.arctan2(world[:, 1], world[:, 0]).reshape(60, 80).astype(np.float32)
            stripes = 14 * np.sin(9 * cv2.resize(azimuth, (width, height)))[beyond]
            image[beyond] = np.clip(np.array(self.rig.wall) + stripes[:, None], 0, 255)
        return image

    def _project(self, points: np.ndarray) -> np.ndarray | None:
        """Pixels of (N, 3) points, in sixteenths for cv2; None when one is behind the camera."""
        local = (points - self._eye) @ self._axes.T
        if (local[:, 2] < 0.015).any():
            return None
        height, width = self.size
        pixels = local[:, :2] / local[:, 2:] * self.focal + (width / 2, height / 2)
        return np.round(np.clip(pixels, -2000, 2000) * 16).astype(np.int32)

    def _width(self, points: np.ndarray, metres: float) -> int:
        depth = float(((points - self._eye) @ self._axes.T)[:, 2].mean())
        return max(1, round(metres * self.focal / max(depth, 0.05)))

    def _shadow(self, image: np.ndarray, arm: Arm) -> None:
        joints = np.array([[0, 0, 0], arm.elbow, arm.wrist, arm.tip])
        flat = joints + joints[:, 2:] * [0.25, -0.35, -1]
        pixels = self._project(flat)
        if pixels is not None:
            shade = tuple(int(c * 0.6) for c in self.rig.table)
            width = self._width(flat, 0.03)
            cv2.polylines(image, [pixels], False, shade, width, cv2.LINE_AA, 4)

    def _cube(self, image: np.ndarray, place: np.ndarray, color: tuple[int, int, int]) -> None:
        pixels = self._project(place + CORNERS)
        if pixels is None:
            return
        toward = self._eye - place
        for corners, axis, side, shade in FACES:
            if toward[axis] * side > HALF_CUBE:  # the others are turned away
                cv2.fillConvexPoly(
                    image, pixels[corners], tuple(int(c * shade) for c in color), cv2.LINE_AA, 4
                )

    def _arm(self, image: np.ndarray, arm: Arm) -> None:
        jaw = arm.across * arm.opening
        palm = arm.wrist + 0.05 * arm.pointing
        links = [
            (np.array([[0, 0, 0], arm.shoulder]), 0.05, 0.55),
            (np.array([arm.shoulder, arm.elbow]), 0.032, 1.0),
            (np.array([arm.elbow, arm.wrist]), 0.028, 0.85),
            (np.array([arm.wrist, palm]), 0.03, 0.7),
            (np.array([palm, palm + 0.25 * jaw, arm.tip]), 0.009, 0.9),
            (np.array([palm, palm - 0.9 * jaw, arm.tip - jaw]), 0.009, 1.05),
        ]
        if self.camera == "wrist":
            links = links[4:]  # its own mount hides the rest
        for points, thickness, shade in links:
            if (pixels := self._project(points)) is None:
                continue
            width = self._width(points, thickness)
            color = tuple(min(255, int(c * shade)) for c in self.rig.arm)
            edge = tuple(int(c * 0.5) for c in color)
            cv2.polylines(image, [pixels], False, edge, width + 2, cv2.LINE_AA, 4)
            cv2.polylines(image, [pixels], False, color, width, cv2.LINE_AA, 4)


@cache
def _noise(sigma: float, size: tuple[int, int]) -> np.ndarray:
    """Tiles of noise to add and to subtract, (2, NOISE_TILES, height, width, 3) uint8."""
    rng = np.random.default_rng(5)
    return np.abs(rng.normal(0, sigma, (2, NOISE_TILES, *size, 3)).astype(np.float32)).astype(np.uint8)


RIGS = (
    Rig("workbench", 11, (168, 142, 108), (206, 208, 204), (226, 196, 60), (0.62, -0.42, 0.42)),
    Rig(
        "desk", 23, (92, 98, 104), (150, 160, 176), (236, 236, 232), (0.74, 0.30, 0.36), noise=3.5, light=0.92
    ),
)
