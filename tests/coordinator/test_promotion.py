"""The rule of promotion as a table."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.promotion import draw_pairs, judge_by_mean, judge_in_sequence


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


def in_sequence(candidate, promoted, seed):
    return judge_in_sequence(candidate, promoted, ["left", "pull"], 10, max_task_loss=0.10, seed=seed)


def test_only_what_is_shown_to_be_better_is_promoted_in_sequence():
    better = in_sequence(results(10, 10), results(0, 0), seed=1)
    assert better.state == "promoted"
    assert "better on the mean of the tasks: of 8 pairs" in better.reason
    assert "may have changed by anything from" in better.reason
    higher = in_sequence(results(6, 5), results(5, 5), seed=1)
    assert higher.state == "rejected"
    assert "too little evidence" in higher.reason


def test_pairs_are_taken_by_lot_until_a_task_is_used_up():
    reasons = {in_sequence(results(5, 5), results(5, 5), seed).reason for seed in range(9)}
    assert 3 <= len(reasons) <= 9
    assert all("too little evidence within 1" in reason for reason in reasons)


@given(st.integers(0, 999), st.integers(0, 9), st.integers(0, 9))
def test_the_first_pair_that_is_missing_is_asked_for(seed, left, pull):
    order = draw_pairs(["left", "pull"], 10, seed)
    tied = {"left": [1] * left, "pull": [1] * pull}
    wanted = in_sequence(tied, results(10, 10), seed)
    missing = [draw for draw in order if draw.scene >= len(tied[draw.task])]
    assert wanted == missing[0] if missing else wanted.state == "rejected"
