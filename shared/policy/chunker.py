"""Observations in, action chunks out: one policy with one exchangeable adapter, batched.

    chunker = Chunker("sim/base")
    chunker.load_version(Path("adapters/3f…"))                       # or None: the base alone
    original, processed = chunker.chunk(state, {"front": image}, ["push the red cube to the left"])

Used by the policy process of an arm (batch 1) and by the coordinator's lockstep evaluation (batch 20 or so).
Not thread-safe: the caller holds a lock around `chunk` and `load_version`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.utils.constants import OBS_IMAGES, OBS_STATE
from loguru import logger
from peft import PeftModel

from shared.adapters import Tensors, read_adapter
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.normalisation import Statistics
from shared.policy.adapter import add_adapter_from_config, live_digest, remove_adapter, set_tensors
from shared.policy.base import action_spread, camera_names, load_base, load_processors
from shared.policy.checked_chunk import LARGEST_DIFFERENCE_BF16, CheckedChunk
from shared.policy.digest import base_digest
from shared.policy.initial import initial_adapter
from shared.policy.rtc import Guidance, joining
from shared.recipe import Recipe

_SHAPE_KEYS = ("r", "lora_alpha", "target_modules", "modules_to_save")


class Chunker:
    """A loaded policy.

    Args:
        base: Folder or hub id of the base policy.
        device: torch device.
        guidance: How chunks are joined, unless the live version was trained for the delay; the default is
            the one arm and evaluation share.
        seed: Start of the noise that flow matching denoises into actions: equal calls after equal seeds give
            equal chunks.
        precision: Of the frozen VLM and expert. bf16 is taken only where the base's actions stay nearly
            the same (`LARGEST_DIFFERENCE_BF16`); adapter and projections stay in float32.

    Raises:
        ArmfleetError: BASE_MISSING.
    """

    def __init__(
        self,
        base: str | Path,
        device: str = "cpu",
        guidance: Guidance | None = None,
        seed: int = 0,
        precision: Literal["fp32", "bf16"] = "fp32",
    ) -> None:
        self.base = base
        self.base_digest = base_digest(base)
        self.device = device
        self.guidance = guidance or Guidance()
        self.policy = load_base(base, device)
        self.normalisation: Statistics | None = None
        """Of the live version; None: the base's own."""
        self.delay = 0
        """The longest inference delay that the live version was trained for, in policy steps."""
        self._processors = load_processors(base, device)
        config = self.policy.config
        self.cameras = camera_names(self.policy)
        self.chunk_size: int = config.chunk_size
        self.action_dim: int = config.action_feature.shape[0]
        self._model: PeftModel | None = None
        self._shape: tuple | None = None
        self._noise = torch.Generator().manual_seed(seed)
        self._path = self._guided()
        if precision == "bf16":
            self._lower_precision(seed)

    def _guided(self) -> CheckedChunk:
        """Give the loaded policy LeRobot's guidance, and look whether the fast path knows it."""
        self.policy.config.rtc_config = RTCConfig(
            enabled=self.guidance.enabled,
            execution_horizon=self.guidance.horizon,
            max_guidance_weight=self.guidance.max_weight,
        )
        self.policy.init_rtc_processor()
        return CheckedChunk(self.policy)

    def _lower_precision(self, seed: int) -> None:
        """Go on in bf16, unless actions for a picture of noise differ too much from float32's."""
        generator = np.random.default_rng(0)
        sizes = {
            camera: self.policy.config.image_features[f"{OBS_IMAGES}.{camera}"].shape
            for camera in self.cameras
        }
        images = {
            camera: generator.integers(0, 256, (1, height, width, 3), dtype=np.uint8)
            for camera, (_, height, width) in sizes.items()
        }
        state, chunks = np.zeros((1, self.action_dim), np.float32), []
        for precision in (torch.float32, torch.bfloat16):
            self.policy.model.vlm_with_expert.to(precision)
            self._path = CheckedChunk(self.policy)
            self.reseed(seed)
            chunks.append(self.chunk(state, images, ["move"])[0])
        self.reseed(seed)
        difference, bound = float(np.abs(chunks[1] - chunks[0]).max()), LARGEST_DIFFERENCE_BF16
        if difference <= bound:
            logger.info("bf16: the actions differ from float32's by {:.2g} (normalised)", difference)
            return
        logger.warning(
            "in bf16 the actions would differ from float32's by {:.2g} (normalised), more than {:.2g}:"
            " float32 it is, which takes longer",
            difference,
            bound,
        )
        self.policy = load_base(self.base, self.device)
        self._path = self._guided()

    @property
    def spread(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Mean and standard deviation by which the live version's actions become units, (6,) each; None
        where the base has others."""
        return action_spread(self._processors[1])

    def reseed(self, seed: int) -> None:
        """Restart the noise, so that an evaluation can be repeated exactly."""
        self._noise.manual_seed(seed)

    def load_version(self, folder: Path | None) -> str | None:
        """Make the adapter in `folder` the live one, in place; None: the base alone.

        Returns:
            The digest of the live tensors, computed from the model; None for the base alone.

        Raises:
            ArmfleetError: VERSION_REFUSED (unreadable, other shapes), BASE_MISMATCH (made for another base).
                The adapter that was live stays live.
        """
        if folder is None:
            processors = self._processors_for(None)
            self._unwrap()
            self._processors, self.normalisation, self.delay = processors, None, 0
            return None
        tensors, config, manifest = read_adapter(folder)
        if manifest is not None and manifest.base_digest != self.base_digest:
            raise ArmfleetError(
                f"version {manifest.version} was made for the base {manifest.base_digest[:12]},"
                f" but {self.base_digest[:12]} is loaded",
                kept="the adapter that was running",
                do="name the coordinator's base as [policy] base",
                code=ExitCode.BASE_MISMATCH,
            )
        if manifest is None:
            return self.load_tensors(tensors, config)
        return self.load_tensors(tensors, config, manifest.normalisation, manifest.delay)

    def load_tensors(
        self,
        tensors: Tensors,
        peft_config: Mapping[str, object],
        normalisation: Statistics | None = None,
        delay: int = 0,
    ) -> str:
        """As `load_version`, from memory; `delay` is the longest that it was trained for."""
        processors = self._processors_for(normalisation)
        shape = tuple(str(peft_config.get(key)) for key in _SHAPE_KEYS)
        if self._model is None or shape != self._shape:
            self._unwrap()
            self._model = add_adapter_from_config(self.policy, peft_config)
            self._shape = shape
            self._path.renew()
        set_tensors(self._model, tensors)
        self._processors, self.normalisation, self.delay = processors, normalisation, delay
        # Without this every denoising step under RTC guidance would build a graph through the adapter.
        self.policy.requires_grad_(False)
        return live_digest(self._model, normalisation)

    def load_identity(self, recipe: Recipe) -> str:
        """Load version 0 of `recipe`."""
        return self.load_tensors(*initial_adapter(self.base, recipe))

    def merge(self) -> None:
        """Make the live adapter part of the base's weights, for good: `policy` is a plain SmolVLA then.

        This object is of no use for another version afterwards.
        """
        if self._model is not None:
            self._model.merge_and_unload()
            self._model, self._shape = None, None
            self._path.renew()

    def compare_again(self) -> None:
        """Compute the next chunk by LeRobot's path too, and go on with that one if they differ.

        The first of a base, and of each kind of adapter, is compared in any case (`CheckedChunk`).
        """
        self._path.compare_again()

    @torch.no_grad()
    def chunk(
        self,
        state: np.ndarray,
        images: Mapping[str, np.ndarray],
        tasks: Sequence[str],
        inference_delay: int = 0,
        prev_chunk: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Predict one action chunk per row.

        Args:
            state: (B, 6) joint positions in units (degrees, gripper 0..100).
            images: Camera name to (B, H, W, 3) uint8 RGB.
            tasks: B instructions.
            inference_delay: Actions at the front of the chunk that will have been executed from the previous
                chunk by the time this one arrives.
            prev_chunk: (B, T, A), T at least 1, of the previous `original`: the action that was being
                executed when the observation was taken, and those after it. None: there is none.

        Returns:
            original (B, chunk, A) float32 in the policy's normalised space, which is what a later call wants
            as `prev_chunk`; processed (B, chunk, A) float32 in units.

        Raises:
            ArmfleetError: a camera that the policy needs is not among `images`.
        """
        preprocess, postprocess = self._processors
        batch = preprocess(self._batch(state, images, tasks))
        size = (len(tasks), self.chunk_size, self.policy.config.max_action_dim)
        noise = torch.randn(size, generator=self._noise).to(self.device)
        actions = self._denoised(batch, noise, inference_delay, prev_chunk)
        # A copy: the post-processor may work in place.
        original = actions.float().cpu().numpy().copy()
        return original, postprocess(actions).float().cpu().numpy()

    def _denoised(
        self, batch: dict[str, Any], noise: torch.Tensor, delay: int, prev_chunk: np.ndarray | None
    ) -> torch.Tensor:
        """(B, chunk, A) normalised, joined to the previous chunk as the live version wants it."""
        if prev_chunk is None:
            return self._path.predict_action_chunk(batch, noise=noise)
        previous = torch.from_numpy(np.asarray(prev_chunk, np.float32)).to(self.device)
        way = joining(self.guidance, self.delay, delay)
        if way == "prefix" and delay:
            last = previous.shape[1] - 1  # held where the chunk comes later than the queue is empty
            return self._path.complete(batch, noise, previous[:, [min(k, last) for k in range(delay)]])
        # LeRobot's guidance counts from the action after the one being executed.
        rest = previous[:, 1 : 1 + self.guidance.horizon] if way == "guidance" else None
        return self._path.predict_action_chunk(
            batch, noise=noise, inference_delay=delay, prev_chunk_left_over=rest
        )

    def _batch(
        self, state: np.ndarray, images: Mapping[str, np.ndarray], tasks: Sequence[str]
    ) -> dict[str, object]:
        batch: dict[str, object] = {
            OBS_STATE: torch.from_numpy(np.asarray(state, np.float32)),
            "task": list(tasks),
        }
        for camera in self.cameras:
            if camera not in images:
                raise ArmfleetError(
                    f"the policy needs the camera '{camera}', there is only {', '.join(sorted(images))}",
                    do="name the cameras in agent.toml as the base policy does",
                    code=ExitCode.CONFIG_INVALID,
                )
            pixels = torch.from_numpy(np.ascontiguousarray(images[camera]))
            batch[f"{OBS_IMAGES}.{camera}"] = pixels.permute(0, 3, 1, 2).float() / 255
        return batch

    def _processors_for(self, normalisation: Statistics | None) -> tuple[Any, Any]:
        if normalisation == self.normalisation:
            return self._processors
        return load_processors(self.base, self.device, normalisation)

    def _unwrap(self) -> None:
        if self._model is not None:
            remove_adapter(self._model)
            self._model, self._shape = None, None
            self._path.renew()
