"""Version 0: the adapter that changes nothing, made from a base's weight file alone. Free of torch.

LoRA's B is zero, so that B·A is zero; modules that are trained in full start as the base's own copy
(Hu et al., LoRA, arXiv 2106.09685, section 4.1).
"""

import hashlib
import json
import re
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from shared.adapters import Tensors
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.module_patterns import alternatives
from shared.policy.source import WEIGHTS, resolve_base
from shared.recipe import Recipe

PEFT_PREFIX = "base_model.model."
"""What PEFT puts before a policy's own parameter names in `adapter_model.safetensors`."""

FROZEN = "model.vlm_with_expert.vlm."
"""What the full names of all modules of vision tower, connector and text model begin with."""

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def peft_config(base: str | Path, recipe: Recipe) -> dict[str, Any]:
    """Contents of `adapter_config.json` for `recipe`.

    `base_model_name_or_path` holds a hub id or a relative folder as given, and of an absolute folder only the
    name: an adapter must not carry somebody's local path.
    """
    name = Path(base).name if Path(base).is_absolute() else str(base)
    return {
        "peft_type": "LORA",
        "task_type": None,
        "auto_mapping": None,
        "base_model_name_or_path": name,
        "bias": "none",
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": recipe.alpha,
        "lora_dropout": 0.0,
        "modules_to_save": list(recipe.modules_to_save) or None,
        "r": recipe.rank,
        "target_modules": recipe.target_modules,
    }


def initial_adapter(base: str | Path, recipe: Recipe) -> tuple[Tensors, dict[str, Any]]:
    """The identity adapter of `recipe` over `base`, and its `adapter_config.json`.

    A is uniform in ±1/sqrt(inputs), as `nn.Linear` and PEFT initialise it (kaiming_uniform_ with a = sqrt 5),
    drawn by numpy's PCG64 from the recipe's seed and the tensor's name: the same on every machine, whatever
    the version of torch.

    Raises:
        ArmfleetError: BASE_MISSING; BASE_MISMATCH when the recipe's modules are not in this base, or are
            frozen.
    """
    tensors: Tensors = {}
    target = re.compile(recipe.target_modules)
    unused = {part: re.compile(part, target.flags) for part in alternatives(recipe.target_modules)}
    saved_seen: set[str] = set()
    entries = list(_entries(resolve_base(base) / WEIGHTS))
    refuse_frozen((name.rpartition(".")[0] for name, _, _ in entries), recipe)
    for name, shape, read in entries:
        module, _, kind = name.rpartition(".")
        if target.fullmatch(module) and kind == "weight" and len(shape) == 2:
            unused = {part: fits for part, fits in unused.items() if not fits.fullmatch(module)}
            outputs, inputs = shape
            a_name = f"{PEFT_PREFIX}{module}.lora_A.weight"
            bound = 1 / np.sqrt(inputs)
            tensors[a_name] = _uniform(recipe.seed, a_name, (recipe.rank, inputs), bound)
            tensors[f"{PEFT_PREFIX}{module}.lora_B.weight"] = np.zeros((outputs, recipe.rank), np.float32)
        for saved in recipe.modules_to_save:
            if _is(module, saved):
                tensors[f"{PEFT_PREFIX}{name}"] = read()
                saved_seen.add(saved)
    missing = sorted(set(recipe.modules_to_save) - saved_seen)
    if missing or unused:
        raise ArmfleetError(
            f"the recipe does not fit the base policy {base}: "
            + (f"it has no {', '.join(missing)}" if missing else f"nothing matches {' nor '.join(unused)}"),
            do="choose a recipe preset that fits the base, or mend its lists of modules",
            code=ExitCode.BASE_MISMATCH,
        )
    return tensors, peft_config(base, recipe)


def refuse_frozen(modules: Iterable[str], recipe: Recipe) -> None:
    """Make sure that `recipe` trains none of `modules` of the frozen half: what that computes is kept on disk
    from step to step and from update to update, so nothing in it can learn.

    Args:
        modules: Full names of a base's modules.

    Raises:
        ArmfleetError: BASE_MISMATCH; names the first one.
    """
    target = re.compile(recipe.target_modules)
    for module in filter(lambda name: name.startswith(FROZEN), modules):
        if target.fullmatch(module):
            asked = "target_modules"
            do = r"begin each expression with 'model\.vlm_with_expert\.lm_expert\.', the action expert"
        elif any(_is(module, saved) for saved in recipe.modules_to_save):
            asked, do = "modules_to_save", "write the full names of the modules that are meant"
        else:
            continue
        raise ArmfleetError(
            f"[recipe] {asked} reaches into the frozen vision tower or text model, first with {module}",
            do=f"change {asked} in coordinator.toml: {do}",
            code=ExitCode.BASE_MISMATCH,
        )


def _is(module: str, saved: str) -> bool:
    """Whether a name in `modules_to_save` means this module."""
    return module == saved or module.endswith("." + saved)


def _uniform(seed: int, name: str, shape: tuple[int, int], bound: float) -> np.ndarray:
    key = int.from_bytes(hashlib.sha256(f"{seed}|{name}".encode()).digest()[:16], "little")
    values = np.random.Generator(np.random.PCG64(key)).uniform(-bound, bound, shape)
    return values.astype(np.float32)


def _entries(path: Path) -> Iterator[tuple[str, tuple[int, ...], Any]]:
    """(name, shape, reader of a float32 copy) of each floating-point tensor in a safetensors file.

    Read directly (u64 header length, JSON, data) since numpy has no bfloat16, in which hub bases are stored.
    """
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    for name in sorted(header):
        entry = header[name]
        if entry["dtype"] in _DTYPES:
            shape = tuple(entry["shape"])
            begin, end = (8 + size + offset for offset in entry["data_offsets"])
            yield (
                name,
                shape,
                lambda e=entry["dtype"], s=shape, b=begin, n=end - begin: _read(path, e, s, b, n),
            )


def _read(path: Path, dtype: str, shape: tuple[int, ...], begin: int, length: int) -> np.ndarray:
    with path.open("rb") as file:
        file.seek(begin)
        raw = np.frombuffer(file.read(length), _DTYPES[dtype]).reshape(shape)
    if dtype == "BF16":
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32)
