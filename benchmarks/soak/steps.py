"""The steps that `make soak-episodes` kills, all by the real code, in the state folder of a workstation."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lerobot.configs.video import RGBEncoderConfig
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from agent import judging
from agent.config import load_agent_config
from agent.episodes import importing
from agent.episodes.held_out import leak_guard
from agent.episodes.record import Label
from agent.episodes.recorder import EpisodeRecorder, RecorderSettings, Take
from agent.episodes.store import EpisodeStore
from agent.robot.cameras import Frame
from agent.robot.features import dataset_features
from agent.robot.loop import Observation
from agent.training.trainer import LocalTrainer
from benchmarks.soak.kills import Action, Prepare
from shared.recipe import Recipe

FPS = 30
SIDE = 96
CAMERAS = {"front": (SIDE, SIDE, 3), "wrist": (SIDE, SIDE, 3)}
TASKS = ("push the red cube to the left", "pull the green cube")
STEP = 360 / 4096
"""Degrees per count of the encoder."""
LAG = 4
"""Frames by which the follower trails, 130 ms."""
SAG = (0.4, 1.2, -1.8, 0.5, -0.4, 0.6)
"""Degrees by which it hangs or lags behind its goals."""
LENGTHS = (40, 91)
IMPORTED = 3
"""Episodes of a dataset to import."""
CONFIG = """
[node]
name = "soak"
state_dir = "{folder}/state"
socket = "{folder}/agent.sock"
[policy]
base = "{base}"
[recording]
crf = 20
min_free_mb = 1
[split]
eval_share = 0.2
"""


def _texture(seed: int, tint: tuple[float, float, float]) -> np.ndarray:
    grey = np.random.default_rng(seed).integers(60, 200, (6, 6, 1))
    return np.kron(grey * np.array(tint), np.ones((16, 16, 1)))


TABLE, GROUND = _texture(1, (1.0, 0.9, 0.7)), _texture(2, (0.7, 0.9, 1.0))
"""What the camera in front and the one on the wrist look at, (SIDE, SIDE, 3)."""


def demonstration(seed: int, frames: int) -> Iterator[tuple[Observation, np.ndarray]]:
    """A demonstration nobody else gave: (what the arm's loop sees, the goal) for every frame."""
    rng = np.random.default_rng(seed)
    time = np.arange(-LAG, frames)[:, None] / FPS
    middle = np.array([0, -20, 50, 40, -30, 50]) + rng.uniform(-5, 5, 6)
    leader = middle + sum(
        rng.uniform(3, 14, 6) * np.sin(time * rate + rng.uniform(0, 6.3, 6))
        for rate in rng.uniform(1.2, 3.4, 3)
    )
    goals, late = leader[LAG:], leader[:-LAG]
    follower = np.rint((late + SAG + rng.normal(0, 0.1, late.shape)) / STEP) * STEP
    for i in range(frames):
        pan, lift = follower[i, 0], follower[i, 1]
        front = TABLE.copy()
        row, column = round(36 + 0.5 * lift), round(40 + 0.8 * pan)
        front[row : row + 24, column : column + 16] = (230, 120, 40)
        pictures = {"front": front, "wrist": np.roll(GROUND, (round(0.5 * lift), round(0.7 * pan)), (0, 1))}
        shots = {
            name: Frame(
                (image + rng.normal(0, 2, image.shape)).astype(np.uint8), 1000 + i / FPS, 0.01, False, i / FPS
            )
            for name, image in pictures.items()
        }
        period = float("nan") if i == 0 else 1 / FPS
        state = follower[i].astype(np.float32)
        yield Observation(i, 1000 + i / FPS, period, 0.0, state, None, shots, 0), goals[i]


class Workplace:
    """A state folder and what is done in it; methods named after a step give it for a child to run.

    Args:
        folder: Empty; agent.toml and everything else go there.
        base: Folder of the base policy that the trainer loads.
    """

    def __init__(self, folder: Path, base: Path) -> None:
        self.toml = folder / "agent.toml"
        self.toml.write_text(CONFIG.format(folder=folder.absolute(), base=base.absolute()))
        self.config = load_agent_config(self.toml)
        self.episodes, self.sources = self.config.episodes_dir, folder / "sources"
        self.episodes.mkdir(parents=True)
        self.sources.mkdir()

    def store(self) -> EpisodeStore:
        """As the agent has it."""
        return EpisodeStore(self.episodes, self.config.split, self.config.gate.thresholds)

    def record(self, episode_id: str, seed: int) -> Prepare:
        """All frames of an episode, without saving it."""

        def prepare() -> Action:
            recorder = self._recorder()
            rows = list(demonstration(seed, _length(seed)))
            return lambda: self._recorded(recorder, episode_id, seed, rows).frames

        return prepare

    def save(self, episode_id: str, seed: int) -> Prepare:
        """An episode whose frames are all there gets its name."""

        def prepare() -> Action:
            rows = list(demonstration(seed, _length(seed)))
            take = self._recorded(self._recorder(), episode_id, seed, rows)
            return lambda: str(take.save())

        return prepare

    def gate(self, episode_ids: Sequence[str]) -> Prepare:
        """What the process does that the agent starts for episodes without a verdict."""
        return lambda: lambda: _expect(judging.main(self.toml, episode_ids), 0)

    def build(self) -> Prepare:
        """The training set, as the trainer makes it for an update: episodes chosen, their cache built;
        the ids of those for training."""

        def prepare() -> Action:
            config = self.config
            guard = leak_guard(config.split, config.policy.base)
            trainer = LocalTrainer(config.policy.base, config.episodes_dir, config.training_dir, guard=guard)

            def act() -> list[str]:
                split = trainer._split(Recipe())
                trainer._cache.serve(split, trainer._cache.plan(split))
                return [episode.id for episode in split.train]

            return act

        return prepare

    def bring_in(self, dataset: Path) -> Prepare:
        """The import of a dataset; {outcome: ids}."""

        def act() -> dict[str, list[str]]:
            outcomes: dict[str, list[str]] = {}

            def note(event: dict[str, Any]) -> None:
                if "outcome" in event:
                    outcomes.setdefault(event["outcome"], []).append(event["episode"])

            _expect(importing.run(self.episodes, 1, [dataset], note), 0)
            return outcomes

        return lambda: act

    def label(self, episode_id: str, label: Label | None) -> Prepare:
        """An operator's word is written."""
        return lambda: lambda: self.store().label(episode_id, label).label

    def delete(self, episode_id: str, for_good: bool) -> Prepare:
        """To the trash, or for good."""
        return lambda: lambda: str(self.store().delete(episode_id, for_good))

    def make_source(self, dataset: Path, seed: int) -> Prepare:
        """Write a LeRobot v3.0 dataset of IMPORTED episodes in shared files, with LeRobot itself."""

        def act() -> None:
            made = LeRobotDataset.create(
                repo_id="soak/source",
                fps=FPS,
                root=dataset,
                robot_type="so101_follower",
                features=dataset_features(CAMERAS),
                rgb_encoder=RGBEncoderConfig(vcodec="h264", crf=20, g=2, preset="veryfast"),
                streaming_encoding=True,
                encoder_threads=1,
                encoder_queue_maxsize=300,
            )
            for number in range(IMPORTED):
                for seen, goal in demonstration(seed + number, _length(seed + number)):
                    row: dict[str, Any] = {"observation.state": seen.state, "action": goal.astype(np.float32)}
                    row |= {f"observation.images.{name}": shot.image for name, shot in seen.frames.items()}
                    made.add_frame({**row, "task": TASKS[number % 2]})
                made.save_episode()
            made.finalize()

        return lambda: act

    def _recorder(self) -> EpisodeRecorder:
        settings = RecorderSettings(self.episodes, CAMERAS, FPS, self.config.recording, "calibration")
        return EpisodeRecorder(settings)

    def _recorded(
        self,
        recorder: EpisodeRecorder,
        episode_id: str,
        seed: int,
        rows: list[tuple[Observation, np.ndarray]],
    ) -> Take:
        take = recorder.start(episode_id, TASKS[seed % 2], max_s=60)
        for seen, goal in rows:
            take.add(seen, goal)
        return take


def _length(seed: int) -> int:
    return int(np.random.default_rng([seed, 1]).integers(*LENGTHS))


def _expect(code: int, wanted: int) -> None:
    if code != wanted:
        raise RuntimeError(f"it ended with code {code}")
