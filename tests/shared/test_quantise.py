import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from shared.quantise import pack_nibbles, quantise, restore, unpack_nibbles

values = st.floats(-65_504, 65_504, width=32) | st.floats(-(2**-10), 2**-10, width=32)


@given(
    arrays(np.float32, st.tuples(st.integers(0, 4), st.integers(1, 9)), elements=values),
    st.sampled_from([7, 127]),
)
@example(np.float32([[3e-7, 1e-8, 6e-8, 0]]), 7)
@example(np.float32([[65_504, -65_504], [0, 0]]), 7)
def test_a_restored_number_is_off_by_at_most_half_a_step(blocks, largest):
    steps, integers = quantise(blocks, largest)
    assert (steps.dtype, integers.dtype) == (np.float16, np.int8)
    assert np.abs(integers).max(initial=0) <= largest
    back = restore(steps, integers)
    assert (back.dtype, back.shape) == (np.float32, blocks.shape)
    assert np.all(back[blocks == 0] == 0)
    wide = steps.astype(float)[:, None]
    assert np.all(np.abs(blocks.astype(float) - back) <= wide * (0.5 + largest * 2**-24))
    exact = np.abs(blocks.astype(float)).max(axis=1) / largest
    assert np.all(steps <= np.maximum(exact * (1 + 2**-10), exact + 2**-24) * (1 + 2**-23))


@given(arrays(np.int8, st.integers(0, 20).map(lambda half: 2 * half), elements=st.integers(-8, 7)))
def test_two_nibbles_fit_a_byte(integers):
    packed = pack_nibbles(integers)
    assert packed.dtype == np.uint8
    assert packed.size == integers.size // 2
    np.testing.assert_array_equal(unpack_nibbles(packed), integers)
