"""Altered pictures: LeRobot's image transforms, drawn a fixed number of times into the training cache.

What the frozen half makes of a picture is computed once, so a picture can't be altered anew in each step.
Instead every training episode is there several times: as it was recorded, and in versions with the same
states and actions in which each picture of each camera was altered by a draw of its own. To the cache they
are episodes like others.
"""

from collections.abc import Sequence
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
    transforms = ImageTransforms(CONFIG)
    with torch.random.fork_rng(devices=[]):  # of the CPU alone, where all draws are made
        torch.default_generator.manual_seed(int(digest[:16], 16))
        return {camera: _altered(frames, transforms) for camera, frames in episode.frames().items()}


def _altered(frames: np.ndarray, transforms: ImageTransforms) -> np.ndarray:
    altered = np.empty_like(frames)
    for number, frame in enumerate(frames):
        picture = transforms(torch.from_numpy(frame).permute(2, 0, 1))
        altered[number] = picture.permute(1, 2, 0).numpy()
    return altered
