import json
import struct

import numpy as np
import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from shared.codec import decode, encode
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode

values = st.floats(-60_000, 60_000, width=32)


@given(arrays(np.float32, (3, 5), elements=values), arrays(np.float32, (7,), elements=values))
def test_a_decoded_value_is_off_by_at_most_half_a_unit_in_half_precision(a, b):
    delta = {"a": a, "b": b}
    back = decode(encode(delta), delta)
    for name, array in delta.items():
        assert back[name].dtype == np.float32
        # 2^-11 relative for normal numbers, 2^-25 absolute below the smallest normal one (IEEE 754).
        assert np.all(np.abs(back[name] - array) <= np.maximum(np.abs(array) * 2**-11, 2**-25))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_a_diverged_update_is_never_encoded(value):
    with pytest.raises(ArmfleetError, match="diverged"):
        encode({"a": np.array([value], np.float32)})


def test_other_names_or_shapes_are_refused():
    data = encode({"a": np.zeros((2, 3), np.float32)})
    for like in ({"b": np.zeros((2, 3))}, {"a": np.zeros((3, 2))}, {}):
        with pytest.raises(ArmfleetError, match="do not fit"):
            decode(data, like)


BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8),
    **dict.fromkeys(("BF16", "U16", "I16"), 16),
    **dict.fromkeys(("F32", "U32", "I32"), 32),
    **dict.fromkeys(("F64", "U64", "I64", "C64"), 64),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
"""Every type of the safetensors format but F16, and its bits per value."""


def payload(dtype, shape, bits):
    """An update as a node could send it that does not use `encode`."""
    size = int(np.prod(shape, dtype=np.int64)) * bits // 8
    header = json.dumps({"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}).encode()
    return zstandard.compress(struct.pack("<Q", len(header)) + header + bytes(size))


def assert_refused(data, like):
    with pytest.raises(ArmfleetError) as caught:
        decode(data, like)
    assert caught.value.code == ExitCode.UPDATE_REFUSED


@given(st.sampled_from(sorted(BITS)), st.lists(st.integers(1, 8), max_size=3))
def test_any_type_but_half_precision_is_refused(dtype, shape):
    assert_refused(payload(dtype, shape, BITS[dtype]), {"a": np.zeros(shape)})


@given(st.text(max_size=10).filter(lambda name: name != "F16"))
def test_a_type_that_nobody_knows_is_refused(dtype):
    assert_refused(payload(dtype, [2], 16), {"a": np.zeros(2)})


@given(st.lists(st.integers(0, 2**64 - 1), max_size=3))
@example([0, 2**63])
def test_a_shape_that_numpy_can_not_hold_is_refused(shape):
    header = json.dumps({"a": {"dtype": "F16", "shape": shape, "data_offsets": [0, 0]}}).encode()
    assert_refused(
        zstandard.compress(struct.pack("<Q", len(header)) + header), {"a": np.zeros(2, np.float32)}
    )


@given(st.data())
def test_one_changed_byte_is_decoded_or_refused_and_nothing_else(data):
    like = {"a": np.ones((2, 3), np.float32), "b": np.ones(4, np.float32)}
    raw = bytearray(zstandard.decompress(encode(like)))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    changed = zstandard.compress(bytes(raw))
    try:
        decoded = decode(changed, like)
    except ArmfleetError:
        assert_refused(changed, like)
    else:
        assert {name: array.shape for name, array in decoded.items()} == {"a": (2, 3), "b": (4,)}


@given(st.binary(max_size=100))
def test_noise_is_refused(data):
    assert_refused(data, {"a": np.zeros(1)})


def test_a_decompression_bomb_is_refused():
    bomb = zstandard.ZstdCompressor(level=1).compress(b"\0" * (65 * 2**20))
    with pytest.raises(ArmfleetError, match="larger than"):
        decode(bomb, {"a": np.zeros(1)})


@pytest.mark.parametrize("claimed", [2**40, 2**62])
def test_a_payload_that_claims_more_than_there_is_memory_is_refused(claimed):
    # RFC 8878: magic number, single segment with an 8-byte content size, one empty last block.
    frame = struct.pack("<IBQ", 0xFD2FB528, 0xE0, claimed) + b"\x01\0\0"
    assert_refused(frame, {"a": np.zeros(1)})
