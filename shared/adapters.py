"""Adapters: ordinary PEFT folders plus a manifest, their digest, and their one-file form.

A folder holds `adapter_config.json` and `adapter_model.safetensors`, which stock PEFT and LeRobot load, and
`manifest.json`, which says what it is. In code an adapter is `dict[str, np.ndarray]`, float32, keyed by the
names in `adapter_model.safetensors`.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save

from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.files import write_atomic
from shared.limits import MAX_MESSAGE_BYTES, MAX_NUMBERS
from shared.normalisation import Statistics
from shared.recipe import Recipe

CONFIG, WEIGHTS, MANIFEST = "adapter_config.json", "adapter_model.safetensors", "manifest.json"
PACKED = "adapter"
"""Key of a packed adapter's metadata. The only one: safetensors writes several in an order that varies."""
Tensors = dict[str, np.ndarray]


class Contribution(BaseModel):
    """One update's part in a version."""

    model_config = ConfigDict(extra="forbid")

    update_id: str
    node: str
    weight: float
    """Share of the weighted mean, in [0, 1]."""
    staleness: int
    """Versions between the update's base version and this version's parent."""


class Manifest(BaseModel):
    """What an adapter folder is: without it, a folder is never loaded as a version."""

    model_config = ConfigDict(extra="forbid")

    version: int
    parent: int | None
    base_digest: str
    tensors_digest: str
    """`digest` of the tensors and of `normalisation`."""
    recipe: Recipe
    normalisation: Statistics | None = Field(default=None, exclude_if=lambda given: given is None)
    """What states and actions are normalised with; None: the base's own statistics. Left out then, so that
    manifests of earlier versions, signed as a whole, keep their bytes."""
    contributions: list[Contribution] = []
    """The updates that the version was made of, each part of this one version only."""
    remembered: list[Contribution] = Field(default=[], exclude_if=lambda given: not given)
    """Updates of earlier versions that this one counted once more, for stations that were absent."""
    metrics: dict[str, float] = {}
    created: str
    """ISO 8601, UTC."""

    @property
    def delay(self) -> int:
        """The longest inference delay that the version was trained for, in policy steps. The first version of
        a recipe was not trained at all."""
        return self.recipe.delay if self.contributions else 0


def digest(tensors: Mapping[str, np.ndarray], normalisation: Statistics | None = None) -> str:
    """SHA-256 over names, shapes, dtypes and little-endian bytes, in the order of the names; and over the
    statistics, where they are not the base's own: the same tensors act differently with others."""
    state = hashlib.sha256()
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        state.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        state.update(array.tobytes())
    if normalisation is not None:
        state.update(f"normalisation|{normalisation.digest}".encode())
    return state.hexdigest()


def check_size(tensors: Mapping[str, np.ndarray], rank: int) -> None:
    """Do messages have room for this adapter and its updates (`shared.limits`)?

    Args:
        tensors: Of any version.
        rank: Of LoRA's factors.

    Raises:
        ArmfleetError: CONFIG_INVALID: they don't; with the rank that would fit.
    """
    numbers = sum(array.size for array in tensors.values())
    if numbers <= MAX_NUMBERS:
        return
    per_rank = sum(array.size for name, array in tensors.items() if ".lora_" in name) // rank
    fits = (MAX_NUMBERS - numbers + per_rank * rank) // per_rank if per_rank else 0
    smaller = f"set [recipe] rank to {fits} or less, or" if fits > 0 else "in [recipe]"
    raise ArmfleetError(
        f"the adapter of rank {rank} has {numbers / 1e6:.1f} million numbers: a check-in with two versions "
        f"of it would have {numbers * 8 / 1e6:.0f} MB, at most {MAX_MESSAGE_BYTES / 1e6:.0f} MB are sent",
        kept="everything as it is",
        do=f"{smaller} name fewer modules (preset `attention`); the codec makes only updates smaller",
        code=ExitCode.CONFIG_INVALID,
    )


def write_adapter(
    folder: Path, tensors: Mapping[str, np.ndarray], peft_config: Mapping[str, Any], manifest: Manifest | None
) -> None:
    """Write an adapter into an existing folder (use `durable_folder` where it must be whole or absent)."""
    arrays = {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in tensors.items()}
    write_atomic(folder / WEIGHTS, save(arrays, metadata={"format": "pt"}))
    write_atomic(folder / CONFIG, json.dumps(peft_config, indent=1, sort_keys=True) + "\n")
    if manifest is not None:
        write_atomic(folder / MANIFEST, manifest.model_dump_json(indent=1) + "\n")


def read_adapter(folder: Path) -> tuple[Tensors, dict[str, Any], Manifest | None]:
    """Read what `write_adapter` wrote.

    Raises:
        ArmfleetError: VERSION_REFUSED: files missing or damaged, or tensors other than the manifest's.
    """
    try:
        tensors = load_file(folder / WEIGHTS)
        config = json.loads((folder / CONFIG).read_text())
        path = folder / MANIFEST
        manifest = Manifest.model_validate_json(path.read_text()) if path.exists() else None
    except (OSError, SafetensorError, ValueError, ValidationError) as error:
        raise ArmfleetError(
            f"the adapter in {folder} can't be read ({error})",
            do="remove the folder: it is fetched again at the next check-in",
            code=ExitCode.VERSION_REFUSED,
        ) from error
    if manifest is not None and digest(tensors, manifest.normalisation) != manifest.tensors_digest:
        raise ArmfleetError(
            f"the tensors or statistics in {folder} are not those its manifest names",
            do="remove the folder: it is fetched again at the next check-in",
            code=ExitCode.VERSION_REFUSED,
        )
    return tensors, config, manifest


def pack_adapter(folder: Path) -> bytes:
    """One safetensors file with the two JSON files in its metadata: the form that is signed and sent. The
    same folder gives the same bytes."""
    tensors, config, manifest = read_adapter(folder)
    about: dict[str, Any] = {CONFIG: config}
    if manifest is not None:
        about[MANIFEST] = manifest.model_dump(mode="json")
    return save(tensors, metadata={PACKED: json.dumps(about, sort_keys=True)})


def unpack_adapter(file: Path, folder: Path) -> Manifest | None:
    """Write the packed adapter in `file` as a PEFT folder into the existing `folder`.

    Raises:
        ArmfleetError: VERSION_REFUSED, not a packed adapter.
    """
    try:
        with safe_open(file, "np") as source:
            about = json.loads((source.metadata() or {})[PACKED])
        tensors = load_file(file)
        config = about[CONFIG]
        manifest = Manifest.model_validate(about[MANIFEST]) if MANIFEST in about else None
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, ValidationError) as error:
        raise ArmfleetError(
            f"{file.name} is no packed adapter ({error})", code=ExitCode.VERSION_REFUSED
        ) from error
    write_adapter(folder, tensors, config, manifest)
    return manifest
