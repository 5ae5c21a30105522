"""Second tier of the training cache: the whole frozen prefix of every frame of the episodes that get it.

Keys and values of the image and language tokens in all layers of the text model (`agent.training.loss`), in
half precision and without padding: leaving invalid tokens out is exact, since positions count valid tokens
and no valid token attends to an invalid one. At full size with two cameras a frame takes 2.9 MB, a dozen
times its features, so a budget decides who gets it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy

from agent.training.data import Episode
from agent.training.features import CHUNK, FeatureStore, name_of, processing
from agent.training.frame_store import FrameStore, file_size
from agent.training.loss import encode_prefix
from agent.training.micro_batch import MicroBatch
from shared.policy.base import camera_names


class PrefixStore(FrameStore):
    """Prefixes of one base: rows of (2, layers, KV heads, tokens, head size).

    Args:
        folder: For this store alone; created.
        base_digest: Digest of the base that `policy` was loaded from.
        features: Of the same base: what prefixes are computed from.
        tokens: Token ids of an episode's task, (tokens,) int64 on the CPU.
    """

    def __init__(
        self,
        folder: Path,
        base_digest: str,
        policy: SmolVLAPolicy,
        features: FeatureStore,
        tokens: Callable[[Episode], torch.Tensor],
    ) -> None:
        super().__init__(folder)
        self._policy, self._features, self._tokens = policy, features, tokens
        self._pieces = MicroBatch(CHUNK)
        self._key = (base_digest, camera_names(policy), *processing(policy))

    def size(self, episode: Episode) -> int:
        """Bytes that the prefixes of `episode` take, whether they are there or not.

        Raises:
            ArmfleetError: as `FeatureStore.read`.
        """
        vlm = self._policy.model.vlm_with_expert
        text = vlm.config.text_config
        cameras, per_image, _ = self._features.read(episode, [0]).shape[1:]
        if self._policy.config.add_image_special_tokens:
            per_image += 3  # two before and one after each image (VLAFlowMatching.embed_prefix)
        tokens = cameras * per_image + len(self._tokens(episode))
        row = (2, vlm.num_vlm_layers, text.num_key_value_heads, tokens, text.head_dim)
        return file_size(len(episode), row)

    def _name(self, episode: Episode) -> str:
        return name_of(episode, *self._key, self._tokens(episode).tolist())

    def _compute(self, episode: Episode) -> Iterator[torch.Tensor]:
        for start in range(0, len(episode), CHUNK):
            features = self._features.read(episode, range(start, min(start + CHUNK, len(episode))))
            work = partial(self._encode, features, self._tokens(episode))
            yield self._pieces.run(len(features), work)

    def _encode(self, features: torch.Tensor, tokens: torch.Tensor, pieces: Sequence[slice]) -> torch.Tensor:
        device = next(self._policy.parameters()).device
        encoded = []
        for piece in pieces:
            part = features[piece].to(device).float()
            ids = tokens.to(device).expand(len(part), -1)
            prefix = encode_prefix(self._policy, part, ids, torch.ones_like(ids, dtype=torch.bool))
            encoded.append(prefix.kv.movedim(2, 0).half().cpu())
        return torch.cat(encoded)


def choose(sizes: Mapping[str, int], budget: int) -> list[str]:
    """Episodes whose prefixes are kept: in the order given, each that still fits.

    Args:
        sizes: Content digest to bytes. In the order of digests, which is as good as random, a new episode
            seldom displaces more than one other, and no task is preferred.
        budget: Bytes for all of them.
    """
    chosen = []
    for digest, size in sizes.items():
        if size <= budget:
            chosen.append(digest)
            budget -= size
    return chosen
