"""How an update is trained: delivered by the coordinator, recorded in every version.

Presets name the modules of SmolVLA's action expert (`lm_expert`) that get LoRA weights. They are regular
expressions on full module names, since a bare suffix such as `self_attn.q_proj` also matches the frozen text
model and vision tower.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

_EXPERT = r"model\.vlm_with_expert\.lm_expert\..*\."
ATTENTION = _EXPERT + r"(q_proj|k_proj|v_proj|o_proj)"
EXPERT = _EXPERT + r"(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"

PROJECTIONS = ("action_out_proj", "state_proj")
ALL_PROJECTIONS = (*PROJECTIONS, "action_in_proj", "action_time_mlp_in", "action_time_mlp_out")


TaskText = Annotated[str, Field(pattern=r"^[\w ,.'-]+$", max_length=120)]
"""A task's sentence."""


class Recipe(BaseModel):
    """One update's training: the same recipe, base version, episodes and seed give the same update."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = Field(default=16, ge=1, le=256)
    alpha: int = Field(default=32, ge=1, le=1024)
    """LoRA scaling is alpha / rank; always explicit, PEFT's own default is 8."""
    target_modules: str = Field(default=ATTENTION, max_length=500)
    modules_to_save: tuple[str, ...] = PROJECTIONS
    """Modules trained and exchanged in full."""
    batch: int = Field(default=16, ge=1, le=1024)
    draws: int = Field(default=4, ge=1, le=64)
    """Noise and time draws per frame that share one image and text prefix."""
    steps: int = Field(default=16, ge=1, le=100_000)
    """Optimiser steps per update."""
    learning_rate: float = Field(default=2e-3, gt=0, le=1)
    weight_decay: float = Field(default=1e-4, ge=0, le=1)
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = Field(default=1.0, gt=0)
    """Largest L2 norm of the gradient."""
    seed: int = Field(default=0, ge=0)
    never_train: tuple[TaskText, ...] = Field(default=(), max_length=64)
    """Tasks that the coordinator evaluates as unseen: no demonstration of them trains, wherever it lies."""


PRESETS: dict[str, dict] = {
    "attention": {"target_modules": ATTENTION, "modules_to_save": PROJECTIONS},
    "expert": {"target_modules": EXPERT, "modules_to_save": PROJECTIONS},
    "wide": {"target_modules": EXPERT, "modules_to_save": ALL_PROJECTIONS},
}
"""`wide` is the recipe with which federated training came closest to pooled training in simulation."""
