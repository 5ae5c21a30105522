"""Folders hold the truth: what survives kills, damage and a lost index."""

from datetime import UTC, datetime

import numpy as np
import pytest

from coordinator.aggregation.version import Rule, make_version
from coordinator.registry.registry import Registry
from coordinator.registry.versions import Evaluation
from coordinator.rounds import Rounds, recompute
from shared.adapters import digest
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode

RULE = Rule(0.5, 0.8, 0.7, 2)


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
        assert registry.accept(*make_update(node, base, seed=seed))
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
        assert recompute(registry, number) == registry.versions.manifest(number).tensors_digest
    assert registry.index.staleness_histogram() == {0: 2, 1: 4}


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
    assert rule == Rule(
        fleet.aggregation.staleness_exponent,
        fleet.aggregation.server_momentum,
        fleet.aggregation.server_learning_rate,
        fleet.aggregation.buffer_size,
    )
    assert all(array.dtype == np.float64 for array in momentum.values())


def test_an_evaluation_is_kept_beside_its_version(registry):
    evaluation = Evaluation(known={"x": [1, 0]}, seeds=[1, 2], seconds=3.0, finished=datetime.now(UTC))
    assert registry.versions.evaluation(0) is None
    registry.record_evaluation(0, evaluation)
    assert registry.versions.evaluation(0) == evaluation
