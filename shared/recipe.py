"""How an update is trained: delivered by the coordinator, recorded in every version.

Presets name the modules of SmolVLA's action expert (`lm_expert`) that get LoRA weights. They are regular
expressions on full module names, since a bare suffix such as `self_attn.q_proj` also matches the frozen text
model and vision tower.
"""

import hashlib
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
)

from shared.module_patterns import alternatives, compiled
from shared.tasks import TaskText

_EXPERT = r"model\.vlm_with_expert\.lm_expert\..*\."
ATTENTION = _EXPERT + r"(q_proj|k_proj|v_proj|o_proj)"
EXPERT = _EXPERT + r"(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"

PROJECTIONS = ("action_out_proj", "state_proj")
ALL_PROJECTIONS = (*PROJECTIONS, "action_in_proj", "action_time_mlp_in", "action_time_mlp_out")


Codec = Literal["fp16-zstd", "int4-zstd"]

Beta = Annotated[float, Field(ge=0, lt=1)]


class Recipe(BaseModel):
    """One update's training: the same recipe, base version, episodes and seed give the same update."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = Field(default=16, ge=1, le=256)
    alpha: int = Field(default=32, ge=1, le=1024)
    """LoRA scaling is alpha / rank; always explicit, PEFT's own default is 8."""
    target_modules: str = Field(default=ATTENTION, max_length=500)
    """One regular expression; a list in coordinator.toml becomes one (`shared.module_patterns`)."""
    modules_to_save: tuple[str, ...] = PROJECTIONS
    """Modules trained and exchanged in full."""
    batch: int = Field(default=16, ge=1, le=1024)
    draws: int = Field(default=4, ge=1, le=64)
    """Noise and time draws per frame that share one image and text prefix."""
    steps: int = Field(default=16, ge=1, le=100_000)
    """Optimiser steps per update."""
    learning_rate: float = Field(default=2e-3, gt=0, le=1)
    """The highest of the schedule."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Of the learning rate, over the rounds of the federation (`coordinator.exchange.schedule`)."""
    optimiser: Literal["adamw", "sgd"] = "adamw"
    """`sgd`: with momentum betas[0], without Nesterov's; its learning rates are others than AdamW's."""
    weight_decay: float = Field(default=1e-4, ge=0, le=1)
    """Each step shrinks the weights by learning_rate * weight_decay, apart from the gradient, with either."""
    betas: tuple[Beta, Beta] = (0.9, 0.99)
    """How fast AdamW's moments forget. Between two steps of a station lie those of all others, so the first
    should be lower where updates are short and their sum is added: "asynchrony begets momentum" (Mitliagkas
    et al., arXiv 1605.09774; measured in docs/learning)."""
    clip: float = Field(default=1.0, gt=0)
    """Largest L2 norm of the gradient."""
    mu: float = Field(default=0.0, ge=0, le=1000)
    """Weight of FedProx's proximal term, mu / 2 * |w - w_start|^2 over the adapter's tensors (Li et al.,
    arXiv 1812.06127, eq. 2): holds stations together whose data differ. 0: plain training."""
    mask_padding: bool = False
    """Leave the actions of a chunk that lie past the episode's end out of the loss, as LeRobot's own training
    does by default (`action_is_pad`). Otherwise the policy learns to hold still after the end, as the
    repeated last action shows it (`shared.policy.rtc.target_indices`)."""
    delay: int = Field(default=0, ge=0, le=255)
    """The longest inference delay, in policy steps, that training prepares for: of each draw the first d
    actions of the chunk are given clean and don't count in the loss, d uniform in 0..delay (arXiv
    2512.05964). Below the base's chunk. Versions with it are run with prefix conditioning
    (`shared.policy.rtc.joining`). 0: plain training."""
    augmentations: int = Field(default=0, ge=0, le=16)
    """How often each picture is there once more, altered by LeRobot's image transforms (brightness, hue,
    sharpness, a small shift and others): drawn once, into the cache, which takes so many times more disk and
    time to build (docs/training.md). A step takes no longer. 0: pictures as recorded."""
    keep_optimiser: bool = True
    """The optimiser's moments go on from a node's last update. Otherwise each update begins without."""
    codec: Codec = "fp16-zstd"
    """What updates are sent in (`shared.codec`). What the 4-bit one leaves out goes with a node's next update
    (`agent.training.feedback`)."""
    seed: int = Field(default=0, ge=0)
    never_train: tuple[TaskText, ...] = Field(default=(), max_length=64)
    """Tasks that the coordinator evaluates as unseen: no demonstration of them trains, wherever it lies."""

    @field_validator("target_modules")
    @classmethod
    def _an_expression(cls, pattern: str) -> str:
        for part in (pattern, *alternatives(pattern)):
            compiled(part)
        return pattern

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that tell recipes apart: of SHA-256, over the JSON that is sent."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]

    @model_serializer(mode="wrap")
    def _leave_out_what_is_not_used(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Manifests of earlier versions, signed as a whole, keep their bytes, and agents of an earlier
        release understand a recipe that asks nothing new of them."""
        written: dict[str, Any] = write(self)
        unused = {name for name in LATER if written[name] == type(self).model_fields[name].default}
        return {name: value for name, value in written.items() if name not in unused}


LATER = ("schedule", "optimiser", "mu", "mask_padding", "delay", "augmentations", "keep_optimiser", "codec")
"""Fields that came after the first versions were signed: written only where they are not the default."""

PRESETS: dict[str, dict] = {
    "attention": {"target_modules": ATTENTION, "modules_to_save": PROJECTIONS},
    "expert": {"target_modules": EXPERT, "modules_to_save": PROJECTIONS},
    "wide": {"target_modules": EXPERT, "modules_to_save": ALL_PROJECTIONS},
}
"""`wide` is the recipe with which federated training came closest to pooled training in simulation."""
