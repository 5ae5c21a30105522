"""One station of five sends what it likes: how far that moves a version."""

from dataclasses import replace

import numpy as np
import pytest
from flwr.server.strategy.aggregate import aggregate_krum, aggregate_median, aggregate_trimmed_avg
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.aggregation import coordinate, krum, norm_limit
from coordinator.aggregation.version import make_version
from tests.coordinator.aggregation.fleets import (
    ROBUST,
    RULES,
    SAVED,
    STATIONS,
    added,
    draw,
    effect,
    update,
)

POISONED = 2
COMMON = draw(1, 0.1)
every_robust_rule = pytest.mark.parametrize("rule", ROBUST.values(), ids=ROBUST)


def honest(number):
    """A task that all share, and what differs between their demonstrations."""
    own = draw(100 + number, 0.02)
    return {name: COMMON[name] + own[name] for name in COMMON}


def poison(kind, scale):
    sent = draw(7, 0.1) if kind == "noise" else COMMON
    sign = -1 if kind == "sign flipped" else 1
    return {name: np.float32(sign * scale) * array for name, array in sent.items()}


def moved(rule, sent):
    """How far the poisoned update moves the policy away from the honest mean, in lengths of that mean."""
    parent = draw(0)
    inputs = [update(n, sent if n == POISONED else honest(n)) for n in range(STATIONS)]
    result = effect(make_version(0, parent, {}, inputs, rule).tensors, parent)
    effects = [effect(added(parent, honest(n)), parent) for n in range(STATIONS) if n != POISONED]
    mean = np.mean(effects, axis=0)
    return np.linalg.norm(result - mean) / np.linalg.norm(mean)


@every_robust_rule
@pytest.mark.parametrize("kind", ["scaled", "sign flipped", "noise"])
@pytest.mark.parametrize("scale", [1, 100, 10_000])
def test_one_poisoned_station_of_five_moves_a_robust_rule_by_less_than_an_honest_round(rule, kind, scale):
    assert moved(rule, poison(kind, scale)) < 1


@pytest.mark.parametrize("kind", ["scaled", "sign flipped", "noise"])
def test_the_mean_moves_as_far_as_the_poison_wants(kind):
    assert moved(RULES["mean"], poison(kind, 100)) > 10
    assert moved(RULES["mean"], poison(kind, 10_000)) > 1000


@pytest.mark.parametrize("name", ["median", "trimmed mean", "krum", "mean, limited"])
def test_a_station_has_one_say_however_many_updates_it_sends(name):
    parent = draw(0)
    crowd = [update(n, poison("scaled", 100), station="arm-2") for n in range(10, 30)]
    inputs = [update(n, honest(n)) for n in range(STATIONS) if n != POISONED]
    result = make_version(0, parent, {}, [*inputs, *crowd], RULES[name])
    length = np.linalg.norm(effect(added(parent, COMMON), parent))
    assert np.linalg.norm(effect(result.tensors, parent)) < 2 * length


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 3), st.integers(0, 3), st.integers(0, 10_000))
def test_every_coordinate_lies_between_two_honest_ones(poisoned, more, seed):
    rng = np.random.default_rng(seed)
    good = rng.normal(size=(poisoned + 1 + more, 20))
    bad = rng.choice([-1e9, 1e9, 0.0, 1.0], size=(poisoned, 20))
    votes = [{"x": row} for row in rng.permutation(np.vstack([good, bad]))]
    for result in (coordinate.median(votes), coordinate.trimmed_mean(votes, poisoned)):
        assert (result["x"] >= good.min(axis=0) - 1e-12).all()
        assert (result["x"] <= good.max(axis=0) + 1e-12).all()


def test_krum_says_whom_it_left_out_and_its_step_is_as_long():
    inputs = [update(n, poison("scaled", 100) if n == POISONED else honest(n)) for n in range(STATIONS)]
    parts = make_version(0, draw(0), {}, inputs, RULES["krum"]).contributions
    weights = [part.weight for part in parts]
    assert weights[POISONED] == 0
    assert sorted(weights) == pytest.approx([0, 0, 0, 0.5, 0.5])


def test_the_version_says_how_many_updates_were_shortened():
    inputs = [update(n, poison("scaled", 100) if n == POISONED else honest(n)) for n in range(STATIONS)]
    assert make_version(0, draw(0), {}, inputs, RULES["mean, limited"]).metrics == {"updates_shortened": 1}
    assert make_version(0, draw(0), {}, inputs, RULES["mean"]).metrics == {}


@given(st.lists(st.floats(0.01, 100), min_size=3, max_size=9), st.floats(1, 5))
def test_no_update_stays_longer_than_the_limit_and_short_ones_stay_as_they_are(lengths, limit):
    deltas = [{"x": np.array([0.0, length])} for length in lengths]
    stations = [f"arm-{n}" for n in range(len(lengths))]
    longest = limit * np.median(lengths)
    for length, scale in zip(lengths, norm_limit.scales(deltas, stations, limit), strict=True):
        assert length * scale == pytest.approx(min(length, longest))


def tasks_of_their_own():
    """Each station moves two numbers of the head that no other moves."""
    for n in range(STATIONS):
        delta = draw(0, 0.0)
        delta[SAVED].ravel()[[2 * n, 2 * n + 1]] = 1.0
        yield update(n, delta)


@pytest.mark.parametrize(
    ("name", "tasks_kept"),
    [("mean", 5), ("mean, limited", 5), ("refactored", 5), ("krum", 2), ("median", 0), ("trimmed mean", 0)],
)
def test_with_a_task_per_station_robust_rules_drown_tasks(name, tasks_kept):
    """Why they are not for a fleet in which every station has a task of its own."""
    parent = draw(0, 0.0)
    inputs = [replace(item, read_base=lambda: parent) for item in tasks_of_their_own()]
    changed = make_version(0, parent, {}, inputs, RULES[name]).tensors[SAVED].ravel()
    assert int((changed[::2] != 0).sum()) == tasks_kept


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 2), st.integers(0, 3), st.integers(0, 10_000))
def test_flower_computes_the_same(poisoned, more, seed):
    rng = np.random.default_rng(seed)
    count = 2 * poisoned + 3 + more
    votes = [{"x": rng.normal(size=7), "y": rng.normal(size=(2, 3))} for _ in range(count)]
    results = [(list(vote.values()), 1) for vote in votes]
    near = count - poisoned - 2
    kept = krum.nearest(votes, poisoned)
    pairs = [
        (coordinate.median(votes), aggregate_median(results)),
        (coordinate.trimmed_mean(votes, poisoned), aggregate_trimmed_avg(results, (poisoned + 0.5) / count)),
        (
            {name: np.mean([votes[i][name] for i in kept], axis=0) for name in votes[0]},
            aggregate_krum(results, poisoned, near),
        ),
    ]
    for ours, theirs in pairs:
        for one, other in zip(ours.values(), theirs, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)
