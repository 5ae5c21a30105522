"""Numbers in few bits: those of a block share a step, and zero stays zero.

    step = the smallest float16 that is not below m / L, m being the block's largest magnitude
    integer = round(x / step), in -L..L                              x is restored as integer * step

A restored number is off by at most half a step (and L * 2^-24 of one, for rounding in float32). A step is at
most m / L * (1 + 2^-10), or m / L + 2^-24 where float16 has no finer numbers (IEEE 754 binary16).
"""

import numpy as np


def quantise(blocks: np.ndarray, largest: int) -> tuple[np.ndarray, np.ndarray]:
    """Steps, float16, (blocks,), and integers, int8, as `blocks`.

    Args:
        blocks: float32, (blocks, numbers in each), finite and at most 65,504 in magnitude.
        largest: L, at most 127.
    """
    exact = np.abs(blocks).max(axis=1) / np.float32(largest)
    near = exact.astype(np.float16)
    steps = np.where(near < exact, np.nextafter(near, np.float16(np.inf)), near)
    divisors = np.where(steps > 0, steps, 1).astype(np.float32)  # a block of zeros has no step
    return steps, np.rint(blocks / divisors[:, None]).astype(np.int8)


def restore(steps: np.ndarray, integers: np.ndarray) -> np.ndarray:
    """float32, as `integers`: what `quantise` was given, up to half a step."""
    return integers * steps.astype(np.float32)[:, None]


def pack_nibbles(integers: np.ndarray) -> np.ndarray:
    """Integers in -8..7, an even number of them, two to a byte, the first in its low half: uint8, flat."""
    nibbles = integers.ravel().view(np.uint8) & 15
    return nibbles[0::2] | nibbles[1::2] << 4


def unpack_nibbles(packed: np.ndarray) -> np.ndarray:
    """Inverse of `pack_nibbles`: int8, flat."""
    in_high_half = np.stack([packed << 4, packed & 0xF0], axis=-1).view(np.int8)
    return in_high_half.ravel() >> 4  # arithmetic, so that the sign comes along
