"""The frozen half of the policy for frames of episodes, from two tiers on disk.

1. `features`: the vision tower's output of every frame that is trained or evaluated on.
2. `prefixes`: keys and values of the whole frozen prefix, for as many episodes as the budget allows.

A frame of the second tier is read; one of the first goes through the text model in every step. One batch may
hold both. Which episodes are in the second tier is decided when an update is begun (`plan`) and written in
its checkpoint, so that a resumed update computes with the same numbers.
"""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from loguru import logger
from torch.nn.utils.rnn import pad_sequence

from agent.training.building import OnBuild, announced
from agent.training.data import Episode, Split
from agent.training.features import FeatureStore
from agent.training.loss import Prefix, encode_prefix
from agent.training.prefixes import PrefixStore, choose
from shared.files import free_bytes, remove_in_progress

FEATURES, PREFIXES = "features", "prefixes"
KEEP_FREE = 5 * 10**9
"""Bytes that prefixes leave free on the disk whatever the budget: recording needs them more."""

Frame = tuple[Episode, int]
"""An episode and the number of one of its frames."""


class TrainingCache:
    """Both tiers for one base.

    Args:
        folder: Gets a folder per tier.
        base_digest: Digest of the base that `policy` was loaded from.
        preprocess: The base's pre-processor: its tokenizer. Neither tier sees a state or an action, so that
            both serve whatever normalisation.
        budget: Bytes on disk of both tiers together. Features are kept in any case, prefixes get the rest.
    """

    def __init__(
        self, folder: Path, base_digest: str, policy: SmolVLAPolicy, preprocess: Any, budget: int
    ) -> None:
        for tier in (FEATURES, PREFIXES):  # the trainer is killed to stop it, also in a write
            remove_in_progress(folder / tier)
        self._folder, self._policy, self._preprocess, self._budget = folder, policy, preprocess, budget
        self._features = FeatureStore(folder / FEATURES, base_digest, policy)
        self._prefixes = PrefixStore(
            folder / PREFIXES, base_digest, policy, self._features, lambda episode: self._tokens(episode.task)
        )
        self._tokenised: dict[str, torch.Tensor] = {}
        self._served: frozenset[str] = frozenset()

    def admit(self, episode: Episode) -> None:
        """Make sure of the first tier of an episode.

        Raises:
            ArmfleetError: EPISODE_DAMAGED; CONFIG_INVALID when the episode lacks a camera of the policy.
        """
        self._features.ensure(episode)

    def without_features(
        self, episodes: Sequence[Episode], on_build: OnBuild | None = None
    ) -> Iterator[Episode]:
        """Those that `admit` has work with, announced."""
        return announced(FEATURES, self._features.missing(episodes), len(episodes), on_build)

    def plan(self, split: Split) -> list[str]:
        """Content digests of the admitted episodes whose prefixes fit: those for training first, then those
        for evaluation."""
        everyone = _in_order(split)
        sizes = {episode.digest: self._prefixes.size(episode) for episode in everyone}
        left = self._budget - self._features.bytes_of(everyone)
        room = free_bytes(self._folder) + self._prefixes.bytes_of(everyone) - KEEP_FREE
        if room < min(left, sum(sizes.values())):
            logger.warning(
                "the disk is nearly full: fewer frames than [training] cache_gb allows are kept whole"
            )
        return choose(sizes, min(left, room))

    def serve(self, split: Split, planned: Collection[str], on_build: OnBuild | None = None) -> None:
        """Keep what belongs to `split`, with prefixes for the `planned`; remove all else, then build what is
        missing, announced. Killed on the way, it loses the work on one episode."""
        everyone = _in_order(split)
        wanted = [episode for episode in everyone if episode.digest in planned]
        self._features.prune(everyone)
        self._prefixes.prune(wanted)
        for episode in announced(PREFIXES, self._prefixes.missing(wanted), len(wanted), on_build):
            self._prefixes.ensure(episode)
        self._served = frozenset(planned)

    def prefix(self, frames: Sequence[Frame]) -> Prefix:
        """The prefixes of `frames`, one row each, on the policy's device."""
        stored: dict[str, list[int]] = {}
        rest = []
        for row, (episode, _) in enumerate(frames):
            if episode.digest in self._served:
                stored.setdefault(episode.digest, []).append(row)
            else:
                rest.append(row)
        parts = [(rows, self._read([frames[row] for row in rows])) for rows in stored.values()]
        if rest:
            parts.append((rest, self._encode([frames[row] for row in rest])))
        return parts[0][1] if len(parts) == 1 else _merged(parts, len(frames))

    def _read(self, frames: Sequence[Frame]) -> Prefix:
        """Of one episode."""
        device = next(self._policy.parameters()).device
        rows = self._prefixes.read(frames[0][0], [number for _, number in frames]).to(device)
        valid = torch.ones(len(rows), rows.shape[-2], dtype=torch.bool, device=device)
        return Prefix(rows.movedim(0, 2).float(), valid)

    def _encode(self, frames: Sequence[Frame]) -> Prefix:
        device = next(self._policy.parameters()).device
        features = torch.cat([self._features.read(episode, [number]) for episode, number in frames])
        tokens = [self._tokens(episode.task) for episode, _ in frames]
        ids = pad_sequence(tokens, batch_first=True).to(device)
        mask = pad_sequence([torch.ones_like(t, dtype=torch.bool) for t in tokens], batch_first=True)
        return encode_prefix(self._policy, features.to(device).float(), ids, mask.to(device))

    def _tokens(self, task: str) -> torch.Tensor:
        """(tokens,) int64 on the CPU, without padding."""
        if task not in self._tokenised:
            state = torch.zeros(1, self._policy.config.robot_state_feature.shape[0])
            done = self._preprocess({"observation.state": state, "task": [task]})
            mask = done["observation.language.attention_mask"].bool()
            self._tokenised[task] = done["observation.language.tokens"][mask].cpu()
        return self._tokenised[task]


def _in_order(split: Split) -> list[Episode]:
    """Training before evaluation, each in the order of content digests."""
    return [episode for part in (split.train, split.eval) for episode in sorted(part, key=lambda e: e.digest)]


def _merged(parts: Sequence[tuple[list[int], Prefix]], rows: int) -> Prefix:
    """One prefix of `rows` rows, padded to the longest part."""
    first = parts[0][1].kv
    length = max(part.valid.shape[1] for _, part in parts)
    kv = first.new_zeros(*first.shape[:2], rows, first.shape[3], length, first.shape[5])
    valid = torch.zeros(rows, length, dtype=torch.bool, device=first.device)
    for index, part in parts:
        kv[:, :, index, :, : part.valid.shape[1]] = part.kv
        valid[index, : part.valid.shape[1]] = part.valid
    return Prefix(kv, valid)
