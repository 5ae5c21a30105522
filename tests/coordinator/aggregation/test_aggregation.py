"""Weights, mean, server optimiser and buffer: the arithmetic of a round."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.aggregation import buffer
from coordinator.aggregation.buffer import Waiting
from coordinator.aggregation.mean import weighted_sum
from coordinator.aggregation.server_optimiser import step
from coordinator.aggregation.weights import staleness_discount, update_weights

STATIONS = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=8)


def test_staleness_halves_the_weight_where_the_polynomial_says_so():
    assert staleness_discount(0, 0.5) == 1.0
    assert staleness_discount(3, 0.5) == pytest.approx(0.5)


@given(st.integers(0, 1000))
def test_exponent_0_is_the_constant_discount(staleness):
    assert staleness_discount(staleness, 0.0) == 1.0


@pytest.mark.parametrize(("staleness", "exponent"), [(-1, 0.5), (0, -0.5)])
def test_negative_staleness_is_an_error(staleness, exponent):
    with pytest.raises(ValueError, match="must not be negative"):
        staleness_discount(staleness, exponent)


@given(STATIONS)
def test_fresh_updates_weigh_one_together_and_stations_equally(stations):
    weights = update_weights(stations, [0] * len(stations), 0.5, buffer_size=1)
    shares = {s: sum(w for w, name in zip(weights, stations, strict=True) if name == s) for s in stations}
    assert sum(weights) == pytest.approx(1)
    assert all(share == pytest.approx(1 / len(shares)) for share in shares.values())


def test_a_round_of_stale_updates_takes_a_shorter_step():
    assert update_weights(["a"], [3], 0.5, buffer_size=1) == [pytest.approx(0.5)]


@given(STATIONS, st.integers(1, 5))
def test_a_round_that_the_time_limit_closed_takes_a_shorter_step(stations, buffer_size):
    present = len(set(stations))
    weights = update_weights(stations, [0] * len(stations), 0.5, buffer_size)
    assert sum(weights) == pytest.approx(min(1, present / buffer_size))


@given(STATIONS, st.integers(1, 5), st.data())
def test_by_examples_stations_count_in_proportion_and_the_step_is_as_long(stations, buffer_size, data):
    examples = {station: data.draw(st.integers(1, 10**6)) for station in set(stations)}
    weights = update_weights(
        stations, [0] * len(stations), 0.5, buffer_size, [examples[station] for station in stations]
    )
    shares = {s: sum(w for w, name in zip(weights, stations, strict=True) if name == s) for s in stations}
    assert sum(weights) == pytest.approx(min(1, len(shares) / buffer_size))
    for station, share in shares.items():
        assert share / sum(weights) == pytest.approx(examples[station] / sum(examples.values()))


def test_mean_of_two_is_halfway():
    deltas = [{"x": np.array([0.0, 2.0], np.float32)}, {"x": np.array([4.0, 0.0], np.float32)}]
    assert weighted_sum(iter(deltas), [0.5, 0.5], deltas[0])["x"].tolist() == [2.0, 1.0]


def test_a_weight_without_its_delta_is_an_error():
    with pytest.raises(ValueError, match="argument"):
        weighted_sum([{"x": np.zeros(2)}], [0.5, 0.5], {"x": np.zeros(2)})


@pytest.mark.parametrize(("optimiser", "beta"), [("none", 0.8), ("nesterov", 0.0)])
def test_plain_averaging_keeps_no_state(optimiser, beta):
    change, state = step({"x": np.array([3.0])}, {"x": np.array([1.0])}, optimiser, beta, 0.5)
    assert change["x"] == [1.5]
    assert state == {}


def test_nesterov_momentum_by_hand():
    """beta 0.5, lr 1: m = 2, step = 2 + 1; then m = 1 + 2 = 3, step = 2 + 1.5."""
    first, state = step({"x": np.array([2.0])}, {}, "nesterov", 0.5, 1.0)
    second, state = step({"x": np.array([2.0])}, state, "nesterov", 0.5, 1.0)
    assert first["x"] == [3.0]
    assert state["x"] == [3.0]
    assert second["x"] == [3.5]


def test_adam_by_hand():
    """beta 0.5, lr 0.1, delta 2 twice: m = 1, then 1.5; v = 0.99e-6 + 0.04, then 0.99 v + 0.04."""
    first, state = step({"x": np.array([2.0])}, {}, "adam", 0.5, 0.1)
    second, state = step({"x": np.array([2.0])}, state, "adam", 0.5, 0.1)
    v1 = 0.99e-6 + 0.04
    v2 = 0.99 * v1 + 0.04
    assert first["x"][0] == pytest.approx(0.1 / (math.sqrt(v1) + 1e-3), rel=1e-12)
    assert second["x"][0] == pytest.approx(0.15 / (math.sqrt(v2) + 1e-3), rel=1e-12)
    assert state["x"] == [1.5]
    assert state["v:x"][0] == pytest.approx(v2, rel=1e-12)


@pytest.mark.parametrize(("before", "after"), [("nesterov", "adam"), ("adam", "nesterov")])
def test_another_optimiser_starts_afresh(before, after):
    delta = {"x": np.array([2.0])}
    _, state = step(delta, {}, before, 0.5, 0.1)
    assert step(delta, state, after, 0.5, 0.1) == step(delta, {}, after, 0.5, 0.1)


@pytest.mark.parametrize("optimiser", ["nesterov", "adam"])
def test_the_state_of_other_tensors_is_an_error(optimiser):
    with pytest.raises(ValueError, match="other tensors"):
        step({"x": np.array([2.0])}, {"y": np.array([2.0])}, optimiser, 0.5, 1.0)


def waiting(update_id, received, node="a"):
    return Waiting(update_id, node, 0, received)


def test_the_buffer_waits_for_k():
    assert buffer.due([waiting("1", 0)], 1, size=2, max_wait_s=10) is None


def test_the_buffer_is_flushed_at_k_in_the_order_of_ids():
    flush = buffer.due([waiting("2", 0), waiting("1", 1)], 1, size=2, max_wait_s=10)
    assert flush is not None
    assert [update.update_id for update in flush.updates] == ["1", "2"]


def test_one_lonely_update_is_used_after_t():
    flush = buffer.due([waiting("1", 0)], 10, size=2, max_wait_s=10)
    assert flush is not None
    assert "waited 10 s" in flush.reason


def test_an_empty_buffer_is_never_flushed():
    assert buffer.due([], 1e12, size=1, max_wait_s=1) is None


def test_a_clock_set_back_does_not_stop_a_full_buffer():
    assert buffer.due([waiting("1", 1000), waiting("2", 1000)], 0, size=2, max_wait_s=10) is not None


def test_a_rule_that_needs_three_stations_waits_for_them_even_after_t():
    two = [waiting("1", 0, "a"), waiting("2", 0, "b"), waiting("3", 0, "b")]
    assert buffer.due(two, 1e9, size=3, max_wait_s=10, stations=3) is None
    assert "of 2 stations are in" in buffer.outlook(two, 1e9, size=3, max_wait_s=10, stations=3)
    assert buffer.due([*two, waiting("4", 0, "c")], 1, size=3, max_wait_s=10, stations=3) is not None


@pytest.mark.parametrize("count", [0, 1])
def test_the_outlook_says_what_is_missing(count):
    text = buffer.outlook([waiting(str(i), 0) for i in range(count)], 4, size=2, max_wait_s=10)
    assert ("no update" in text) if count == 0 else ("1 of 2" in text and "6 s" in text)
