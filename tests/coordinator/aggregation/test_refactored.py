"""The re-factorised mean against the product formed in full, which the module avoids."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.aggregation.mean import weighted_sum
from coordinator.aggregation.refactored import refactored
from coordinator.aggregation.version import make_version
from tests.coordinator.aggregation.fleets import RULES, SAVED, STATIONS, A, B, draw, product, update


def in_full(parent, updates):
    """(the mean product, its change), formed in full."""
    change = sum(weight * (product(added64(base, delta)) - product(base)) for weight, base, delta in updates)
    return product(parent) + change, change


def added64(base, delta):
    return {name: base[name].astype(np.float64) + delta[name] for name in base}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(0.01, 1), min_size=1, max_size=12),
    st.integers(0, 10_000),
    st.sampled_from([(3, 8, 6), (3, 6, 8), (2, 9, 9), (4, 3, 5), (1, 1, 1)]),
)
def test_it_is_the_best_product_of_that_rank_and_states_what_it_lost(weights, seed, sizes):
    """Also for many updates (the stack is multiplied out) and a rank that is larger than the module."""
    rank, inner, outer = sizes
    shapes = {A: (rank, inner), B: (outer, rank), SAVED: (2,)}
    bases = [draw(seed + n, 1.0, shapes) for n in range(3)]
    updates = [(w, bases[n % 3], draw(seed + 10 + n, 0.3, shapes)) for n, w in enumerate(weights)]
    done = refactored(bases[0], updates)
    target, change = in_full(bases[0], updates)
    u, values, vt = np.linalg.svd(target, full_matrices=False)
    best = (u[:, :rank] * values[:rank]) @ vt[:rank]
    np.testing.assert_allclose(product(added64(bases[0], done.delta)), best, atol=1e-9 * (1 + values[0]))
    lost = np.linalg.norm(target - best) / np.linalg.norm(change)
    assert done.truncation_error == pytest.approx(lost, abs=1e-7)
    mean = weighted_sum([delta for *_, delta in updates], weights, bases[0])
    np.testing.assert_array_equal(done.delta[SAVED], mean[SAVED])


def test_a_stale_update_counts_for_what_it_moved_itself():
    """Another version's factors, the same change of the product: B a for a base with another B."""
    parent, old = draw(0), draw(5)
    delta = draw(0, 0.0)
    delta[A] = draw(6, 0.1)[A]
    done = refactored(parent, [(1.0, old, delta)])
    target = product(parent) + old[B].astype(np.float64) @ delta[A]
    assert np.linalg.norm(product(added64(parent, done.delta)) - target) == pytest.approx(
        done.truncation_error * np.linalg.norm(old[B].astype(np.float64) @ delta[A])
    )


def test_it_differs_from_the_mean_of_the_factors_in_second_order():
    parent = draw(0)

    def gap(size):
        deltas = [draw(n, size) for n in range(1, 5)]
        done = refactored(parent, [(0.25, parent, delta) for delta in deltas])
        mean = weighted_sum(deltas, [0.25] * 4, parent)
        return np.linalg.norm(done.delta[A] - mean[A]) + np.linalg.norm(done.delta[B] - mean[B])

    assert gap(1e-3) < 1e-4
    assert gap(1e-4) / gap(1e-3) == pytest.approx(0.01, rel=0.3)


def test_from_the_first_version_whose_b_is_zero_a_stays_large_enough_to_train():
    parent = draw(0)
    parent[B] *= 0
    updates = [(0.5, parent, draw(n, 1e-3)) for n in (1, 2)]
    a = added64(parent, refactored(parent, updates).delta)[A]
    np.testing.assert_allclose(a, parent[A], atol=0.1)


def test_the_version_states_what_was_lost():
    inputs = [update(n, draw(n, 0.3)) for n in range(STATIONS)]
    metrics = make_version(0, draw(0), {}, inputs, RULES["refactored"]).metrics
    assert 0 < metrics["truncation_error"] < 1


def test_a_factor_without_its_other_half_is_an_error():
    parent = {A: draw(0)[A]}
    with pytest.raises(ValueError, match="other half: m"):
        refactored(parent, [])
