"""The exact residual: base and adapter together are the mean of the stations', and whom it is for."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.training.loss import encode_prefix
from benchmarks.learning.arms import ARMS, ASYNC, SYNC, WIDE
from benchmarks.learning.residual import added_to, require_fedavg, residual, summed
from coordinator.aggregation.mean import weighted_sum
from coordinator.aggregation.version import make_version
from shared.policy.adapter import add_adapter, get_tensors
from shared.policy.base import load_base
from tests.coordinator.aggregation.fleets import A, B, added, draw, product, rule, update

MODULE = A.removesuffix(".lora_A.weight")
SCALING = 2.0
EXACT = next(arm for arm in ARMS if arm.add_residual)
shares = st.lists(st.floats(0.01, 1), min_size=1, max_size=6).map(lambda parts: np.array(parts) / sum(parts))


@settings(max_examples=60, deadline=None)
@given(shares, st.integers(0, 10_000), st.floats(1e-3, 3))
def test_base_and_adapter_are_the_mean_of_the_stations(weights, seed, size):
    """W + s B A after the round is the mean of the stations' W + s B_i A_i; of saved modules nothing is
    said."""
    parent = draw(seed)
    deltas = [draw(seed + 1 + n, size) for n in range(len(weights))]
    found = residual(deltas, weights, SCALING)
    assert found.keys() == {MODULE}
    version = added(parent, weighted_sum(deltas, weights, parent))
    stations = [SCALING * product64(added64(parent, delta)) for delta in deltas]
    wanted = sum(weight * each for weight, each in zip(weights, stations, strict=True))
    have = found[MODULE] + SCALING * product64(version)
    np.testing.assert_allclose(have, wanted, atol=1e-12 * max(1, np.abs(stations).max()))


def added64(parent, delta):
    return {name: parent[name].astype(np.float64) + delta[name] for name in parent}


def product64(tensors):
    return np.asarray(tensors[B], np.float64) @ np.asarray(tensors[A], np.float64)


def test_it_completes_the_product_s_own_mean_up_to_float32():
    parent, deltas = draw(0), [draw(n, 0.3) for n in range(1, 6)]
    made = make_version(0, parent, {}, [update(n, delta) for n, delta in enumerate(deltas)], rule("mean"))
    weights = [part.weight for part in made.contributions]
    wanted = np.mean([product(added(parent, delta)) for delta in deltas], axis=0)
    gap = np.abs(product(made.tensors) - wanted).max()
    left = np.abs(residual(deltas, weights, 1.0)[MODULE] + product(made.tensors) - wanted).max()
    assert gap > 0.01
    assert left < 1e-5 * gap


@given(st.integers(0, 10_000))
def test_a_single_station_leaves_nothing(seed):
    assert not residual([draw(seed)], [1.0], SCALING)[MODULE].any()


def test_stations_that_agree_on_a_factor_leave_nothing():
    """Sums of products with a common factor are exact: what FFA-LoRA (arXiv 2403.12313) rests on."""
    deltas = [draw(n) | {A: draw(9)[A]} for n in range(4)]
    assert np.abs(residual(deltas, [0.25] * 4, SCALING)[MODULE]).max() < 1e-12


def test_a_round_whose_weights_are_no_mean_is_refused():
    with pytest.raises(ValueError, match=r"sum to 0\.5"):
        residual([draw(1)], [0.5], SCALING)


def test_rounds_add_up():
    one, other = {"q": np.ones(2), "k": np.ones(2)}, {"q": np.full(2, 2.0)}
    assert {name: part.tolist() for name, part in summed(one, other).items()} == {"k": [1, 1], "q": [3, 3]}
    assert summed({}, other)["q"].tolist() == [2, 2]


@pytest.mark.parametrize(
    "arm",
    [
        SYNC,
        ASYNC,
        EXACT.model_copy(update={"mode": "async"}),
        EXACT.model_copy(update={"stations": EXACT.stations[:4]}),
        *(
            EXACT.model_copy(update={"aggregation": EXACT.aggregation.model_copy(update=change)})
            for change in (
                {"server_optimiser": "nesterov"},
                {"server_learning_rate": 0.7},
                {"aggregator": "refactored"},
                {"norm_limit": 1.0},
                {"max_wait_s": 120.0},
                {"remember_versions": 3},
            )
        ),
    ],
)
def test_it_is_defined_for_fedavg_only(arm):
    require_fedavg(EXACT)
    with pytest.raises(ValueError, match="FedAvg only"):
        require_fedavg(arm)


def test_the_policy_has_it_for_a_while_and_keeps_its_own_weights(tiny_base: Path):
    """Also when the adapter comes in the meantime, and when something fails."""
    policy = load_base(tiny_base)
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    name = "model.vlm_with_expert.lm_expert.layers.0.self_attn.q_proj"
    change = np.random.default_rng(0).normal(size=before[f"{name}.weight"].shape)

    def gained():
        module = policy.get_submodule(name)
        return getattr(module, "base_layer", module).weight.detach() - before[f"{name}.weight"]

    with added_to(policy, {name: change}):
        np.testing.assert_allclose(gained(), change, atol=1e-5)
        model = add_adapter(policy, WIDE)
        np.testing.assert_allclose(gained(), change, atol=1e-5)
        adapter = get_tensors(model)
    assert not gained().any()
    with pytest.raises(KeyError), added_to(policy, {name: change}):
        np.testing.assert_allclose(gained(), change, atol=1e-5)
        raise KeyError
    assert all(np.array_equal(array, get_tensors(model)[key]) for key, array in adapter.items())
    model.unload()
    after = policy.state_dict()
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())


def test_the_training_cache_holds_nothing_that_it_touches(tiny_base: Path):
    """Else frames that were cached before a round would be those of another policy after it."""
    policy = load_base(tiny_base)
    expert = policy.model.vlm_with_expert.lm_expert
    adapted = get_tensors(add_adapter(policy, WIDE))
    assert all(".lm_expert." in name for name in adapted if ".lora_" in name)
    generator = torch.Generator().manual_seed(0)
    width = policy.model.vlm_with_expert.config.text_config.hidden_size
    features, tokens = torch.randn(1, 1, 4, width, generator=generator), torch.tensor([[5, 6, 7]])
    prefixes = []
    for _ in range(2):
        prefixes.append(encode_prefix(policy, features, tokens, torch.ones_like(tokens)).kv)
        with torch.no_grad():
            for parameter in expert.parameters():
                parameter.add_(1.0)
    assert torch.equal(*prefixes)
    assert prefixes[0].abs().max() > 0
