"""Version N is a function of its parent, the server's state and its updates."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.aggregation.version import Input, Rule, make_version
from shared.adapters import digest

RULE = Rule(staleness_exponent=0.5, momentum=0.8, learning_rate=0.7, buffer_size=2)
SHAPES = {"m.lora_A.weight": (3, 5), "m.lora_B.weight": (5, 3)}


def draw(seed):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def inputs(seeds):
    return [
        Input(f"{seed:032x}", node=f"arm-{seed % 3}", base_version=seed % 4, delta=draw(seed))
        for seed in seeds
    ]


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
    assert digest(first.momentum) == digest(second.momentum)
    assert first.contributions == second.contributions


def test_staleness_is_counted_to_the_parent():
    result = make_version(4, draw(1), {}, inputs([0, 3]), RULE)
    assert [part.staleness for part in result.contributions] == [4, 1]


def test_one_fresh_update_and_plain_averaging_is_the_parent_plus_the_delta():
    parent, (update,) = draw(1), inputs([4])
    result = make_version(0, parent, {}, [update], Rule(0.5, 0.0, 1.0, 1))
    for name in SHAPES:
        np.testing.assert_allclose(result.tensors[name], parent[name] + update.delta[name], rtol=1e-6)
        assert result.tensors[name].dtype == np.float32


def test_updates_of_another_shape_are_an_error():
    odd = Input("0" * 32, "arm-a", 0, {"m.lora_A.weight": np.zeros((3, 5), np.float32)})
    with pytest.raises(ValueError, match="not the parent version's"):
        make_version(0, draw(1), {}, [odd], RULE)


def test_a_version_never_holds_infinities():
    huge = {name: np.full(shape, 3e38, np.float32) for name, shape in SHAPES.items()}
    with np.errstate(over="ignore"), pytest.raises(ValueError, match="not finite"):
        make_version(0, huge, {}, [Input("0" * 32, "arm-a", 0, huge)], RULE)
