"""A base policy in memory, through LeRobot's own classes."""

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from lerobot.processor import NormalizerProcessorStep, UnnormalizerProcessorStep
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE
from loguru import logger
from safetensors import SafetensorError, safe_open
from transformers.initialization import no_init_weights

from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.normalisation import Statistics
from shared.policy.source import VLM, WEIGHTS, check_standardised, resolve_base


def load_base(base: str | Path, device: str = "cpu") -> SmolVLAPolicy:
    """Load a SmolVLA, frozen, in float32 and in evaluation mode.

    A folder and a hub id take the same path: both are resolved to a folder first. Where the folder holds
    `vlm/` (configuration and tokenizer of the VLM), no hub is needed at all.

    Raises:
        ArmfleetError: BASE_MISSING: not found, incomplete, damaged, or not a SmolVLA.
    """
    folder = resolve_base(base)
    try:
        config = PreTrainedConfig.from_pretrained(folder)
        if not isinstance(config, SmolVLAConfig):
            raise ValueError(f"its type is {config.type}, not smolvla")
        config.device = device
        config.vlm_model_name = vlm_name(folder, config.vlm_model_name)
        # The weight file holds the VLM too; a second download would be for nothing.
        config.load_vlm_weights = False
        config.train_expert_only = config.freeze_vision_encoder = True
        # The file overwrites every weight: drawing 450 M random ones would be for nothing. LeRobot prints.
        with no_init_weights(), contextlib.redirect_stdout(io.StringIO()):
            policy = SmolVLAPolicy.from_pretrained(folder, config=config)
        _refuse_missing(policy, folder)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ArmfleetError(
            f"the base policy in {folder} can't be loaded ({first})",
            do="copy the base again; a hub base also needs its VLM's configuration in the hub cache",
            code=ExitCode.BASE_MISSING,
        ) from error
    policy = policy.float().requires_grad_(False).eval()
    logger.info(
        "loaded the base {} ({:.1f} M parameters) on {}",
        folder.name,
        sum(p.numel() for p in policy.parameters()) / 1e6,
        device,
    )
    return policy


def load_processors(
    base: str | Path, device: str = "cpu", normalisation: Statistics | None = None
) -> tuple[Any, Any]:
    """LeRobot's pre- and post-processor of a base: tokenizer and normalisation.

    Training, inference, evaluation and export all get theirs here.

    Args:
        normalisation: Of the version that runs (`Manifest.normalisation`); None: the base's own.

    Raises:
        ArmfleetError: BASE_MISSING; BASE_MISMATCH for statistics, see `check_standardised`.
    """
    folder = resolve_base(base)
    try:
        config = PreTrainedConfig.from_pretrained(folder)
        tokenizer = vlm_name(folder, config.vlm_model_name)
        processors = make_pre_post_processors(
            config,
            pretrained_path=str(folder),
            preprocessor_overrides={
                "device_processor": {"device": device},
                "tokenizer_processor": {"tokenizer_name": tokenizer},
            },
        )
    except (OSError, ValueError, KeyError) as error:
        raise ArmfleetError(
            f"the processors of the base policy in {folder} can't be loaded ({error})",
            do="copy the base again",
            code=ExitCode.BASE_MISSING,
        ) from error
    if normalisation is not None:
        check_standardised(folder)
        for pipeline in processors:
            _normalise_with(pipeline, normalisation)
    return processors


def _normalise_with(pipeline: Any, normalisation: Statistics) -> None:
    """Give LeRobot's own steps other means and deviations of state and action; those of pictures stay."""
    both = {OBS_STATE: normalisation.state, ACTION: normalisation.action}
    stats = {key: {"mean": np.array(of.mean), "std": of.std} for key, of in both.items()}
    for step in pipeline.steps:
        if isinstance(step, NormalizerProcessorStep | UnnormalizerProcessorStep):
            step.stats = {**(step.stats or {}), **stats}
            step.to()  # makes its tensors from `stats` again


def action_spread(postprocessor: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean and standard deviation of the actions that a policy was trained on, (6,) float64 units each, from
    the processor that `load_processors` gave; None where a base does not have them."""
    for step in postprocessor.steps:
        stats = (step.stats or {}).get(ACTION, {}) if isinstance(step, UnnormalizerProcessorStep) else {}
        if {"mean", "std"} <= stats.keys():
            mean, std = (np.asarray(stats[name], np.float64) for name in ("mean", "std"))
            return mean, std
    return None


def camera_names(policy: SmolVLAPolicy) -> list[str]:
    """Cameras that the policy looks through, in its order, without LeRobot's black "empty cameras"."""
    names = (key.removeprefix(f"{OBS_IMAGES}.") for key in policy.config.image_features)
    return [name for name in names if not name.startswith("empty_camera_")]


def vlm_name(folder: Path, configured: str) -> str:
    """The VLM's place: the base's own `vlm` folder, absolute, else the name in its configuration."""
    own = folder / VLM
    return str(own.resolve()) if own.is_dir() else configured


def _refuse_missing(policy: torch.nn.Module, folder: Path) -> None:
    """LeRobot only logs weights that a file lacks, and would run with random numbers in their place."""
    with safe_open(folder / WEIGHTS, "pt") as file:
        present = set(file.keys())
    state = policy.state_dict()
    shared = {state[name].data_ptr() for name in present & state.keys()}
    missing = [
        name for name, tensor in state.items() if name not in present and tensor.data_ptr() not in shared
    ]
    if missing:
        raise ValueError(f"{len(missing)} weights are missing, first: {missing[0]}")
