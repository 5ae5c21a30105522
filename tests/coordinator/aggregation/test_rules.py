"""What holds for every rule."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.aggregation.version import make_version
from shared.adapters import digest
from tests.coordinator.aggregation.fleets import (
    OPEN,
    ROBUST,
    RULES,
    SAVED,
    SHAPES,
    STATIONS,
    A,
    B,
    added,
    draw,
    effect,
    update,
)

every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def close(tensors, expected):
    for name, array in expected.items():
        np.testing.assert_allclose(tensors[name], array, rtol=1e-5, atol=1e-6, err_msg=name)


@every_rule
@settings(max_examples=15, deadline=None)
@given(st.integers(STATIONS, 9), st.integers(0, 1000), st.randoms(use_true_random=False))
def test_the_order_of_arrival_does_not_matter_to_a_single_byte(rule, count, seed, random):
    rule = replace(rule, optimiser="adam", momentum=0.8, station_weight="examples")
    inputs = [
        update(n, draw(seed + n, 0.1), base=draw(n % 3), base_version=n % 3) for n in range(1, count + 1)
    ]
    one = make_version(4, draw(0), {}, inputs, rule)
    other = make_version(4, draw(0), {}, random.sample(inputs, count), rule)
    assert digest(one.tensors) == digest(other.tensors)
    assert digest(one.server_state) == digest(other.server_state)
    assert (one.contributions, one.metrics) == (other.contributions, other.metrics)
    assert all(array.dtype == np.float32 for array in one.tensors.values())


@every_rule
def test_identical_updates_give_that_update(rule):
    parent, delta = draw(0), draw(1, 0.1)
    result = make_version(0, parent, {}, [update(n, delta) for n in range(STATIONS)], rule)
    close(result.tensors, added(parent, delta))


@every_rule
@pytest.mark.parametrize("scale_of_b", [0, 1], ids=["first version", "later version"])
def test_updates_of_zeros_change_nothing(rule, scale_of_b):
    """B is zero in the first version: a factorisation of that product must still leave A to train from."""
    parent = draw(0)
    parent[B] *= scale_of_b
    nothing = draw(1, 0.0)
    result = make_version(0, parent, {}, [update(n, nothing, parent) for n in range(STATIONS)], rule)
    close(result.tensors, parent)


@every_rule
@pytest.mark.parametrize("factor", [0.5, -3.0])
def test_the_change_scales_with_the_updates(rule, factor):
    """The products of `refactored` do not: there the saved module stands for it."""
    parent = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    deltas = [draw(seed, 0.1) for seed in range(STATIONS)]
    scaled = [{name: np.float32(factor) * array for name, array in delta.items()} for delta in deltas]
    one = make_version(0, parent, {}, [update(n, d, parent) for n, d in enumerate(deltas)], rule).tensors
    other = make_version(0, parent, {}, [update(n, d, parent) for n, d in enumerate(scaled)], rule).tensors
    names = [SAVED] if rule.aggregator == "refactored" else list(SHAPES)
    close(other, {name: factor * one[name] for name in names})


@every_rule
def test_a_round_of_stale_updates_takes_a_shorter_step(rule):
    """Staleness 3 and exponent 0.5: half of it."""
    parent, deltas = draw(0), [draw(seed, 0.1) for seed in range(STATIONS)]
    inputs = [update(n, delta) for n, delta in enumerate(deltas)]
    fresh = make_version(0, parent, {}, inputs, rule)
    stale = make_version(3, parent, {}, inputs, rule)
    close(stale.tensors, {SAVED: parent[SAVED] + (fresh.tensors[SAVED] - parent[SAVED]) / 2})
    halved = [part.weight / 2 for part in fresh.contributions]
    assert [part.weight for part in stale.contributions] == pytest.approx(halved)


@pytest.mark.parametrize("rule", OPEN.values(), ids=OPEN)
def test_a_single_fresh_update_comes_back_as_it_is(rule):
    parent, delta = draw(0), draw(1, 0.1)
    result = make_version(0, parent, {}, [update(1, delta)], replace(rule, buffer_size=1))
    close(result.tensors, added(parent, delta))
    np.testing.assert_allclose(
        effect(result.tensors, parent), effect(added(parent, delta), parent), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("rule", ROBUST.values(), ids=ROBUST)
def test_a_robust_rule_decides_nothing_for_too_few_stations(rule):
    """However many updates they send."""
    few = rule.stations_needed - 1
    inputs = [update(n, draw(n), station=f"arm-{n % few}") for n in range(3 * few)]
    with pytest.raises(ValueError, match=f"updates of {rule.stations_needed} stations, there are {few}"):
        make_version(0, draw(0), {}, inputs, rule)


@every_rule
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({A: np.zeros((3, 7), np.float32)}, "are not the parent version's"),
        ({"other": np.zeros(2, np.float32)}, "are not the parent version's"),
        ({SAVED: np.full((2, 5), np.nan, np.float32)}, "not finite"),
        ({B: np.full((6, 3), -np.inf, np.float32)}, "not finite"),
    ],
)
def test_an_update_that_does_not_fit_or_is_not_finite_is_named(rule, change, words):
    inputs = [update(n, draw(n) | (change if n == 3 else {})) for n in range(STATIONS)]
    with pytest.raises(ValueError, match=f"update {3:032x}.*{words}"):
        make_version(0, draw(0), {}, inputs, rule)


@every_rule
def test_memory_does_not_grow_with_the_updates_of_the_stations(rule):
    """For robust rules it grows with the stations, here always five."""
    shapes = {A: (4, 1024), B: (16, 4), SAVED: (64, 256)}
    parent = draw(0, 1.0, shapes)

    def peak(count):
        inputs = [
            replace(
                update(n, None), read=lambda n=n: draw(n, 0.1, shapes), read_base=lambda: draw(0, 1.0, shapes)
            )
            for n in range(count)
        ]
        tracemalloc.start()
        make_version(0, parent, {}, inputs, rule)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(60) < 1.1 * peak(10)
