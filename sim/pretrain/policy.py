"""LeRobot's SmolVLA around the tiny VLM, its normalisation, and its folder."""

import contextlib
import io
from pathlib import Path

import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy

from sim.lockstep import CHUNK
from sim.plant import IMAGE_SIZE
from sim.pretrain.data import Samples
from sim.pretrain.vlm import TEXT_LAYERS

CAMERA_KEY = "observation.images.front"
STATE_KEY, ACTION_KEY = "observation.state", "action"
TOKENS = 12  # longest sentence with its newline
MIN_STD = 8.0
"""Floor of the standard deviations, in units: pushes reach further than touch and hover do."""

Stats = dict[str, dict[str, torch.Tensor]]


def make_policy(vlm_folder: str) -> SmolVLAPolicy:
    """A new policy with random weights, all of them trainable. `vlm_folder` is stored as given."""
    config = SmolVLAConfig(
        vlm_model_name=vlm_folder,
        load_vlm_weights=False,
        resize_imgs_with_padding=(IMAGE_SIZE, IMAGE_SIZE),
        chunk_size=CHUNK,
        n_action_steps=CHUNK // 2,
        max_state_dim=8,
        max_action_dim=8,
        num_vlm_layers=TEXT_LAYERS,
        tokenizer_max_length=TOKENS,
        num_steps=5,
        input_features={
            CAMERA_KEY: PolicyFeature(FeatureType.VISUAL, (3, IMAGE_SIZE, IMAGE_SIZE)),
            STATE_KEY: PolicyFeature(FeatureType.STATE, (6,)),
        },
        output_features={ACTION_KEY: PolicyFeature(FeatureType.ACTION, (6,))},
        device="cpu",
        train_expert_only=False,
        freeze_vision_encoder=False,
        push_to_hub=False,
    )
    with contextlib.redirect_stdout(io.StringIO()):  # LeRobot prints layer counts
        return SmolVLAPolicy(config)


def statistics(samples: Samples) -> Stats:
    """Mean and standard deviation of states and actions in units, the latter at least `MIN_STD`."""

    def of(values: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"mean": values.mean(0), "std": values.std(0).clamp_min(MIN_STD)}

    return {
        STATE_KEY: of(torch.from_numpy(samples.states)),
        ACTION_KEY: of(torch.from_numpy(samples.actions).reshape(-1, 6)),
    }


def save_policy(policy: SmolVLAPolicy, stats: Stats, folder: Path) -> None:
    """Write the folder that `SmolVLAPolicy.from_pretrained` and `make_pre_post_processors` load.

    The VLM is frozen in it: stations train adapters of the action expert only.
    """
    policy.config.train_expert_only = policy.config.freeze_vision_encoder = True
    policy.config.rtc_config = None
    before, after = make_pre_post_processors(policy.config, dataset_stats=stats)
    policy.save_pretrained(folder)
    before.save_pretrained(folder)
    after.save_pretrained(folder)
    for path in folder.glob("*.safetensors"):
        path.chmod(0o644)  # written for their owner alone; the services run as another user
