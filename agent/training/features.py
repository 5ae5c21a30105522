"""First tier of the training cache: the frozen vision tower's output, computed once per frame.

The tower is three quarters of a training step's arithmetic and a constant as long as the base does not
change. Stored in half precision (3e-5 relative error of the gradient).
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy

from agent.training.data import Episode
from agent.training.frame_store import FrameStore
from agent.training.loss import embed_images
from agent.training.micro_batch import MicroBatch
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.files import sha256
from shared.policy.base import camera_names

CHUNK = 32
"""Frames per call of the frozen half: fixed unless memory runs out, since rounding may depend on the batch
size."""

_NAME = 24
"""Hexadecimal digits of each digest in a file name; 96 bits do not collide by accident."""


class FeatureStore(FrameStore):
    """Features of one base's vision tower: rows of (cameras, tokens, width). Videos are decoded as they are
    encoded, all cameras in step, so that memory holds the pictures of one piece only.

    Args:
        folder: For this store alone; created. `prune` removes the files of other bases.
        base_digest: Digest of the base that `policy` was loaded from.

    Raises:
        ArmfleetError: when features are computed: EPISODE_DAMAGED; CONFIG_INVALID when the episode lacks a
            camera of the policy.
    """

    def __init__(self, folder: Path, base_digest: str, policy: SmolVLAPolicy) -> None:
        super().__init__(folder)
        self._policy = policy
        self._cameras = camera_names(policy)
        self._pieces = MicroBatch(CHUNK)
        self._key = (base_digest, self._cameras, *processing(policy))

    def _name(self, episode: Episode) -> str:
        return name_of(episode, *self._key)

    def _compute(self, episode: Episode) -> Iterator[torch.Tensor]:
        frames = episode.frames()
        missing = [camera for camera in self._cameras if camera not in frames]
        if missing:
            raise ArmfleetError(
                f"episode {episode.id} has no camera '{missing[0]}' (it has {', '.join(sorted(frames))})",
                do="name the cameras in agent.toml as the base policy does",
                code=ExitCode.CONFIG_INVALID,
            )
        pictures = {camera: iter(frames[camera]) for camera in self._cameras}
        for start in range(0, len(episode), CHUNK):
            size = min(CHUNK, len(episode) - start)
            images = {camera: _next(size, each) for camera, each in pictures.items()}
            yield self._pieces.run(size, partial(self._embed, images))
        for each in pictures.values():
            deque(each, maxlen=0)  # a video with too many pictures says so at its end

    def _embed(self, images: Mapping[str, torch.Tensor], pieces: Sequence[slice]) -> torch.Tensor:
        device = next(self._policy.parameters()).device
        rows = [{c: part[piece].to(device) for c, part in images.items()} for piece in pieces]
        return torch.cat([embed_images(self._policy, row).half().cpu() for row in rows])


def _next(size: int, pictures: Iterator[np.ndarray]) -> torch.Tensor:
    """(size, H, W, 3) uint8."""
    return torch.from_numpy(np.stack(list(islice(pictures, size))))


def processing(policy: SmolVLAPolicy) -> tuple[object, ...]:
    """What turns pixels into the vision tower's input: settings, and the code that reads them."""
    config = policy.config
    settings = (config.resize_imgs_with_padding, config.add_image_special_tokens)
    return (*settings, version("lerobot"), version("transformers"))


def name_of(episode: Episode, *key: object) -> str:
    """A file name from an episode's digest and everything else that its rows depend on."""
    return f"{sha256(repr(key).encode())[:_NAME]}-{episode.digest[:_NAME]}"
