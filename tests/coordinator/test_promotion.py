"""The rule of promotion as a table."""

import pytest

from coordinator.promotion import judge_by_mean, judge_in_sequence


def results(left, pull):
    return {"left": [1] * left + [0] * (10 - left), "pull": [1] * pull + [0] * (10 - pull)}


@pytest.mark.parametrize(
    ("candidate", "promoted", "state", "reason"),
    [
        (results(5, 5), results(0, 0), "promoted", "rose from 0% to 50%"),
        (results(9, 4), results(2, 5), "promoted", "rose from 35% to 65%"),
        (results(10, 3), results(2, 5), "rejected", "pull fell by 20%"),
        (results(5, 5), results(5, 5), "rejected", "not above"),
        (results(6, 4), results(5, 5), "rejected", "not above"),
        (results(4, 5), results(5, 5), "rejected", "not above"),
    ],
    ids=["better", "one task loses 10 points", "loses 20 points", "tie", "tie of means", "worse"],
)
def test_rule(candidate, promoted, state, reason):
    verdict = judge_by_mean(candidate, promoted, max_task_loss=0.10)
    assert verdict.state == state
    assert reason in verdict.reason


def test_results_on_other_tasks_are_not_compared():
    with pytest.raises(ValueError, match="different tasks"):
        judge_by_mean({"left": [1]}, {"pull": [0]}, 0.1)


def test_fewer_rollouts_are_not_compared():
    with pytest.raises(ValueError, match="different tasks"):
        judge_by_mean({"left": [1, 1]}, {"left": [0]}, 0.1)


def test_only_what_is_shown_to_be_better_is_promoted_in_sequence():
    better = judge_in_sequence(results(10, 10), results(0, 0), max_task_loss=0.10, seed=1)
    assert better.state == "promoted"
    assert "better on the mean of the tasks: of 8 pairs" in better.reason
    assert "may have changed by anything from" in better.reason
    higher = judge_in_sequence(results(6, 5), results(5, 5), max_task_loss=0.10, seed=1)
    assert higher.state == "rejected"
    assert "too little evidence" in higher.reason


def test_pairs_are_taken_by_lot_until_a_task_is_used_up():
    reasons = {judge_in_sequence(results(5, 5), results(5, 5), 0.1, seed).reason for seed in range(9)}
    assert 3 <= len(reasons) <= 9
    assert all("too little evidence within 1" in reason for reason in reasons)
