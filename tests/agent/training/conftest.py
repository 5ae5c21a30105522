"""Small made-up episodes and a trainer on the tiny base."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from agent.episodes.record import EpisodeRecord, write_record
from agent.training.data import Episode, Split, separate
from shared.recipe import PRESETS, Recipe

FRAMES = 6
TASKS = ("push the red cube to the left", "push the green cube to the right")


def write_episode(root: Path, name: str, **record: object) -> None:
    """A real one-episode LeRobot dataset; frame i shows a grey of 20 + 30 i, its state is i."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    joints = [f"joint{i}.pos" for i in range(6)]
    vector = {"dtype": "float32", "shape": (6,), "names": joints}
    image = {"dtype": "video", "shape": (96, 96, 3), "names": ["height", "width", "channels"]}
    dataset = LeRobotDataset.create(
        repo_id=f"armfleet/{name}",
        fps=30,
        root=root / name,
        features={"observation.state": vector, "action": vector, "observation.images.front": image},
        use_videos=True,
    )
    for i in range(FRAMES):
        dataset.add_frame(
            {
                "observation.state": np.full(6, i, np.float32),
                "action": np.full(6, 10 + i, np.float32),
                "observation.images.front": np.full((96, 96, 3), 20 + 30 * i, np.uint8),
                "task": "push the red cube to the left",
            }
        )
    dataset.save_episode()
    dataset.finalize()
    fields = {
        "id": name,
        "task": "push the red cube to the left",
        "frames": FRAMES,
        "fps": 30,
        "created": "2026-01-01T00:00:00.000+00:00",
        "verdict": "admitted",
        "split": "train",
        "digest": "a" * 64,
    }
    write_record(root / name, EpisodeRecord.model_validate(fields | record))


@pytest.fixture(scope="session")
def recorded_episodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one admitted episode, as the recorder writes it."""
    root = tmp_path_factory.mktemp("episodes")
    write_episode(root, "000001")
    return root


def make_episode(number: int, task: str, frames: int = 20) -> Episode:
    """Smooth pictures and joint paths that a policy can tell apart."""
    rng = np.random.default_rng(number)
    path = np.cumsum(rng.normal(0, 2, (frames, 6)), axis=0).astype(np.float32)
    coarse = rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)
    image = np.kron(coarse, np.ones((16, 16, 1), np.uint8))
    return Episode(
        id=f"{number:06d}",
        digest=hashlib.sha256(str(number).encode()).hexdigest(),
        task=task,
        state=path,
        action=path + 1,
        frames=lambda: {"front": np.stack([np.roll(image, i, axis=1) for i in range(frames)])},
        calibration="c" * 64,
    )


def pictures(episode: Episode, camera: str = "front") -> np.ndarray:
    """All of one camera, (frames, H, W, 3) uint8."""
    return np.stack(list(episode.frames()[camera]))


@pytest.fixture(scope="session")
def split() -> Split:
    train = [make_episode(i, TASKS[i % 2]) for i in range(4)]
    return separate(train, [make_episode(10, TASKS[0])])


@pytest.fixture
def recipe() -> Recipe:
    return Recipe.model_validate(
        PRESETS["wide"] | {"rank": 4, "alpha": 8, "batch": 6, "draws": 2, "steps": 5}
    )


@pytest.fixture
def trainer(tiny_base: Path, split: Split) -> Callable:
    """Make a trainer, as a freshly started process would."""
    from agent.training.trainer import LocalTrainer

    def make(state_dir: Path, **options: object) -> LocalTrainer:
        return LocalTrainer(tiny_base, options.pop("episodes", split), state_dir, node="station-a", **options)

    return make
