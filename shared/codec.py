"""The update codec: an adapter's change in half precision, compressed.

    zstd( safetensors with float16 arrays )

Half precision costs at most 2^-11 of each value (IEEE 754 binary16); values beyond its range are refused, not
clipped, since a change of 65,504 is a diverged training run.
"""

from collections.abc import Mapping

import numpy as np
import zstandard
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from shared.adapters import Tensors
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode

CODEC = "fp16-zstd"
LEVEL = 9
MAX_BYTES = 64 * 2**20


def encode(delta: Mapping[str, np.ndarray]) -> bytes:
    """Encode float32 arrays.

    Raises:
        ArmfleetError: a value is not finite or too large for half precision.
    """
    halves = {}
    for name, array in delta.items():
        with np.errstate(over="ignore"):
            half = np.ascontiguousarray(array, dtype=np.float16)
        if not np.isfinite(half).all():
            raise ArmfleetError(
                f"the change of {name} is not finite: training diverged",
                kept="the version this training started from",
                do="lower the learning rate",
                code=ExitCode.UPDATE_REFUSED,
            )
        halves[name] = half
    return zstandard.ZstdCompressor(level=LEVEL).compress(save(halves))


def decode(data: bytes, like: Mapping[str, np.ndarray]) -> Tensors:
    """Decode into float32 arrays with the names and shapes of `like`.

    Raises:
        ArmfleetError: UPDATE_REFUSED: damaged, too large, other types, names or shapes, or not finite.
    """
    try:
        # The size that a frame claims overrides `max_output_size` and is reserved at once.
        if zstandard.frame_content_size(data) > MAX_BYTES:
            raise ArmfleetError(
                f"an update's payload is larger than {MAX_BYTES} bytes", code=ExitCode.UPDATE_REFUSED
            )
        raw = zstandard.ZstdDecompressor().decompress(data, max_output_size=MAX_BYTES)
        halves = dict(deserialize(raw))
    except (zstandard.ZstdError, SafetensorError) as error:
        raise ArmfleetError(
            f"an update's payload can't be read ({error})", code=ExitCode.UPDATE_REFUSED
        ) from error
    # Checked before numpy sees anything: it does not know every type and shape that safetensors allows.
    foreign = sorted(name for name, half in halves.items() if half["dtype"] != "F16")
    if foreign:
        raise ArmfleetError(
            f"an update's tensors are not in half precision ({len(foreign)}, first: {foreign[0]})",
            code=ExitCode.UPDATE_REFUSED,
        )
    shapes = {name: tuple(half["shape"]) for name, half in halves.items()}
    wanted = {name: array.shape for name, array in like.items()}
    if shapes != wanted:
        odd = sorted(name for name in shapes.keys() | wanted.keys() if shapes.get(name) != wanted.get(name))
        raise ArmfleetError(
            f"an update's tensors do not fit its base version ({len(odd)} differ, first: {odd[0]})",
            code=ExitCode.UPDATE_REFUSED,
        )
    tensors = {
        name: np.frombuffer(half["data"], "<f2").reshape(shapes[name]).astype(np.float32)
        for name, half in halves.items()
    }
    if not all(np.isfinite(array).all() for array in tensors.values()):
        raise ArmfleetError("an update holds numbers that are not finite", code=ExitCode.UPDATE_REFUSED)
    return tensors
