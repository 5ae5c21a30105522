"""LoRA over a base policy through PEFT, and its tensors in and out of the live model."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import ModulesToSaveWrapper

from shared import adapters
from shared.adapters import Tensors
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.normalisation import Statistics
from shared.policy.initial import peft_config, refuse_frozen
from shared.recipe import Recipe

ADAPTER = "default"
"""PEFT's name of the one adapter in a model; it appears in live parameter names but not in files."""


def add_adapter(policy: SmolVLAPolicy, recipe: Recipe) -> PeftModel:
    """Wrap `policy`, in place, with the recipe's LoRA layers and trainable copies of its modules to save.

    The new layers hold PEFT's random start: call `set_tensors` next.

    Raises:
        ArmfleetError: BASE_MISMATCH: the recipe trains modules that are frozen; nothing was changed.
    """
    refuse_frozen((name for name, _ in policy.named_modules()), recipe)
    return add_adapter_from_config(policy, peft_config("base", recipe))


def add_adapter_from_config(policy: SmolVLAPolicy, config: Mapping[str, Any]) -> PeftModel:
    """As `add_adapter`, from the contents of an `adapter_config.json`."""
    lora = LoraConfig(
        r=config["r"],
        lora_alpha=config["lora_alpha"],
        lora_dropout=config.get("lora_dropout", 0.0),
        target_modules=config["target_modules"],
        modules_to_save=config.get("modules_to_save"),
        bias=config.get("bias", "none"),
    )
    return get_peft_model(policy, lora)


def remove_adapter(model: PeftModel) -> None:
    """Put the base's own layers back into the policy that `add_adapter` wrapped.

    PEFT's `unload` alone leaves the *trained* copies of the modules to save in place.
    """
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            module.modules_to_save[ADAPTER].load_state_dict(module.original_module.state_dict())
    model.unload()


def adapter_parameters(model: PeftModel) -> dict[str, torch.nn.Parameter]:
    """The live adapter parameters under the names that `save_pretrained` would write, sorted by name."""
    found = {}
    for name, parameter in model.named_parameters():
        if f".lora_A.{ADAPTER}." in name or f".lora_B.{ADAPTER}." in name:
            found[name.replace(f".{ADAPTER}.", ".")] = parameter
        elif f".modules_to_save.{ADAPTER}." in name:
            found[name.replace(f".modules_to_save.{ADAPTER}.", ".")] = parameter
    return dict(sorted(found.items()))


def get_tensors(model: PeftModel) -> Tensors:
    """Copies of the live adapter tensors, float32."""
    return {name: p.detach().cpu().float().numpy().copy() for name, p in adapter_parameters(model).items()}


def set_tensors(model: PeftModel, tensors: Mapping[str, np.ndarray]) -> None:
    """Copy `tensors` into the live parameters, in place: the module tree stays as it is.

    Raises:
        ArmfleetError: VERSION_REFUSED: other names or shapes; nothing was changed.
    """
    live = adapter_parameters(model)
    wanted = {name: tuple(p.shape) for name, p in live.items()}
    given = {name: tuple(array.shape) for name, array in tensors.items()}
    if wanted != given:
        odd = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
        raise ArmfleetError(
            f"the adapter does not fit the loaded policy ({len(odd)} tensors differ, first: {odd[0]})",
            kept="the adapter that was running",
            code=ExitCode.VERSION_REFUSED,
        )
    with torch.no_grad():
        for name, parameter in live.items():
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(tensors[name], dtype=np.float32)))


def live_digest(model: PeftModel, normalisation: Statistics | None = None) -> str:
    """`shared.adapters.digest` of the tensors that the model computes with now, and of its statistics."""
    return adapters.digest(get_tensors(model), normalisation)
