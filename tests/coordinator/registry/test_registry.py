"""Folders hold the truth: what survives kills, damage and a lost index."""

import json
from datetime import UTC, datetime

import numpy as np
import pytest
from safetensors.numpy import save

from coordinator.aggregation.rule import Rule
from coordinator.aggregation.version import make_version
from coordinator.registry.registry import Registry
from coordinator.registry.versions import Evaluation
from coordinator.rounds import Rounds, recompute, verify
from shared.adapters import digest
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode

RULE = Rule(0.5, 0.8, 0.7, 2)
CODECS = ("fp16-zstd", "int4-zstd")
"""In turns: a round's updates need not be in one codec."""


@pytest.fixture
def registry(fleet):
    opened = Registry(fleet.state)
    yield opened
    opened.close()


class Silent:
    """A publisher that signs nothing."""

    def publish(self, offers):
        return False


def next_version(registry, fleet, make_update, nodes=("arm-a", "arm-b"), base=None):
    base = registry.newest() if base is None else base
    for seed, node in enumerate(nodes):
        assert registry.accept(*make_update(node, base, seed=seed, codec=CODECS[seed % 2]))
    return Rounds(fleet, registry, Silent()).run_if_due()


def test_a_new_fleet_has_version_0_promoted(registry, tensors):
    assert registry.newest() == registry.promoted() == 0
    assert registry.previous() is None
    assert registry.versions.manifest(0).tensors_digest == digest(tensors)


def test_the_same_update_counts_once(registry, make_update):
    header, delta = make_update()
    assert registry.accept(header, delta)
    assert not registry.accept(header, delta)
    assert len(registry.waiting()) == 1


def test_a_refused_update_is_known_but_not_used(registry, make_update):
    header, delta = make_update()
    assert registry.refuse(header, "it is for another base")
    assert header.id in registry.updates
    assert registry.waiting() == []
    assert registry.index.latest_of("arm-a", 10) == [header.id]
    assert not registry.accept(header, delta)


def test_a_round_empties_the_buffer_and_names_its_updates(registry, fleet, make_update):
    assert next_version(registry, fleet, make_update) == 1
    assert registry.waiting() == []
    parts = registry.versions.manifest(1).contributions
    assert sorted(part.node for part in parts) == ["arm-a", "arm-b"]
    assert registry.versions.decision(1).state == "candidate"


def test_versions_can_be_computed_again_from_the_folders_alone(registry, fleet, make_update):
    for base in (0, 0, 1):
        next_version(registry, fleet, make_update, base=base)
    assert registry.newest() == 3
    for number in (1, 2, 3):
        assert (
            digest(recompute(registry, number).tensors) == registry.versions.manifest(number).tensors_digest
        )
    assert registry.index.staleness_histogram() == {0: 2, 1: 4}


@pytest.mark.parametrize("aggregator", ["mean", "refactored", "median", "trimmed_mean", "krum"])
def test_whatever_the_rule_its_versions_can_be_computed_again(registry, fleet, make_update, aggregator):
    section = fleet.aggregation.model_copy(
        update={"aggregator": aggregator, "buffer_size": 5, "norm_limit": 2.0, "server_optimiser": "adam"}
    )
    config = fleet.model_copy(update={"aggregation": section})
    for base in (0, 0, 1):
        next_version(registry, config, make_update, nodes=[f"arm-{n}" for n in range(5)], base=base)
    assert [verify(registry, number) for number in (1, 2, 3)] == [True, True, True]
    assert ("truncation_error" in registry.versions.manifest(3).metrics) == (aggregator == "refactored")
    assert registry.versions.manifest(3).metrics["updates_shortened"] == 0


def test_a_station_that_sends_nothing_is_remembered_for_as_long_as_asked(registry, fleet, make_update):
    section = fleet.aggregation.model_copy(update={"remember_versions": 2, "buffer_size": 1})
    config = fleet.model_copy(update={"aggregation": section})
    for nodes in (["arm-a", "arm-b"], ["arm-a"], ["arm-a"], ["arm-a"]):
        next_version(registry, config, make_update, nodes=nodes)
    manifests = [registry.versions.manifest(number) for number in (1, 2, 3, 4)]
    kept = [[(part.node, part.staleness) for part in manifest.remembered] for manifest in manifests]
    assert kept == [[], [("arm-b", 1)], [("arm-b", 2)], []]
    assert manifests[1].remembered[0].update_id in [part.update_id for part in manifests[0].contributions]
    assert [verify(registry, number) for number in (1, 2, 3, 4)] == [True] * 4
    assert registry.index.staleness_histogram() == {0: 5}
    assert "remembered" not in json.loads((registry.versions.path(4) / "manifest.json").read_text())


def test_an_update_changed_afterwards_is_noticed(registry, fleet, make_update):
    next_version(registry, fleet, make_update)
    update = registry.versions.manifest(1).contributions[0].update_id
    _, other = make_update(seed=99, codec=registry.updates.header(update)[0].codec)
    (fleet.state / "updates" / update / "delta.bin").write_bytes(other)
    assert not verify(registry, 1)


def test_a_server_state_changed_afterwards_is_noticed(registry, fleet, make_update):
    next_version(registry, fleet, make_update)
    file = registry.versions.path(1) / "server_state.safetensors"
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(damaged)
    assert not verify(registry, 1)


@pytest.mark.parametrize(("number", "words"), [(0, "not made from updates"), (7, "no version 7")])
def test_what_was_not_made_from_updates_can_not_be_computed_again(registry, number, words):
    with pytest.raises(ArmfleetError, match=words):
        recompute(registry, number)


def test_updates_are_read_when_they_are_needed_and_not_before(registry, fleet, make_update, tensors):
    header, delta = make_update(seed=1)
    registry.accept(header, delta)
    (lazy,) = registry.inputs([header.id], tensors)
    (fleet.state / "updates" / header.id / "delta.bin").unlink()
    with pytest.raises(ArmfleetError, match="can't be read"):
        lazy.read()
    assert digest(lazy.read_base()) == digest(tensors)


def test_a_robust_rule_waits_for_its_stations(registry, fleet, make_update):
    section = fleet.aggregation.model_copy(update={"aggregator": "median", "buffer_size": 3})
    config = fleet.model_copy(update={"aggregation": section})
    assert next_version(registry, config, make_update, nodes=("arm-a", "arm-a", "arm-b")) is None
    assert "2 stations are in" in Rounds(config, registry, Silent()).outlook()
    assert next_version(registry, config, make_update, nodes=("arm-c",)) == 1


def test_a_rule_recorded_before_there_was_a_choice_is_the_mean_with_nesterov(registry, fleet, make_update):
    next_version(registry, fleet, make_update)
    file = registry.versions.path(1) / "server_state.safetensors"
    state, rule = registry.versions.server_state(1)
    old = {"staleness_exponent": 0.5, "momentum": 0.8, "learning_rate": 0.7, "buffer_size": 2}
    file.write_bytes(save(state, metadata={"rule": json.dumps(old)}))
    assert registry.versions.server_state(1)[1] == rule == RULE
    assert digest(recompute(registry, 1).tensors) == registry.versions.manifest(1).tensors_digest


def test_opening_again_finds_everything_without_the_index(registry, fleet, make_update):
    next_version(registry, fleet, make_update)
    waiting, _ = make_update("arm-c", 1)
    registry.accept(waiting, make_update("arm-c", 1)[1])
    refused, _ = make_update("arm-d")
    registry.refuse(refused, "why")
    before = (registry.waiting(), registry.index.staleness_histogram(), registry.index.totals())
    registry.close()
    (fleet.state / "registry.sqlite").write_bytes(b"not a database")
    again = Registry(fleet.state)
    assert (again.waiting(), again.index.staleness_histogram(), again.index.totals()) == before
    again.close()


def test_half_written_folders_of_a_killed_process_are_removed(registry, fleet):
    registry.close()
    for folder in ("versions", "updates", "refused"):
        (fleet.state / folder / ".inprogress-x").mkdir()
    again = Registry(fleet.state)
    assert again.newest() == 0
    assert again.updates.ids() == []
    assert not list(fleet.state.glob("*/.inprogress-*"))
    again.close()


def test_a_kill_between_version_and_index_loses_nothing(registry, fleet, make_update):
    """The folder is there, the index never heard of it."""
    for seed, node in enumerate(("arm-a", "arm-b")):
        registry.accept(*make_update(node, seed=seed))
    tensors, _config = registry.versions.adapter(0)
    inputs = registry.inputs([w.update_id for w in registry.waiting()], tensors)
    result = make_version(0, tensors, {}, inputs, RULE)
    registry._index_version = lambda number: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        registry.add_version(0, result, RULE, fleet.recipe)
    registry.close()
    again = Registry(fleet.state)
    assert again.newest() == 1
    assert again.waiting() == []
    again.close()


def test_promotion_supersedes_and_roll_back_returns(registry, fleet, make_update):
    for _ in range(2):
        next_version(registry, fleet, make_update)
    registry.promote(1, "better")
    registry.promote(2, "better still")
    assert (registry.promoted(), registry.previous()) == (2, 1)
    assert registry.versions.decision(1).state == "superseded"
    assert registry.roll_back("arms shake") == 1
    assert (registry.promoted(), registry.previous()) == (1, 0)
    assert registry.versions.decision(2).state == "rolled_back"


def test_there_is_nothing_before_version_0(registry):
    with pytest.raises(ArmfleetError, match="no version was promoted before"):
        registry.roll_back("x")


def test_a_kill_in_the_middle_of_a_promotion_is_finished_on_opening(registry, fleet, make_update):
    next_version(registry, fleet, make_update)
    registry.decide(1, "promoted", "better")
    registry.close()
    again = Registry(fleet.state)
    assert again.promoted() == 1
    assert again.versions.decision(0).state == "superseded"
    again.close()


def test_a_kill_in_the_middle_of_a_roll_back_is_finished_on_opening(registry, fleet, make_update):
    next_version(registry, fleet, make_update)
    registry.promote(1, "better")
    decide = registry.decide
    registry.decide = lambda number, state, *rest, **more: (
        decide(number, state, *rest, **more) if state == "promoted" else None
    )
    registry.roll_back("arms shake")
    registry.close()
    again = Registry(fleet.state)
    assert (again.promoted(), again.previous()) == (0, None)
    decision = again.versions.decision(1)
    assert decision.state == "rolled_back"
    assert "arms shake" in decision.reason
    again.close()


def test_only_the_version_that_was_judged_is_rolled_back(registry, fleet, make_update):
    next_version(registry, fleet, make_update)
    registry.promote(1, "better")
    with pytest.raises(ArmfleetError, match="version 0 is not promoted any more"):
        registry.roll_back("worse", judged=0)
    assert registry.roll_back("worse", judged=1) == 0


def test_a_version_that_was_rolled_back_is_remembered_as_that(registry, fleet, make_update):
    next_version(registry, fleet, make_update)
    registry.promote(1, "better")
    assert registry.versions.decision(1).rolled_back is None
    registry.roll_back("arms shake")
    registry.promote(1, "by the operator")
    assert registry.versions.decision(1).rolled_back is not None
    assert registry.previous() == 0


def test_a_rejected_version_does_not_become_superseded(registry, fleet, make_update):
    next_version(registry, fleet, make_update)
    registry.decide(1, "rejected", "worse")
    with pytest.raises(ArmfleetError, match="is rejected and can't become superseded"):
        registry.decide(1, "superseded", "x")


def test_changed_tensors_are_noticed(registry, fleet, make_update):
    next_version(registry, fleet, make_update)
    file = registry.versions.path(1) / "adapter_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ArmfleetError, match="not those its manifest names"):
        registry.versions.adapter(1)


@pytest.mark.parametrize("name", ["manifest.json", "state.json", "server_state.safetensors"])
def test_a_damaged_version_is_named(registry, fleet, make_update, name):
    next_version(registry, fleet, make_update)
    (registry.versions.path(1) / name).write_text("{")
    with pytest.raises(ArmfleetError, match="can't be read") as caught:
        registry.versions.manifest(1)
        registry.versions.decision(1)
        registry.versions.server_state(1)
    assert caught.value.code == ExitCode.REGISTRY_DAMAGED


def test_momentum_is_kept_in_float64(registry, fleet, make_update):
    next_version(registry, fleet, make_update)
    momentum, rule = registry.versions.server_state(1)
    assert rule == fleet.aggregation.rule()
    assert all(array.dtype == np.float64 for array in momentum.values())


def test_an_evaluation_is_kept_beside_its_version(registry):
    evaluation = Evaluation(known={"x": [1, 0]}, seeds=[1, 2], seconds=3.0, finished=datetime.now(UTC))
    assert registry.versions.evaluation(0) is None
    registry.record_evaluation(0, evaluation)
    assert registry.versions.evaluation(0) == evaluation
