"""The check-in desk: what a node is sent over several check-ins, and what becomes of its answers."""

import numpy as np
import pytest

from coordinator.enrolment import fleet as fleets
from coordinator.exchange import desk as module
from coordinator.exchange.desk import RESEND_S, CheckInDesk
from coordinator.exchange.plan import QUIET
from coordinator.registry.nodes import Node
from coordinator.registry.registry import Registry
from coordinator.registry.statistics import StatisticsPool
from coordinator.registry.targets import Publisher
from coordinator.rounds import Rounds
from shared.envelope import pack, unpack
from shared.messages import MAX_WHY, CheckIn, CheckInReply, FieldResult, Held
from shared.normalisation import Moments, Statistics, measured

RUN = 7


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Fleet:
    """A desk with one enrolled node, arm-a (id 1)."""

    def __init__(self, config, pool=None):
        self.config, self.clock = config, Clock()
        self.registry = Registry(config.state)
        self.publisher = Publisher(config.state / "tuf")
        self.rounds = Rounds(config, self.registry, self.publisher, pool=pool)
        self.rounds.publish()
        self.registry.add_node(Node(name="arm-a", node_id=1, public_key="k", enrolled="2026-01-01T00:00:00Z"))
        identity = fleets.read(config.state)
        self.desk = CheckInDesk(config, identity, self.registry, self.publisher, self.clock, pool)

    def ask(self, run_id=RUN, periods=1):
        """The next check-in for arm-a, so many periods after the last: (CheckIn, blobs), or None."""
        self.clock.now += periods * self.config.exchange.check_in_s
        planned = self.desk.plan(run_id, [1])
        if not planned:
            return None
        ((node_id, check_in, envelope),) = planned
        header, blobs = unpack(envelope)
        request = CheckIn.model_validate(header)
        assert (node_id, check_in) == (1, request.id)
        return request, blobs

    def answer(self, request, update=None, held=None, **changes):
        fields = {"check_in": request.id, "node": "arm-a", "activity": "idle", "held": held or Held()}
        header, delta = update or (None, None)
        reply = CheckInReply(**{**fields, "update": header, **changes})
        self.desk.answered(1, request.id, pack(reply, {"delta": delta} if delta else {}))


@pytest.fixture
def lab(fleet):
    made = Fleet(fleet)
    yield made
    made.registry.close()


def test_the_first_check_in_carries_recipe_and_version_0(lab):
    request, blobs = lab.ask()
    assert request.fleet == "lab"
    assert (request.promoted, request.candidate) == (0, 0)
    assert request.recipe == lab.config.recipe
    assert request.learning_rate == pytest.approx(lab.config.recipe.learning_rate)
    assert {name.split(".")[-1] for name in blobs} == {"json", "promoted", "candidate"}


def test_one_check_in_at_a_time(lab):
    lab.ask()
    assert lab.ask() is None


def test_an_update_is_acknowledged_in_the_next_check_in_and_stays_so(lab, make_update):
    update = make_update()
    request, _ = lab.ask()
    assert request.acknowledged == []
    lab.answer(request, update)
    for _ in range(2):
        request, _ = lab.ask(periods=QUIET)
        assert request.acknowledged == [update[0].id]
        lab.answer(request)


def test_a_node_whose_update_waits_for_its_round_is_left_alone_until_then(lab, make_update):
    request, _ = lab.ask(periods=1)
    lab.answer(request, make_update(seed=0))
    assert lab.ask(periods=1) is None
    request, _ = lab.ask(periods=QUIET - 1)
    lab.answer(request, make_update(seed=1))
    assert lab.rounds.run_if_due() == 1
    assert lab.ask(periods=1) is not None


def test_an_update_that_comes_twice_is_dropped_and_acknowledged(lab, make_update):
    update = make_update()
    for _ in range(2):
        request, _ = lab.ask(periods=QUIET)
        lab.answer(request, update)
    assert lab.registry.updates.ids() == [update[0].id]


def test_a_refused_update_is_acknowledged_too_so_that_the_outbox_empties(lab, make_update):
    header, delta = make_update(base_version=9)
    request, _ = lab.ask()
    lab.answer(request, (header, delta))
    assert lab.registry.updates.ids() == []
    assert lab.registry.updates.refused_ids() == [header.id]
    assert lab.ask()[0].acknowledged == [header.id]


def test_an_update_from_another_fleets_version_0_is_refused_with_the_reason(lab, make_update):
    ours = lab.registry.versions.manifest(0).tensors_digest
    for told, reason in (ours, ""), ("f" * 64, "another version 0"):
        header, delta = make_update(base_tensors_digest=told)
        request, _ = lab.ask(periods=QUIET)
        lab.answer(request, (header, delta))
        refused = lab.registry.updates.header(header.id)[1].refused or ""
        assert (reason in refused, bool(refused)) == (True, bool(reason))


def test_check_ins_that_are_too_large_together_come_one_after_the_other(lab, monkeypatch):
    monkeypatch.setattr(module, "MAX_MESSAGE_BYTES", 10)
    lab.desk.add_node("arm-b", 2)
    planned = [[node for node, _, _ in lab.desk.plan(RUN, [1, 2])] for _ in range(3)]
    assert sorted(planned[0] + planned[1]) == [1, 2]
    assert [len(nodes) for nodes in planned] == [1, 1, 0]


def test_an_update_survives_a_new_desk(lab, make_update):
    """The daemon was killed after it made an update durable and before it could say so."""
    update = make_update()
    request, _ = lab.ask()
    lab.answer(request, update)
    lab.desk = CheckInDesk(lab.config, fleets.read(lab.config.state), lab.registry, lab.publisher, lab.clock)
    assert lab.ask()[0].acknowledged == [update[0].id]


def test_a_new_version_is_the_candidate_with_a_lower_learning_rate(lab, make_update):
    for seed in range(2):
        request, _ = lab.ask(periods=QUIET)
        assert request.buffered == (seed > 0), "in no version yet: nothing else is to be trained"
        lab.answer(request, make_update(seed=seed))
    assert lab.rounds.run_if_due() == 1
    request, blobs = lab.ask()
    assert not request.buffered
    assert (request.promoted, request.candidate) == (0, 1)
    assert request.learning_rate < lab.config.recipe.learning_rate
    assert any(name.endswith(".candidate") for name in blobs)


def test_no_training_is_asked_for_after_the_last_round(lab, monkeypatch):
    monkeypatch.setattr(lab.registry, "newest", lambda: lab.config.aggregation.rounds)
    request, _ = lab.ask()
    assert request.recipe is None
    assert request.learning_rate == 0


def test_a_slot_that_a_node_does_not_take_is_not_sent_each_time(lab):
    def payloads(blobs):
        return [name for name in blobs if not name.endswith(".json")]

    request, blobs = lab.ask()
    assert payloads(blobs)
    lab.answer(request)
    request, blobs = lab.ask()
    assert not payloads(blobs)
    lab.answer(request)
    lab.clock.now += RESEND_S
    assert payloads(lab.ask()[1])


def test_the_previous_version_is_sent_to_nobody(lab, make_update):
    for seed in range(2):
        request, _ = lab.ask(periods=QUIET)
        lab.answer(request, make_update(seed=seed))
    lab.registry.promote(lab.rounds.run_if_due(), "better")
    lab.rounds.publish()
    assert lab.publisher.slots()["previous"] == 0
    lab.clock.now += RESEND_S
    _, blobs = lab.ask()
    assert {name.split(".")[-1] for name in blobs} == {"json", "promoted", "candidate"}


@pytest.mark.parametrize("how", ["lost", "refused"])
def test_what_did_not_arrive_is_sent_again_at_once(lab, how):
    request, first = lab.ask()
    if how == "lost":
        lab.desk.failed(1, request.id, "TTL expired (code 3)")
    else:
        lab.answer(request, refused="promoted: not in this message")
    assert lab.ask()[1].keys() == first.keys()


def test_a_check_in_without_answer_is_given_up_after_its_time_to_live(lab):
    lab.ask()
    lab.clock.now += lab.config.exchange.ttl_s
    assert lab.ask() is not None
    assert "no answer" in lab.desk.known("arm-a").last_error


def test_a_new_run_asks_again_without_waiting(lab):
    lab.ask()
    assert lab.ask(run_id=RUN + 1) is not None


def test_a_late_answer_still_brings_its_update(lab, make_update):
    late, _ = lab.ask()
    assert lab.ask(run_id=RUN + 1) is not None
    update = make_update()
    lab.answer(late, update)
    assert lab.registry.updates.ids() == [update[0].id]


def test_a_stranger_is_ignored(lab, make_update):
    lab.desk.answered(99, "c" * 32, b"anything")
    assert lab.desk.plan(RUN, [99]) == []


def test_rubbish_is_dropped_and_the_node_asked_again(lab):
    request, _ = lab.ask()
    lab.desk.answered(1, request.id, b"rubbish")
    assert lab.desk.known("arm-a").last_error
    assert lab.ask() is not None


@pytest.fixture
def pooling(fleet):
    """A lab that waits for two stations' statistics; one of them is not here."""
    fleet = fleet.model_copy(update={"recipe": fleet.recipe.model_copy(update={"never_train": ("pull",)})})
    made = Fleet(fleet, StatisticsPool(fleet.state, "ba5e" * 16, 2))
    yield made
    made.registry.close()


def test_statistics_are_asked_for_and_no_training_until_all_are_there(pooling, make_update):
    report = measured(*np.random.default_rng(0).normal(0, 30, (2, 200, 6)))
    for missing in (2, 1):
        request, _ = pooling.ask()
        assert (request.statistics.stations, request.statistics.never_train) == (missing, ("pull",))
        assert (request.recipe, request.learning_rate) == (None, 0)
        assert f"of {missing} more station" in pooling.desk.recipe_wanted()
        pooling.answer(request, statistics=report)
    pooling.desk._pool.report("arm-b", report)
    request, _ = pooling.ask()
    assert (request.recipe, request.statistics) == (None, None), "version 1 is still to be made and signed"
    pooling.answer(request)
    assert pooling.rounds.run_if_due() == 1
    request, blobs = pooling.ask()
    assert (request.recipe, request.candidate) == (pooling.config.recipe, 1)
    assert request.learning_rate == pytest.approx(pooling.config.recipe.learning_rate), "no round is over yet"
    assert any(name.endswith(".candidate") for name in blobs)
    late = make_update(base_version=0)
    pooling.answer(request, late)
    assert pooling.registry.updates.refused_ids() == [late[0].id]
    assert pooling.desk.normalisation == "pooled from 400 frames of arm-a, arm-b"


def test_an_update_of_before_is_refused_while_statistics_are_collected(pooling, make_update):
    request, _ = pooling.ask()
    early = make_update(base_version=0)
    pooling.answer(request, early)
    assert pooling.registry.waiting() == []
    assert "the base's own" in pooling.registry.updates.header(early[0].id)[1].refused


def test_a_report_that_is_not_believed_costs_its_station_that_report(pooling):
    request, _ = pooling.ask()
    impossible = Moments(count=100, mean=(0.0,) * 6, m2=(1e14,) * 6)
    pooling.answer(request, statistics=Statistics(state=impossible, action=impossible))
    assert "statistics that no recordings have" in pooling.desk.known("arm-a").last_error
    assert pooling.ask()[0].statistics.stations == 2


def test_a_station_that_does_not_answer_the_question_is_not_counted(pooling):
    for _ in range(3):
        request, _ = pooling.ask()
        pooling.answer(request)
    assert pooling.desk.recipe_wanted() == "waiting for normalisation statistics of 2 more stations"


def test_a_fleet_that_does_not_pool_asks_nothing_and_takes_nothing(lab):
    request, _ = lab.ask()
    assert "statistics" not in request.model_dump(mode="json")
    lab.answer(request, statistics=measured(*np.random.default_rng(0).normal(0, 30, (2, 200, 6))))
    assert lab.ask()[0].recipe is not None
    assert lab.desk.normalisation == "the base's own"


def result(version, labels="11"):
    return FieldResult(version=version, task="push", labels=labels)


def test_a_node_that_can_tell_of_rollouts_is_asked_from_then_on_and_is_told_the_reason(lab, make_update):
    for seed in range(2):
        lab.registry.accept(*make_update(seed=seed))
    lab.registry.promote(lab.rounds.run_if_due(), "better\nin all: 60 % -> 80 %\x1b")
    lab.rounds.publish()
    request, _ = lab.ask()
    assert (request.judged, request.why) == (None, None), "a node of an earlier release would refuse it"
    lab.answer(request, field=[])
    request, _ = lab.ask()
    digest = lab.registry.versions.manifest(1).tensors_digest
    assert [version.version for version in request.judged] == [1, 0]
    assert request.judged[0].tensors_digest == digest
    assert request.why == "better in all: 60 % -> 80 % "
    lab.answer(request, field=[result(1), result(0, "0")])
    assert lab.registry.field.of_version(1) == {"arm-a": [result(1)]}
    assert lab.registry.field.of_version(0) == {"arm-a": [result(0, "0")]}


def test_a_node_of_an_earlier_release_is_asked_nothing_and_told_nothing(lab):
    for _ in range(2):
        request, _ = lab.ask()
        assert not {"judged", "why"} & set(request.model_dump(mode="json"))
        lab.answer(request)


def test_results_of_versions_that_can_not_be_judged_any_more_are_not_kept(lab):
    request, _ = lab.ask()
    lab.answer(request, field=[result(0), result(7)])
    assert lab.registry.field.of_version(7) == {}
    assert lab.registry.field.of_version(0) == {"arm-a": [result(0)]}


def test_a_long_reason_is_cut(lab):
    lab.registry.decide(0, "superseded", "x")
    lab.registry.decide(0, "promoted", "x" * 2 * MAX_WHY)
    request, _ = lab.ask()
    lab.answer(request, field=[])
    assert lab.ask()[0].why == "x" * MAX_WHY
