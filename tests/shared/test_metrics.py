import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.metrics import wilson


def test_published_values():
    # Newcombe 1998, table I, method 3: 81/263 and 15/148 at 95 %.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)


@given(st.integers(0, 200), st.integers(1, 200))
def test_the_interval_holds_the_estimate(k, n):
    k = min(k, n)
    low, high = wilson(k, n)
    assert 0 <= low <= k / n + 1e-12
    assert k / n - 1e-12 <= high <= 1
    assert wilson(0, 0) == (0.0, 1.0)
