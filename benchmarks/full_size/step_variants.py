"""The ways of `bench_step` to take one training step on the same frames, draws and adapter."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy

from agent.training.cache import FEATURES, PREFIXES, TrainingCache
from agent.training.data import Episode, separate
from agent.training.loop import Loop, seed_of
from agent.training.loss import draw, embed_images, encode_prefix, flow_matching_loss
from agent.training.samples import Samples, rows_of_step
from benchmarks.full_size.policy import HEIGHT, WIDTH, full_size_processors
from shared.policy.adapter import adapter_parameters, add_adapter, remove_adapter
from shared.recipe import PRESETS, Recipe

CAMERAS = ("front", "wrist")
BATCH, DRAWS = 4, 4
TASK, NODE, STEP = "push the red cube to the left", "bench", 0
NO_CLIP = 1e9
"""Largest norm of a gradient: the comparison is of the whole gradient."""
COARSE = 40
"""Pixels of a spot in the pictures: finer noise would be averaged away by the patches."""


@dataclass(frozen=True)
class Outcome:
    """Mean loss of a batch, and the gradient of all trained parameters in one vector."""

    loss: float
    gradient: torch.Tensor


@dataclass(frozen=True)
class Difference:
    """Relative: of the loss, and of the gradient in the L2 norm."""

    loss: float
    gradient: float


def difference(reference: Outcome, other: Outcome) -> Difference:
    """How far `other` is from `reference`. Pure."""
    apart = (other.gradient - reference.gradient).norm() / reference.gradient.norm()
    return Difference(abs(other.loss - reference.loss) / abs(reference.loss), float(apart))


def make_episode(seed: int) -> Episode:
    """As many frames as a batch has, so that each step takes all of them."""
    rng = np.random.default_rng(seed)
    shape = (BATCH, HEIGHT // COARSE, WIDTH // COARSE, 3)
    spot = np.ones((1, COARSE, COARSE, 1), np.uint8)
    images = {camera: np.kron(rng.integers(0, 255, shape, dtype=np.uint8), spot) for camera in CAMERAS}
    path = np.cumsum(rng.normal(0, 10, (BATCH, 6)), axis=0).astype(np.float32)
    return Episode("bench", "0" * 64, TASK, path, path + 1, lambda: images)


class Variants:
    """A policy with an adapter, one batch in both tiers of the cache, and the same batch as LeRobot takes it.

    Args:
        policy: Frozen, on the device to measure; `close` gives it back as it was.
        folder: For the cache.
        seed: Of pictures, adapter and draws.
    """

    def __init__(self, policy: SmolVLAPolicy, folder: Path, seed: int) -> None:
        self._policy, self._folder = policy, folder
        self._device = next(policy.parameters()).device
        policy.config.device = self._device.type
        preprocess, _ = full_size_processors(policy.config)
        self._episode = make_episode(seed)
        caches = {
            tier: self._cache(folder / tier, tier == PREFIXES, preprocess) for tier in (FEATURES, PREFIXES)
        }
        self._samples = {
            tier: Samples([self._episode], cache, preprocess, policy.config.chunk_size, str(self._device))
            for tier, cache in caches.items()
        }
        recipe = PRESETS["attention"] | {"batch": BATCH, "draws": 1, "clip": NO_CLIP, "seed": seed}
        self._recipe = Recipe.model_validate(recipe)
        self._model = add_adapter(policy, self._recipe)
        policy.eval()
        self._named = adapter_parameters(self._model)
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self._named.items():
            if "lora_B" in name:  # PEFT starts from 0, where most gradients vanish
                parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
        self._rows = rows_of_step(BATCH, BATCH, STEP, seed_of(seed, NODE, "rows"))
        self._loops = {draws: self._loop(draws) for draws in (1, DRAWS)}
        self._optimiser = torch.optim.AdamW(self._named.values(), lr=0.0)
        self._lerobots = self._as_lerobot_takes_it(preprocess)
        torch.manual_seed(seed_of(seed, NODE, STEP))
        self._draw = tuple(part.to(self._device) for part in draw(policy, BATCH, 1))

    def stock(self) -> Outcome:
        """LeRobot's own step."""
        loss, _ = self._policy.forward(self._lerobots, noise=self._draw[0][:, 0], time=self._draw[1][:, 0])
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._named.values(), NO_CLIP)
        self._optimiser.step()
        return self._outcome(loss.item())

    def from_features(self) -> Outcome:
        """The agent's step from the first tier."""
        return self._step(FEATURES, 1)

    def from_prefixes(self) -> Outcome:
        """The agent's step from the second tier."""
        return self._step(PREFIXES, 1)

    def shared_draws(self) -> Outcome:
        """The same with several draws per frame."""
        return self._step(PREFIXES, DRAWS)

    def exact(self) -> Outcome:
        """The loss from a prefix that was never rounded."""
        images = {c: torch.from_numpy(x).to(self._device) for c, x in self._images().items()}
        batch = self._lerobots
        tokens, mask = batch["observation.language.tokens"], batch["observation.language.attention_mask"]
        prefix = encode_prefix(self._policy, embed_images(self._policy, images), tokens, mask)
        loss = flow_matching_loss(
            self._policy, prefix, batch["observation.state"], batch["action"], *self._draw
        ).mean()
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        return self._outcome(loss.item())

    def bytes_per_frame(self) -> dict[str, int]:
        """Size on disk of both tiers."""
        sizes = {
            tier: sum(path.stat().st_size for path in (self._folder / tier / tier).iterdir())
            for tier in (FEATURES, PREFIXES)
        }
        return {
            "bytes_per_frame_vision": sizes[FEATURES] // BATCH,
            "bytes_per_frame_prefix": sizes[PREFIXES] // BATCH,
        }

    def synchronise(self) -> None:
        """Wait for the GPU, if it is one."""
        if self._device.type == "cuda":
            torch.cuda.synchronize()

    def close(self) -> None:
        """Take the adapter off."""
        remove_adapter(self._model)

    def _cache(self, folder: Path, with_prefixes: bool, preprocess: Any) -> TrainingCache:
        cache = TrainingCache(folder, "0" * 64, self._policy, preprocess, budget=0)
        cache.admit(self._episode)
        split = separate([self._episode], [])
        cache.serve(split, [self._episode.digest] if with_prefixes else [])
        return cache

    def _loop(self, draws: int) -> Loop:
        recipe = self._recipe.model_copy(update={"draws": draws})
        loop = Loop(self._policy, self._model, recipe, NODE)
        loop.set_learning_rate(0.0)
        return loop

    def _step(self, tier: str, draws: int) -> Outcome:
        losses, _ = self._loops[draws].step(self._samples[tier], STEP)
        total, count = losses[TASK]
        return self._outcome(total / count)

    def _outcome(self, loss: float) -> Outcome:
        gradients = [p.grad.flatten() for p in self._named.values() if p.grad is not None]
        return Outcome(loss, torch.cat(gradients).double().cpu())

    def _images(self) -> dict[str, np.ndarray]:
        """Camera name to (B, H, W, 3) uint8, in the order in which the loop takes the frames."""
        frames = self._episode.frames()
        return {camera: np.stack(list(images))[self._rows] for camera, images in frames.items()}

    def _as_lerobot_takes_it(self, preprocess: Any) -> dict[str, torch.Tensor]:
        """The loop's batch for `SmolVLAPolicy.forward`."""
        batch = self._samples[FEATURES].batch(self._rows)
        said = preprocess({"observation.state": batch.state, "task": [TASK] * BATCH})
        pictures = {
            f"observation.images.{camera}": torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
            for camera, images in self._images().items()
        }
        language = ("observation.language.tokens", "observation.language.attention_mask")
        taken = {**pictures, **{key: said[key] for key in language}}
        taken |= {"observation.state": batch.state, "action": batch.action}
        return {key: value.to(self._device) for key, value in taken.items()}
