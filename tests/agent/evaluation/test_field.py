"""What a workstation reports of its rollouts: which of them, in which order, and what no report holds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.evaluation.field import UNSAFE, field_results
from agent.evaluation.rollouts import RolloutRecord
from shared.messages import MAX_LABELS, MAX_RESULTS, FieldResult, JudgedVersion

DIGEST = "ab" * 32


def judged(version, digest=DIGEST):
    return JudgedVersion(version=version, tensors_digest=digest)


def rollout(number, success=None, task="push", version=3, **changes):
    fields = {"digest": DIGEST, "reason": "time_up", "created": f"2026-11-01T12:{number:06d}"}
    return RolloutRecord(id=f"r{number}", task=task, version=version, success=success, **fields | changes)


def told(records, *versions):
    return field_results(records, versions or [judged(3)])


def test_labels_are_told_in_the_order_of_the_rollouts_and_unlabelled_ones_not_at_all():
    records = [rollout(2, True), rollout(0, False), rollout(1), rollout(3, True, task="pull")]
    assert told(records) == [
        FieldResult(version=3, task="push", labels="01"),
        FieldResult(version=3, task="pull", labels="1"),
    ]


def test_of_a_task_with_other_characters_its_words_are_told():
    """The answer to a check-in was refused as a whole; a path or an address does not leave."""
    records = [
        rollout(0, True, task="Grab the cube (red)!"),
        rollout(1, False, task="Grab the cube, (red)?!"),
    ]
    records += [rollout(2, True, task="?!"), rollout(3, True, task="see /home/anna or anna@lab")]
    assert [(result.task, result.labels) for result in told(records)] == [
        ("Grab the cube red", "1"),
        ("Grab the cube, red", "0"),
        ("see home anna or anna lab", "1"),
    ]


def test_only_the_versions_that_are_asked_about_are_told_in_that_order():
    records = [rollout(0, True, version=1), rollout(1, True, version=2), rollout(2, False, version=3)]
    records.append(rollout(3, True, version=None, digest=None))
    assert [(result.version, result.labels) for result in told(records, judged(3), judged(1))] == [
        (3, "0"),
        (1, "1"),
    ]


def test_a_rollout_of_a_blinded_comparison_is_told_when_that_is_over():
    """Counts by version, here or at the coordinator, would tell the operator which one ran."""
    assert told([rollout(0, True, blinded=True)]) == []
    assert [result.labels for result in told([rollout(0, True)])] == ["1"]


def test_a_version_of_another_fleet_with_the_same_number_is_not_told():
    assert told([rollout(0, True, digest="cd" * 32)]) == []
    assert told([rollout(0, False, digest=None)]) != [], "it ended before the policy answered"


def test_unsafe_arms_and_interventions_are_counted_whether_labelled_or_not():
    records = [
        rollout(0, False, interventions=2),
        rollout(1, reason="servo_hot"),
        rollout(2, False, reason="supply_voltage"),
        rollout(3, reason="the arm worker was killed by SIGKILL"),
        rollout(4, interventions=1),
        rollout(5, interventions=1, discarded=True),
        rollout(6, True, interventions=0),
    ]
    assert told(records) == [FieldResult(version=3, task="push", labels="001", interventions=3, unsafe=2)]
    assert sorted(UNSAFE) == ["servo_hot", "servo_protection", "supply_voltage"]


def test_nobody_counted_is_not_none_happened():
    assert told([rollout(0, True)])[0].interventions is None
    assert told([rollout(0, True, interventions=0), rollout(1, True)])[0].interventions == 0
    assert told([rollout(0, interventions=0)]) == [], "it says nothing"


@given(st.lists(st.sampled_from([True, False, None]), max_size=30), st.integers(0, 30))
def test_a_further_rollout_only_adds_a_label(labels, first):
    """So pairs stay what they are, and a report that is lost is made up for by the next."""
    records = [rollout(number, label) for number, label in enumerate(labels)]
    before, after = (told(some)[0].labels if told(some) else "" for some in (records[:first], records))
    assert after.startswith(before)


def test_the_first_labels_are_told_and_not_the_newest():
    records = [rollout(number, number > 0) for number in range(MAX_LABELS + 5)]
    assert told(records)[0].labels == "0" + "1" * (MAX_LABELS - 1)


def test_a_report_is_bounded():
    records = [rollout(number, True, task=f"task {number}") for number in range(MAX_RESULTS + 5)]
    assert [result.task for result in told(records)][-1] == f"task {MAX_RESULTS - 1}"


@pytest.mark.parametrize("success", [True, False])
def test_a_label_that_is_changed_changes_the_next_report(success):
    record = rollout(0, not success)
    assert told([record.model_copy(update={"success": success})])[0].labels == str(int(success))
