"""The generalisation score and its interval; which tasks are new, and which only in their pairing."""

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.evaluation.generalisation import generalisation, kind
from coordinator.promotion import mean_rate

OUTCOMES = st.lists(st.integers(0, 1), min_size=1, max_size=60)
RESULTS = st.dictionaries(st.text(min_size=1, max_size=3), OUTCOMES, min_size=1, max_size=4)


@given(known=RESULTS, unseen=RESULTS)
@settings(deadline=None)
def test_it_is_the_ratio_of_the_means_within_its_interval(known, unseen) -> None:
    score = generalisation(known, unseen)
    if mean_rate(known) == 0:
        assert score is None
        return
    assert score is not None
    assert score.score == pytest.approx(mean_rate(unseen) / mean_rate(known))
    assert 0 <= score.low <= score.score + 1e-9
    assert score.score < score.high < float("inf")


@given(known=RESULTS, unseen=RESULTS, rank=st.randoms(use_true_random=False))
@settings(deadline=None)
def test_order_and_names_play_no_part_and_tasks_without_rollouts_are_no_failures(known, unseen, rank) -> None:
    score = generalisation(known, unseen)
    shuffled = {
        f"{number}": rank.sample(o, len(o))
        for number, o in enumerate(rank.sample([*known.values()], len(known)))
    }
    other = generalisation({**shuffled, "not tried": []}, unseen)
    assert (score is None) == (other is None)
    if score and other:
        assert list(vars(other).values()) == pytest.approx(list(vars(score).values()))


@given(known=RESULTS)
@settings(deadline=None)
def test_more_success_on_unseen_tasks_raises_the_score_and_both_limits(known) -> None:
    scores = [generalisation(known, {"pull_red": [1] * won + [0] * (20 - won)}) for won in range(21)]
    found = [score for score in scores if score is not None]
    assert len(found) in (0, 21)
    for less, more in pairwise(found):
        assert less.score < more.score
        assert less.high < more.high
        assert less.low <= more.low + 1e-9


def test_nothing_to_divide_is_no_score() -> None:
    assert generalisation({}, {"a": [1]}) is None
    assert generalisation({"a": [1]}, {}) is None
    assert generalisation({"a": []}, {"b": [1]}) is None
    assert generalisation({"a": [1]}, {"b": []}) is None
    assert generalisation({"a": [0, 0]}, {"b": [1]}) is None


@pytest.mark.parametrize(
    ("known_rate", "unseen_rate", "rollouts"),
    [(0.8, 0.4, 20), (0.5, 0.5, 20), (0.95, 0.9, 60), (0.1, 0.3, 10)],
)
def test_the_interval_holds_the_ratio_nineteen_times_in_twenty(known_rate, unseen_rate, rollouts) -> None:
    """Within what 1000 draws can tell, and what Wilson's own coverage swings by."""
    draws = random.Random(1)

    def rolled_out(rate: float, tasks: int) -> dict[str, list[int]]:
        return {f"{task}": [int(draws.random() < rate) for _ in range(rollouts)] for task in range(tasks)}

    pairs = ((rolled_out(known_rate, 3), rolled_out(unseen_rate, 2)) for _ in range(1000))
    scores = [score for known, unseen in pairs if (score := generalisation(known, unseen))]
    held = sum(score.low <= unseen_rate / known_rate <= score.high for score in scores) / len(scores)
    assert 0.92 < held < 0.985


def test_a_task_is_known_or_new_in_its_pairing_or_new() -> None:
    known = {"push_left_red", "pull_blue"}
    kinds = {task: kind(task, known) for task in ("pull_blue", "push_left_blue", "pull_green", "hover_red")}
    assert kinds == {
        "pull_blue": "known",
        "push_left_blue": "unseen combination",
        "pull_green": "unseen",
        "hover_red": "unseen",
    }
    assert kind("pull_blue", set()) == "unseen"
