"""The rule of promotion as a table."""

import pytest

from coordinator.promotion import judge


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
    verdict = judge(candidate, promoted, max_task_loss=0.10)
    assert verdict.state == state
    assert reason in verdict.reason


def test_results_on_other_tasks_are_not_compared():
    with pytest.raises(ValueError, match="different tasks"):
        judge({"left": [1]}, {"pull": [0]}, 0.1)


def test_fewer_rollouts_are_not_compared():
    with pytest.raises(ValueError, match="different tasks"):
        judge({"left": [1, 1]}, {"left": [0]}, 0.1)
