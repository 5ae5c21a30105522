"""Altered pictures: drawn once, the same for ever, beside the pictures as recorded."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lerobot.transforms import ImageTransforms

from agent.training.augmentation import CONFIG, with_augmentations
from agent.training.data import Episode, Split
from shared.errors import ArmfleetError
from shared.policy.initial import initial_adapter
from shared.recipe import Recipe
from tests.agent.training.conftest import TASKS, make_episode, pictures


@pytest.fixture
def episode() -> Episode:
    return make_episode(0, TASKS[0])


def test_each_picture_is_altered_by_a_draw_of_its_own(episode: Episode) -> None:
    recorded, *altered = with_augmentations([episode], 2)
    assert recorded is episode
    still = np.repeat(pictures(episode)[:1], len(episode), axis=0)
    for version in with_augmentations([replace(episode, frames=lambda: {"front": still})], 2)[1:]:
        drawn = pictures(version)
        assert drawn.shape == still.shape
        assert drawn.dtype == np.uint8
        assert len({picture.tobytes() for picture in drawn}) > len(episode) // 2
    for version in altered:
        assert version.state is episode.state
        assert version.action is episode.action
        assert version.task == episode.task
        far = np.abs(pictures(version).astype(int) - pictures(episode)).mean()
        assert 1 < far < 60, "another picture, of the same scene"


def test_the_draws_of_a_second_camera_go_on_after_those_of_the_first(episode: Episode) -> None:
    """As when all pictures of a camera were altered before the next one's: files in the cache stay valid."""
    images = {"front": pictures(episode), "wrist": pictures(episode)[::-1, :64].copy()}
    _, version = with_augmentations([replace(episode, frames=lambda: images)], 1)
    transforms = ImageTransforms(CONFIG)
    expected: dict[str, np.ndarray] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(version.digest[:16], 16))
        for camera, recorded in images.items():
            altered = [transforms(torch.from_numpy(picture).permute(2, 0, 1)) for picture in recorded]
            expected[camera] = torch.stack(altered).permute(0, 2, 3, 1).numpy()
    in_step = zip(*version.frames().values(), strict=True)
    drawn = dict(zip(images, map(np.stack, zip(*in_step, strict=True)), strict=True))
    np.testing.assert_equal(drawn, expected)


def test_the_same_pictures_are_found_again(episode: Episode) -> None:
    found: dict[str, bytes] = {}
    for torch_seed, count in ((0, 1), (1, 3)):
        torch.manual_seed(torch_seed)
        after = torch.random.get_rng_state()
        for version in with_augmentations([episode], count):
            drawn = pictures(version).tobytes()
            assert found.setdefault(version.digest, drawn) == drawn
        assert torch.equal(torch.random.get_rng_state(), after), "nobody else's draws change"
    assert len(found) == len(set(found.values())) == 4
    renewed = with_augmentations([replace(episode, digest="e" * 64)], 1)
    assert renewed[1].digest not in found


def test_training_draws_into_the_cache_once(
    trainer: Callable, recipe: Recipe, split: Split, tiny_base: Path, tmp_path: Path
) -> None:
    tensors = initial_adapter(tiny_base, recipe)[0]
    recipe = recipe.model_copy(update={"augmentations": 2})
    first = trainer(tmp_path).train(tensors, 0, recipe, 2e-3)
    assert first.header.examples == sum(len(episode) for episode in split.train), "altered ones don't count"
    files = len(split.train) * 3 + len(split.eval)
    assert len(list((tmp_path / "features").iterdir())) == files
    assert len(list((tmp_path / "prefixes").iterdir())) == files

    def gone() -> dict[str, np.ndarray]:
        raise ArmfleetError("the pictures are decoded a second time")

    kept = Split(tuple(replace(e, frames=gone) for e in split.train), split.eval)
    trainer(tmp_path, episodes=kept).train(tensors, 1, recipe, 2e-3)
    with pytest.raises(ArmfleetError, match="second time"):
        trainer(tmp_path, episodes=kept).train(
            tensors, 2, recipe.model_copy(update={"augmentations": 3}), 2e-3
        )
