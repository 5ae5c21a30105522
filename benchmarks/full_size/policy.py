"""SmolVLA at full size (450 M parameters) with random weights: no hub, no download.

The architecture is that of HuggingFaceTB/SmolVLM2-500M-Video-Instruct, of which SmolVLA uses the first 16
text layers; the tokenizer is made on the spot.
"""

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from transformers.initialization import no_init_weights

from sim.pretrain.vlm import write_vlm

TEXT = {
    "vocab_size": 49_280,
    "hidden_size": 960,
    "intermediate_size": 2560,
    "num_hidden_layers": 32,
    "num_attention_heads": 15,
    "num_key_value_heads": 5,
    "head_dim": 64,
}
VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 512,
    "patch_size": 16,
}
SCALE = 4
HEIGHT, WIDTH = 480, 640
STD = 0.02
"""Standard deviation of the weights, as transformers draws them."""


def full_size_policy(vlm: Path, cameras: Sequence[str], seed: int) -> SmolVLAPolicy:
    """A frozen policy in float32 on the CPU: 1.8 GB.

    Args:
        vlm: Gets the VLM's configuration and tokenizer; the policy goes on pointing there.
        cameras: Names, in the policy's order.
        seed: Of the weights.
    """
    write_vlm(vlm, TEXT, VISION, SCALE)
    images = {
        f"observation.images.{name}": PolicyFeature(FeatureType.VISUAL, (3, HEIGHT, WIDTH))
        for name in cameras
    }
    config = SmolVLAConfig(
        vlm_model_name=str(vlm),
        load_vlm_weights=False,
        device="cpu",
        push_to_hub=False,
        input_features=images | {"observation.state": PolicyFeature(FeatureType.STATE, (6,))},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (6,))},
    )
    # LeRobot prints; drawing 450 M numbers layer by layer would take a minute.
    with no_init_weights(), contextlib.redirect_stdout(io.StringIO()):
        policy = SmolVLAPolicy(config)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in policy.named_parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, STD, generator=generator)
        else:
            parameter.data.fill_(0.0 if name.endswith("bias") else 1.0)
    return policy.float().requires_grad_(False).eval()


def full_size_processors(config: SmolVLAConfig) -> tuple[Any, Any]:
    """Its pre- and post-processor, with statistics as of an arm: mean 0, standard deviation 30 units."""
    stats = {
        key: {"mean": torch.zeros(6), "std": torch.full((6,), 30.0)}
        for key in ("observation.state", "action")
    }
    return make_pre_post_processors(config, dataset_stats=stats)
