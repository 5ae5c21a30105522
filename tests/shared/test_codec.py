import json
import struct
from typing import get_args

import numpy as np
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import load, save

from shared.codec import BLOCK, decode, encode
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.recipe import Codec

CODECS = get_args(Codec)
A, B, MODULE = "m.lora_A.weight", "m.lora_B.weight", "head.weight"
LIKE = {A: np.ones((2, 3), np.float32), MODULE: np.ones(4, np.float32)}

values = st.floats(-60_000, 60_000, width=32)
each_codec = pytest.mark.parametrize("codec", CODECS)


@given(arrays(np.float32, (3, 5), elements=values), arrays(np.float32, (7,), elements=values))
def test_a_decoded_value_is_off_by_at_most_half_a_unit_in_half_precision(a, b):
    delta = {"a": a, "b": b}
    back = decode(encode(delta, "fp16-zstd"), delta, "fp16-zstd")
    for name, array in delta.items():
        assert back[name].dtype == np.float32
        # 2^-11 relative for normal numbers, 2^-25 absolute below the smallest normal one (IEEE 754).
        assert np.all(np.abs(back[name] - array) <= np.maximum(np.abs(array) * 2**-11, 2**-25))


def test_half_precision_is_written_as_ever():
    """Updates of earlier releases lie in outboxes and registries."""
    payload = zstandard.decompress(encode(LIKE, "fp16-zstd"))
    assert payload == save({name: array.astype(np.float16) for name, array in LIKE.items()})


@given(st.data(), st.sampled_from([2**15, 2**-7, 2**-20]))
@settings(max_examples=50, deadline=None)
def test_a_number_in_few_bits_is_off_by_at_most_half_its_blocks_step(data, size):
    elements = st.floats(-size, size, width=32)
    shapes = {A: (3, 50), B: (131, 2), MODULE: (130,), "head.bias": ()}
    delta = {name: data.draw(arrays(np.float32, shape, elements=elements)) for name, shape in shapes.items()}
    back = decode(encode(delta, "int4-zstd"), delta, "int4-zstd")
    assert {name: array.shape for name, array in back.items()} == shapes
    for name, array in delta.items():
        largest = 7 if name in (A, B) else 127
        was, now = array.ravel().astype(float), back[name].ravel().astype(float)
        assert np.all(now[was == 0] == 0)
        for start in range(0, was.size, BLOCK):
            mine = slice(start, start + BLOCK)
            step = np.abs(was[mine]).max() / largest
            rounded_up = max(step * (1 + 2**-10), step + 2**-24)
            assert np.abs(was - now)[mine].max() <= rounded_up / 2 * (1 + 1e-4)


def adapter(rng):
    """A change of LoRA's factors in four modules of the full-size expert, and of a projection."""
    shapes = {f"{number}.lora_A.weight": (16, 720) for number in range(4)}
    shapes |= {f"{number}.lora_B.weight": (960, 16) for number in range(4)} | {"out.weight": (32, 120)}
    return {name: (0.003 * rng.normal(size=shape)).astype(np.float32) for name, shape in shapes.items()}


def test_four_bits_take_less_than_0_3_of_the_bytes_of_half_precision():
    delta = adapter(np.random.default_rng(0))
    sizes = {codec: len(encode(delta, codec)) for codec in CODECS}
    assert sizes["int4-zstd"] < 0.3 * sizes["fp16-zstd"]


@each_codec
def test_the_same_change_gives_the_same_bytes_whatever_the_order_of_its_tensors(codec):
    delta = adapter(np.random.default_rng(0))
    assert encode(dict(reversed(delta.items())), codec) == encode(delta, codec)


@each_codec
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_a_diverged_update_is_never_encoded(value, codec):
    with pytest.raises(ArmfleetError, match="diverged"):
        encode({"a": np.array([value], np.float32)}, codec)


@each_codec
@pytest.mark.parametrize("name", [A, MODULE])
def test_other_names_or_shapes_are_refused(name, codec):
    data = encode({name: np.zeros((2, 3), np.float32)}, codec)
    for like in ({B: np.zeros((2, 3))}, {name: np.zeros((3, 2))}, {}):
        with pytest.raises(ArmfleetError, match="do not fit"):
            decode(data, like, codec)


@each_codec
def test_one_codec_does_not_read_the_others_payloads(codec):
    for other in set(CODECS) - {codec}:
        assert_refused(encode(LIKE, other), LIKE, codec)


@given(st.text(max_size=20).filter(lambda codec: codec not in CODECS))
def test_a_codec_that_nobody_knows_is_refused(codec):
    assert_refused(encode(LIKE, "fp16-zstd"), LIKE, codec)


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


def assert_refused(data, like, codec):
    with pytest.raises(ArmfleetError) as caught:
        decode(data, like, codec)
    assert caught.value.code == ExitCode.UPDATE_REFUSED


@each_codec
@given(dtype=st.sampled_from(sorted(BITS)), shape=st.lists(st.integers(1, 8), max_size=3))
def test_any_type_but_half_precision_is_refused(codec, dtype, shape):
    assert_refused(payload(dtype, shape, BITS[dtype]), {"a": np.zeros(shape)}, codec)


@each_codec
@given(dtype=st.text(max_size=10).filter(lambda name: name != "F16"))
def test_a_type_that_nobody_knows_is_refused(codec, dtype):
    assert_refused(payload(dtype, [2], 16), {"a": np.zeros(2)}, codec)


@each_codec
@given(shape=st.lists(st.integers(0, 2**64 - 1), max_size=3))
@example(shape=[0, 2**63])
def test_a_shape_that_numpy_can_not_hold_is_refused(codec, shape):
    header = json.dumps({"a": {"dtype": "F16", "shape": shape, "data_offsets": [0, 0]}}).encode()
    data = zstandard.compress(struct.pack("<Q", len(header)) + header)
    assert_refused(data, {"a": np.zeros(2, np.float32)}, codec)


@pytest.mark.parametrize("array", ["factor_steps", "factors", "module_steps", "modules"])
def test_each_array_of_few_bits_has_its_type_and_shape(array):
    parts = load(zstandard.decompress(encode(LIKE, "int4-zstd")))
    for wrong in (parts[array].astype(np.float32), parts[array][:-1], parts[array][None], None):
        changed = {name: part for name, part in (parts | {array: wrong}).items() if part is not None}
        assert_refused(zstandard.compress(save(changed)), LIKE, "int4-zstd")


@pytest.mark.parametrize("step", [np.nan, np.inf])
@pytest.mark.parametrize("array", ["factor_steps", "module_steps"])
def test_a_step_that_is_not_finite_is_refused(array, step):
    parts = load(zstandard.decompress(encode(LIKE, "int4-zstd")))
    data = zstandard.compress(save(parts | {array: np.full_like(parts[array], step)}))
    with pytest.raises(ArmfleetError, match="not finite"):
        decode(data, LIKE, "int4-zstd")


@each_codec
@given(data=st.data())
def test_one_changed_byte_is_decoded_or_refused_and_nothing_else(codec, data):
    raw = bytearray(zstandard.decompress(encode(LIKE, codec)))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    changed = zstandard.compress(bytes(raw))
    try:
        decoded = decode(changed, LIKE, codec)
    except ArmfleetError:
        assert_refused(changed, LIKE, codec)
    else:
        assert {name: array.shape for name, array in decoded.items()} == {A: (2, 3), MODULE: (4,)}
        assert all(np.isfinite(array).all() for array in decoded.values())


@each_codec
@given(data=st.binary(max_size=100))
def test_noise_is_refused(codec, data):
    assert_refused(data, {"a": np.zeros(1)}, codec)


@each_codec
def test_a_decompression_bomb_is_refused(codec):
    bomb = zstandard.ZstdCompressor(level=1).compress(b"\0" * (65 * 2**20))
    with pytest.raises(ArmfleetError, match="larger than"):
        decode(bomb, {"a": np.zeros(1)}, codec)


@each_codec
@pytest.mark.parametrize("claimed", [2**40, 2**62])
def test_a_payload_that_claims_more_than_there_is_memory_is_refused(codec, claimed):
    # RFC 8878: magic number, single segment with an 8-byte content size, one empty last block.
    frame = struct.pack("<IBQ", 0xFD2FB528, 0xE0, claimed) + b"\x01\0\0"
    assert_refused(frame, {"a": np.zeros(1)}, codec)
