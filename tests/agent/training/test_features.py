"""The first tier of the cache is computed piece by piece, from as many pictures as a piece has."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy

from agent.training import features as features_module
from agent.training.data import Episode, EpisodeFolder, Frames, Split
from agent.training.features import FeatureStore
from agent.training.frame_store import write_rows
from agent.training.loss import embed_images
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.policy.base import load_base
from shared.policy.initial import initial_adapter
from shared.recipe import Recipe
from tests.agent.training.conftest import TASKS, make_episode, pictures

PIECE = 4


@pytest.fixture(scope="module")
def policy(tiny_base: Path) -> SmolVLAPolicy:
    return load_base(tiny_base)


@pytest.fixture(autouse=True)
def _short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features_module, "CHUNK", PIECE)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_a_video_gives_the_file_that_all_its_pictures_at_once_give(
    policy: SmolVLAPolicy, recorded_episodes: Path, tmp_path: Path
) -> None:
    (episode,) = EpisodeFolder(recorded_episodes).read().train
    store = FeatureStore(tmp_path / "features", "b" * 64, policy)
    store.ensure(episode)
    whole = torch.from_numpy(pictures(episode))
    rows = [embed_images(policy, {"front": whole[at : at + PIECE]}).half() for at in (0, PIECE)]
    (tmp_path / "whole").mkdir()
    write_rows(tmp_path / "whole" / store._path(episode).name, len(episode), rows)
    assert digests(tmp_path / "features") == digests(tmp_path / "whole")


def test_no_more_pictures_are_decoded_than_a_piece_needs(policy: SmolVLAPolicy, tmp_path: Path) -> None:
    episode = make_episode(0, TASKS[0], frames=10)
    decoded: list[int] = []

    def one_by_one() -> Iterator[np.ndarray]:
        for number, picture in enumerate(pictures(episode)):
            decoded.append(number)
            yield picture

    streamed = replace(episode, frames=lambda: {"front": one_by_one()})
    counts = [len(decoded) for _ in FeatureStore(tmp_path, "b" * 64, policy)._compute(streamed)]
    assert counts == [4, 8, 10]


def test_a_video_that_is_too_long_leaves_no_file(policy: SmolVLAPolicy, tmp_path: Path) -> None:
    def too_long() -> Iterator[np.ndarray]:
        yield from pictures(episode)
        yield pictures(episode)[0]
        raise ArmfleetError("too many", code=ExitCode.EPISODE_DAMAGED)

    episode: Episode = make_episode(0, TASKS[0], frames=10)
    store = FeatureStore(tmp_path, "b" * 64, policy)
    with pytest.raises(ArmfleetError, match="too many"):
        store.ensure(replace(episode, frames=lambda: {"front": too_long()}))
    assert not list(tmp_path.iterdir())


def test_the_peak_of_memory_counts_from_before_the_cache_is_built(
    trainer: Callable,
    tiny_base: Path,
    recipe: Recipe,
    tmp_path: Path,
    split: Split,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def frames() -> Frames:
        order.append("decode")
        return split.train[0].frames()

    order: list[str] = []
    trained = trainer(tmp_path, episodes=Split((replace(split.train[0], frames=frames),), ()))
    monkeypatch.setattr(trained._memory, "reset", lambda: order.append("reset"))
    trained.train(initial_adapter(tiny_base, recipe)[0], 0, recipe.model_copy(update={"steps": 1}), 2e-3)
    assert order == ["reset", "decode"]
