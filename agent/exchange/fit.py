"""Whether an adapter's tensors fit the base policy. Pure, and without torch: only shapes are looked at.

PEFT's names, from `adapter_model.safetensors`: `base_model.model.<module>.lora_A.weight` (rank, in),
`….lora_B.weight` (out, rank), and for modules trained in full `base_model.model.<module>.weight` / `.bias`.
"""

import json
import struct
from collections.abc import Mapping
from pathlib import Path

PREFIX = "base_model.model."
HEADER_LENGTH = struct.Struct("<Q")
MAX_HEADER = 100 * 2**20
"""As in the safetensors library."""

Shapes = Mapping[str, tuple[int, ...]]


def base_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of a base's tensors, read from the header of `model.safetensors` alone.

    Raises:
        OSError, ValueError: missing, or no safetensors file.
    """
    with (folder / "model.safetensors").open("rb") as file:
        (length,) = HEADER_LENGTH.unpack(file.read(HEADER_LENGTH.size).ljust(8, b"\0"))
        if not 0 < length <= MAX_HEADER:
            raise ValueError(f"a header of {length} bytes")
        header = json.loads(file.read(length))
    return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}


def misfits(adapter: Shapes, base: Shapes) -> list[str]:
    """What in `adapter` does not fit `base`, one sentence each; empty when all of it fits."""
    faults = []
    for name, shape in sorted(adapter.items()):
        wanted = _wanted(name, shape, base)
        if wanted is None:
            faults.append(f"the base has no module for {name}")
        elif wanted != shape:
            faults.append(f"{name} has shape {list(shape)}, the base needs {list(wanted)}")
    return faults or ([] if adapter else ["it has no tensors"])


def _wanted(name: str, shape: tuple[int, ...], base: Shapes) -> tuple[int, ...] | None:
    """The shape that `name` must have over `base`; the rank is free, but the same within a tensor."""
    inner = name.removeprefix(PREFIX)
    if not name.startswith(PREFIX):
        return None
    for kind in ("lora_A", "lora_B"):
        module, mark, _ = inner.partition(f".{kind}.")
        if mark:
            weight = base.get(f"{module}.weight")
            if weight is None or len(weight) != 2 or len(shape) != 2:
                return None
            return (shape[0], weight[1]) if kind == "lora_A" else (weight[0], shape[1])
    return base.get(inner)
