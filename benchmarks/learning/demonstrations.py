"""Demonstrations of the scripted person, made once per training seed and kept on disk.

    Demonstrations(folder, seed=0).split(station)       # what the trainer takes in place of a folder

One file per task, source and number. Scenes come in a fixed order, so fewer demonstrations are the first of
more.
"""

import io
from pathlib import Path

import numpy as np

from agent.episodes.split import content_digest
from agent.training.data import Episode, Frames, Split, separate
from benchmarks.learning.plan import Shown, Station
from shared.files import write_atomic
from sim.expert import UnreachableError
from sim.lockstep import Demonstration, demonstrate
from sim.plant import Plant
from sim.scene import CAMERA
from sim.tasks import draw_scene


class Demonstrations:
    """Those of one training seed.

    Args:
        folder: Where they are kept; created.
        seed: The training seed.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder, self._seed = folder, seed
        folder.mkdir(parents=True, exist_ok=True)

    def split(self, station: Station) -> Split:
        """All that a station shows, to train on; what it learned is judged by rollouts, not on episodes."""
        return separate((episode for shown in station.shown for episode in self.episodes(shown)), ())

    def episodes(self, shown: Shown) -> list[Episode]:
        """The demonstrations of one task, recorded now if they are not on disk."""
        path = self._path(shown)
        if not path.exists():
            keep(path, record(shown, self._seed))
        return kept(path, shown)

    def _path(self, shown: Shown) -> Path:
        name = f"{self._seed}-{shown.source}-{shown.verb}-{shown.color}-{shown.demonstrations}.npz"
        return self._folder / name


def record(shown: Shown, seed: int) -> list[Demonstration]:
    """Successful demonstrations, from the scenes of this seed and source in order; others are left out, as a
    person would."""
    plant, done = Plant(), list[Demonstration]()
    scene_seed = shown.first_scene(seed)
    while len(done) < shown.demonstrations:
        scene, rng = draw_scene(scene_seed, shown.task), np.random.default_rng(scene_seed)
        scene_seed += 1
        try:
            demonstration = demonstrate(plant, scene, rng)
        except UnreachableError:
            continue
        if demonstration.success:
            done.append(demonstration)
    return done


def kept(path: Path, shown: Shown) -> list[Episode]:
    """What `keep` wrote, as training takes it."""
    with np.load(path) as file:
        return [_episode(path, file, shown, number) for number in range(shown.demonstrations)]


def keep(path: Path, demonstrations: list[Demonstration]) -> None:
    """Write demonstrations to one file, durably."""
    arrays: dict[str, np.ndarray] = {}
    for number, made in enumerate(demonstrations):
        arrays |= {f"state{number}": made.states, f"action{number}": made.actions}
        arrays[f"images{number}"] = made.images
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    write_atomic(path, file.getvalue())


def _episode(path: Path, file: np.lib.npyio.NpzFile, shown: Shown, number: int) -> Episode:
    def frames() -> Frames:
        with np.load(path) as opened:
            return {CAMERA: opened[f"images{number}"]}

    state, action = file[f"state{number}"], file[f"action{number}"]
    return Episode(
        id=f"{shown.source:02d}-{shown.color}-{number:04d}",
        digest=content_digest(state, action),
        task=shown.task.text,
        state=state,
        action=action,
        frames=frames,
    )
