"""What an operator removed, what can't be computed, and what opening costs: the coordinator goes on."""

import shutil

import pytest
from sqlalchemy import Engine, event

from coordinator.registry.registry import Registry
from coordinator.registry.updates import UpdateStore
from coordinator.rounds import Rounds, verify
from shared.messages import FieldResult

STATIONS = ("arm-a", "arm-b")


class Silent:
    """A publisher that signs nothing."""

    def publish(self, offers):
        return False


@pytest.fixture
def rounds(fleet):
    """Opens the registry again at each call, as a restart does."""
    opened = []

    def start():
        for registry in opened:
            registry.close()
        opened[:] = [Registry(fleet.state)]
        return Rounds(fleet, opened[0], Silent()), opened[0]

    yield start
    opened[0].close()


def send(registry, make_update, base):
    made = [make_update(node, base, seed=seed) for seed, node in enumerate(STATIONS)]
    for update in made:
        assert registry.accept(*update)
    return [header.id for header, _ in made]


def test_after_versions_were_removed_what_is_still_of_use_goes_on(rounds, fleet, make_update):
    maker, registry = rounds()
    sent = {}
    for base in range(4):
        sent[base] = send(registry, make_update, base)
        assert maker.run_if_due() == base + 1
    registry.promote(1, "better")
    registry.promote(3, "better still")
    registry.field.report("arm-a", [FieldResult(version=n, task="push", labels="00") for n in (1, 3)])
    for number in (2, 3, 4):
        shutil.rmtree(registry.versions.path(number))

    maker, registry = rounds()
    assert {update.base_version for update in registry.waiting()} == {1}
    assert registry.promoted() == 1
    assert "is gone" in registry.versions.decision(1).reason
    assert (registry.field.of_version(3), len(registry.field.of_version(1))) == ({}, 1)
    assert maker.run_if_due() == 2
    assert sorted(part.update_id for part in registry.versions.manifest(2).contributions) == sorted(sent[1])
    assert verify(registry, 2)

    maker, registry = rounds()  # version 2 exists again, but it is another one
    assert registry.waiting() == []
    aside = registry.index.set_aside()
    assert {row.id for row in aside} == {*sent[2], *sent[3]}
    assert all("which is gone" in row.refused for row in aside)
    assert registry.updates.delta(sent[2][0])


def test_a_round_that_can_not_be_computed_is_a_sentence_and_the_next_update_a_new_try(
    rounds, fleet, make_update, monkeypatch
):
    maker, registry = rounds()
    bad, _ = send(registry, make_update, 0)
    file = fleet.state / "updates" / bad / "delta.bin"
    whole = file.read_bytes()
    file.write_bytes(b"damaged")
    read, tries = UpdateStore.delta, []
    monkeypatch.setattr(UpdateStore, "delta", lambda store, name: tries.append(name) or read(store, name))
    assert [maker.run_if_due(), maker.run_if_due()] == [None, None]
    assert tries.count(bad) == 1
    assert maker.outlook().startswith("no version can be made of the 2 updates that are in: ")
    maker, registry = rounds()
    assert maker.run_if_due() is None
    file.write_bytes(whole)
    registry.accept(*make_update("arm-c", 0))
    assert maker.run_if_due() == 1
    assert maker.outlook().startswith("no update is waiting")


@pytest.mark.parametrize("count", [1, 9])
def test_opening_takes_as_many_transactions_whatever_the_number_of_updates(
    rounds, make_update, monkeypatch, count
):
    _, registry = rounds()
    for seed in range(count):
        registry.accept(*make_update(seed=seed))
        registry.refuse(make_update(seed=seed)[0], "why")
    totals = registry.index.totals()
    commits = []
    monkeypatch.setattr(UpdateStore, "delta", None)  # its length is not worth reading it

    def counted(connection):
        commits.append(connection)

    event.listen(Engine, "commit", counted)
    _, registry = rounds()
    event.remove(Engine, "commit", counted)
    assert len(commits) <= 3
    assert registry.index.totals() == totals
