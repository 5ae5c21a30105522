"""Version N is a function of its parent, the server's state and its updates."""

from dataclasses import replace

import numpy as np
import pytest
from flwr.server.strategy.aggregate import aggregate
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.aggregation.rule import Rule
from coordinator.aggregation.version import Input, make_version
from shared.adapters import digest

RULE = Rule(staleness_exponent=0.5, momentum=0.8, learning_rate=0.7, buffer_size=2)
SHAPES = {"m.lora_A.weight": (3, 5), "m.lora_B.weight": (5, 3)}


def draw(seed):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def update(update_id, node, base_version, delta):
    return Input(update_id, node, base_version, examples=1, read=lambda: delta, read_base=lambda: draw(1))


def inputs(seeds):
    return [update(f"{seed:032x}", f"arm-{seed % 3}", seed % 4, draw(seed)) for seed in seeds]


@pytest.mark.parametrize(
    ("rule", "tensors", "server_state"),
    [
        (RULE, "15534b1cc71011fa", "dce029cf18c86b6c"),
        (Rule(0.25, 0.0, 0.7, 3), "9bab5e3256cacba6", "e3b0c44298fc1c14"),
    ],
)
def test_versions_that_were_recorded_long_ago_are_still_computed_to_the_byte(rule, tensors, server_state):
    """Digests of the first release's arithmetic: an audit of old versions must not fail after an upgrade."""
    first = make_version(4, draw(1), {}, inputs([5, 6, 7, 11]), rule)
    second = make_version(5, first.tensors, first.server_state, inputs([12, 13]), rule)
    assert digest(second.tensors).startswith(tensors)
    assert digest(second.server_state).startswith(server_state)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 10_000), min_size=1, max_size=6, unique=True), st.randoms(use_true_random=False)
)
def test_the_order_of_arrival_does_not_matter_to_a_single_byte(seeds, random):
    shuffled = random.sample(seeds, len(seeds))
    parent, momentum = draw(1), {name: draw(2)[name].astype(np.float64) for name in SHAPES}
    first = make_version(4, parent, momentum, inputs(seeds), RULE)
    second = make_version(4, parent, momentum, inputs(shuffled), RULE)
    assert digest(first.tensors) == digest(second.tensors)
    assert digest(first.server_state) == digest(second.server_state)
    assert first.contributions == second.contributions


def test_staleness_is_counted_to_the_parent():
    result = make_version(4, draw(1), {}, inputs([0, 3]), RULE)
    assert [part.staleness for part in result.contributions] == [4, 1]


def test_a_remembered_update_counts_like_one_that_comes_so_late():
    fresh, late = update("0" * 32, "arm-a", 4, draw(3)), update("1" * 32, "arm-b", 1, draw(4))
    sent = make_version(4, draw(1), {}, [fresh, late], RULE)
    kept = make_version(4, draw(1), {}, [fresh], RULE, remembered=[late])
    assert digest(kept.tensors) == digest(sent.tensors)
    assert kept.contributions + kept.remembered == sent.contributions
    assert [part.node for part in kept.remembered] == ["arm-b"]


def test_with_all_stations_present_and_fresh_it_is_flowers_synchronous_fedavg():
    parent, counts = draw(1), [10, 40, 50]
    rule = Rule(0.5, 0.0, 1.0, buffer_size=3, optimiser="none", station_weight="examples")
    round_ = [replace(u, base_version=4, examples=n) for u, n in zip(inputs([3, 4, 5]), counts, strict=True)]
    locals_ = [[parent[name] + item.read()[name].astype(np.float64) for name in SHAPES] for item in round_]
    result = make_version(4, parent, {}, round_, rule)
    for name, expected in zip(SHAPES, aggregate(list(zip(locals_, counts, strict=True))), strict=True):
        np.testing.assert_allclose(result.tensors[name], expected, rtol=1e-6)


def test_a_version_never_holds_infinities():
    huge = {name: np.full(shape, 3e38, np.float32) for name, shape in SHAPES.items()}
    with np.errstate(over="ignore"), pytest.raises(ValueError, match="not finite"):
        make_version(0, huge, {}, [update("0" * 32, "arm-a", 0, huge)], RULE)


def test_a_round_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="at least one update"):
        make_version(0, draw(1), {}, [], RULE)
