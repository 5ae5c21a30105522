"""Altered pictures: LeRobot's image transforms, drawn a fixed number of times into the training cache.

What the frozen half makes of a picture is computed once, so a picture can't be altered anew in each step.
Instead every training episode is there several times: as it was recorded, and in versions with the same
states and actions in which each picture of each camera was altered by a draw of its own. To the cache they
are episodes like others.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version

import numpy as np
import torch
from lerobot.transforms import ImageTransforms, ImageTransformsConfig

from agent.training.data import Episode, Frames
from shared.files import sha256

CONFIG = ImageTransformsConfig(enable=True)
"""LeRobot's own choice: of brightness, contrast, saturation, hue, sharpness and a small shift and turn, three
at a time. Gentle enough that states and actions still fit the picture."""
_SMALL = torch.zeros(3, 8, 8, dtype=torch.uint8)
_KEY = repr((CONFIG, version("lerobot"), version("torchvision")))


def with_augmentations(episodes: Sequence[Episode], count: int) -> list[Episode]:
    """`episodes`, each followed by `count` versions of it with altered pictures.

    Which ones is a function of an episode's content and the version's number alone, so that they are found in
    the cache again.
    """
    return [each for episode in episodes for each in (episode, *_augmented(episode, count))]


def _augmented(episode: Episode, count: int) -> list[Episode]:
    digests = [sha256(f"{_KEY} {episode.digest} {number}".encode()) for number in range(count)]
    return [replace(episode, digest=digest, frames=partial(_draw, episode, digest)) for digest in digests]


def _draw(episode: Episode, digest: str) -> Frames:
    """All draws are one sequence, camera after camera, but pictures are asked for camera beside camera: so
    each camera's begin where those of the cameras before it will end."""
    transforms = ImageTransforms(CONFIG)
    drawn: dict[str, Iterable[np.ndarray]] = {}
    state = torch.Generator().manual_seed(int(digest[:16], 16)).get_state()
    frames = episode.frames()
    for camera, pictures in frames.items():
        drawn[camera] = _altered(pictures, transforms, state)
        if len(drawn) < len(frames):
            state = _state_after(len(episode), transforms, state)
    return drawn


def _altered(
    pictures: Iterable[np.ndarray], transforms: ImageTransforms, state: torch.Tensor
) -> Iterator[np.ndarray]:
    for picture in pictures:
        altered, state = _alter(torch.from_numpy(picture).permute(2, 0, 1), transforms, state)
        yield altered.permute(1, 2, 0).numpy()


def _state_after(count: int, transforms: ImageTransforms, state: torch.Tensor) -> torch.Tensor:
    """The generator's state after `count` pictures; how many numbers one takes does not depend on the
    picture."""
    for _ in range(count):
        _, state = _alter(_SMALL, transforms, state)
    return state


def _alter(
    picture: torch.Tensor, transforms: ImageTransforms, state: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(picture, the generator's state afterwards)."""
    with torch.random.fork_rng(devices=[]):  # of the CPU alone, where all draws are made
        torch.set_rng_state(state)
        return transforms(picture), torch.get_rng_state()
