"""The update codecs: an adapter's change in few bits, compressed.

fp16-zstd   zstd( safetensors with a float16 array per tensor )

    Half precision costs at most 2^-11 of each value (IEEE 754 binary16).

int4-zstd   zstd( safetensors with "factors" and "modules", their steps, and what tensors there are )

    LoRA's factors in 4 bits, two numbers to a byte. Modules that are trained in full in 8 bits, since the
    projections of states and actions bear coarse numbers least. A tensor is cut into blocks of BLOCK numbers
    with a step each (`shared.quantise`): a number is off by at most half of it, a 14th of the block's largest
    in a factor, a 254th in a module. What tensors there are is said by arrays without numbers, of shape
    (0, *shape); their numbers come in the order of their names.

Values beyond float16's range are refused, not clipped, since a change of 65,504 is a diverged training run.
The same change gives the same bytes.
"""

from collections.abc import Mapping

import numpy as np
import zstandard
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from shared.adapters import Tensors
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.limits import MAX_MESSAGE_BYTES
from shared.quantise import pack_nibbles, quantise, restore, unpack_nibbles
from shared.recipe import Codec

LEVEL = 9
MAX_BYTES = MAX_MESSAGE_BYTES
"""Of a payload, uncompressed."""
BLOCK = 128
"""Numbers with one step. With 32 or 64 the same number of bytes had more error (docs/training.md)."""
FACTOR, MODULE = 7, 127
"""Largest integers of 4 and of 8 bits, zero in the middle."""

Arrays = Mapping[str, np.ndarray]
Layout = dict[str, tuple[str, tuple[int, ...]]]
"""safetensors' type and shape of each array in a payload."""
DTYPES = {"F16": "<f2", "U8": "u1", "I8": "i1"}


def encode(delta: Arrays, codec: Codec) -> bytes:
    """Encode float32 arrays.

    Raises:
        ArmfleetError: UPDATE_REFUSED: a value is not finite or too large for half precision.
    """
    halves = {name: _half(name, array) for name, array in delta.items()}
    arrays = halves if codec == "fp16-zstd" else _quantised(delta)
    return zstandard.ZstdCompressor(level=LEVEL).compress(save(arrays))


def decode(data: bytes, like: Arrays, codec: str) -> Tensors:
    """Decode into float32 arrays with the names and shapes of `like`.

    Raises:
        ArmfleetError: UPDATE_REFUSED: a codec unknown here, or a payload that is damaged, too large, of other
            types, names or shapes, or not finite.
    """
    if codec == "fp16-zstd":
        halves = _read(data, {name: ("F16", array.shape) for name, array in like.items()})
        return {name: half.astype(np.float32) for name, half in halves.items()}
    if codec == "int4-zstd":
        return _restored(_read(data, _layout(like)), like)
    raise ArmfleetError(
        f"an update is encoded as {codec}, which is not known here",
        do="update the coordinator: the node's release is a later one",
        code=ExitCode.UPDATE_REFUSED,
    )


def _half(name: str, array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        half = np.ascontiguousarray(array, dtype=np.float16)
    if not np.isfinite(half).all():
        raise ArmfleetError(
            f"the change of {name} is not finite: training diverged",
            kept="the version this training started from",
            do="lower the learning rate",
            code=ExitCode.UPDATE_REFUSED,
        )
    return half


def _read(data: bytes, layout: Layout) -> Tensors:
    """The arrays of a payload that has exactly this layout, all of them finite."""
    try:
        # The size that a frame claims overrides `max_output_size` and is reserved at once.
        if zstandard.frame_content_size(data) > MAX_BYTES:
            raise ArmfleetError(
                f"an update's payload is larger than {MAX_BYTES} bytes", code=ExitCode.UPDATE_REFUSED
            )
        raw = zstandard.ZstdDecompressor().decompress(data, max_output_size=MAX_BYTES)
        parts = dict(deserialize(raw))
    except (zstandard.ZstdError, SafetensorError) as error:
        raise ArmfleetError(
            f"an update's payload can't be read ({error})", code=ExitCode.UPDATE_REFUSED
        ) from error
    # Checked before numpy sees anything: it does not know every type and shape that safetensors allows.
    found: Layout = {name: (part["dtype"], tuple(part["shape"])) for name, part in parts.items()}
    if found != layout:
        odd = sorted(name for name in found.keys() | layout.keys() if found.get(name) != layout.get(name))
        raise ArmfleetError(
            f"an update's tensors do not fit its codec and base version ({len(odd)} differ, first: {odd[0]})",
            code=ExitCode.UPDATE_REFUSED,
        )
    arrays = {
        name: np.frombuffer(parts[name]["data"], DTYPES[dtype]).reshape(shape)
        for name, (dtype, shape) in layout.items()
    }
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise ArmfleetError("an update holds numbers that are not finite", code=ExitCode.UPDATE_REFUSED)
    return arrays


# ------------------------------------------------------------------ int4-zstd


def _quantised(delta: Arrays) -> Tensors:
    """The arrays of a payload."""
    factors, modules = _groups(delta)
    factor_steps, factor_integers = quantise(_blocks(delta, factors), FACTOR)
    module_steps, module_integers = quantise(_blocks(delta, modules), MODULE)
    return {name: np.zeros((0, *array.shape), np.uint8) for name, array in delta.items()} | {
        "factor_steps": factor_steps,
        "factors": pack_nibbles(factor_integers),
        "module_steps": module_steps,
        "modules": module_integers.ravel(),
    }


def _layout(like: Arrays) -> Layout:
    """Of the payload of a change with these names and shapes."""
    factors, modules = (sum(_room(like[name]) for name in names) for names in _groups(like))
    return {name: ("U8", (0, *array.shape)) for name, array in like.items()} | {
        "factor_steps": ("F16", (factors // BLOCK,)),
        "factors": ("U8", (factors // 2,)),
        "module_steps": ("F16", (modules // BLOCK,)),
        "modules": ("I8", (modules,)),
    }


def _restored(arrays: Tensors, like: Arrays) -> Tensors:
    """The tensors of a payload."""
    factors, modules = _groups(like)
    factor_integers = unpack_nibbles(arrays["factors"]).reshape(-1, BLOCK)
    module_integers = arrays["modules"].reshape(-1, BLOCK)
    return _cut(restore(arrays["factor_steps"], factor_integers), like, factors) | _cut(
        restore(arrays["module_steps"], module_integers), like, modules
    )


def _groups(tensors: Arrays) -> tuple[list[str], list[str]]:
    """Names of LoRA's factors, as PEFT gives them, and of all other tensors, each sorted."""
    factors = [name for name in sorted(tensors) if ".lora_A." in name or ".lora_B." in name]
    return factors, sorted(tensors.keys() - set(factors))


def _room(array: np.ndarray) -> int:
    """How many numbers its blocks hold."""
    return -(-array.size // BLOCK) * BLOCK


def _blocks(tensors: Arrays, names: list[str]) -> np.ndarray:
    """Tensors one after another, each filled up with zeros: float32, (blocks, BLOCK)."""
    filled = [np.pad(tensors[name].ravel(), (0, _room(tensors[name]) - tensors[name].size)) for name in names]
    return np.concatenate([np.zeros(0, np.float32), *filled]).reshape(-1, BLOCK)


def _cut(blocks: np.ndarray, like: Arrays, names: list[str]) -> Tensors:
    """Inverse of `_blocks`."""
    tensors, flat, start = {}, blocks.ravel(), 0
    for name in names:
        array = like[name]
        tensors[name] = flat[start : start + array.size].reshape(array.shape)
        start += _room(array)
    return tensors
