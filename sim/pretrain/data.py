"""Touch and hover episodes from the scripted person, as 10 Hz training samples.

A sample is an image and a state at one control tick and the eight leader positions that `target_indices`
picks for it from the 30 Hz stream, the same that stations train on. Cube positions come along as labels for
an auxiliary loss; nothing a real station has, and nothing the shipped policy needs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from shared.policy.rtc import target_indices
from sim.expert import UnreachableError
from sim.lockstep import CHUNK, SUBTICKS, demonstrate
from sim.plant import Plant
from sim.tasks import COLORS, PRETRAINED, Scene, Task, draw_scene

DISTURBANCE_DEG = 3.0
FIRST_SEED = 1_000_000
"""Training scenes; evaluation of the base uses seeds from `sim.pretrain.evaluate.FIRST_SEED`."""


@dataclass(frozen=True)
class Samples:
    """Columns of equal length n.

    Attributes:
        images: (n, 3, 96, 96) uint8 RGB.
        states: (n, 6) float32 units.
        actions: (n, 8, 6) float32 units.
        colors: (n,) int64, index of the named colour.
        verbs: (n,) int64, index into `sim.tasks.VERBS`.
        targets: (n, 2) float32 m, first place of the named cube.
        cubes: (n, 4, 3) float32: first place (x, y) and presence of the cubes in `COLORS` order.
    """

    images: np.ndarray
    states: np.ndarray
    actions: np.ndarray
    colors: np.ndarray
    verbs: np.ndarray
    targets: np.ndarray
    cubes: np.ndarray

    def __len__(self) -> int:
        return len(self.states)


def generate(episodes: int, on_episode: Callable[[int], None] = lambda _: None) -> Samples:
    """Record `episodes` successful episodes, touch and hover in turn, colours in turn."""
    plant = Plant()
    columns: dict[str, list[np.ndarray]] = {name: [] for name in Samples.__dataclass_fields__}
    seed, done = FIRST_SEED, 0
    while done < episodes:
        task = Task(PRETRAINED[done % 2], COLORS[done // 2 % 4])
        scene = draw_scene(seed, task)
        rng = np.random.default_rng(seed)
        seed += 1
        try:
            episode = demonstrate(plant, scene, rng, disturbance=DISTURBANCE_DEG, image_every=SUBTICKS)
        except UnreachableError:
            continue
        if not episode.success:
            continue
        ticks = episode.image_ticks
        later = np.array([target_indices(tick, len(episode.actions), CHUNK) for tick in ticks])
        columns["images"].append(episode.images.transpose(0, 3, 1, 2))
        columns["states"].append(episode.states[ticks])
        columns["actions"].append(episode.actions[later])
        for name, value in _labels(scene).items():
            columns[name].append(np.broadcast_to(value, (len(ticks), *value.shape)))
        done += 1
        on_episode(done)
    return Samples(**{name: np.concatenate(parts) for name, parts in columns.items()})


def _labels(scene: Scene) -> dict[str, np.ndarray]:
    cubes = np.zeros((len(COLORS), 3), np.float32)
    for color, point in zip(scene.colors, scene.positions, strict=True):
        cubes[COLORS.index(color)] = (*point, 1)
    return {
        "colors": np.array(COLORS.index(scene.task.color), np.int64),
        "verbs": np.array(PRETRAINED.index(scene.task.verb), np.int64),
        "targets": scene.positions[0].astype(np.float32),
        "cubes": cubes,
    }
