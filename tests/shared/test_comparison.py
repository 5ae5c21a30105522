"""The sequential comparison: its bound on false promotions, when it stops, and what it says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.comparison import (
    ERROR,
    MAX_PAIRS,
    START,
    WHOLE,
    Pair,
    compare,
    draw_tasks,
    stake,
    upper_bound,
)

WON, LOST, TIED = (1, 0), (0, 1), (1, 1)


def pairs_of(task, *outcomes):
    return [Pair(task, candidate, promoted) for candidate, promoted in outcomes]


ANY_PAIRS = st.lists(
    st.builds(Pair, st.sampled_from(["left", "pull"]), st.integers(0, 1), st.integers(0, 1)), max_size=60
)


def test_no_bet_leaves_the_range_and_each_says_something():
    for capital in range(1, WHOLE):
        assert 1 <= stake(capital) <= min(capital, WHOLE - capital)
    assert stake(0) == stake(WHOLE) == 0


def test_nothing_promotes_an_equal_candidate_more_often_than_the_bound():
    """Before each pair an adversary sees the capital and chooses how often pairs end differently."""
    capital = np.arange(WHOLE + 1)
    stakes = np.array([stake(int(held)) for held in capital])
    promoted = (capital == WHOLE).astype(float)
    for _ in range(MAX_PAIRS):
        promoted = np.maximum(promoted, (promoted[capital + stakes] + promoted[capital - stakes]) / 2)
    assert 0.99 * START / WHOLE < promoted[START] <= START / WHOLE + 1e-12


@given(ANY_PAIRS, st.integers(0, 60))
def test_a_decision_does_not_change_with_further_pairs(pairs, first):
    early = compare(pairs[:first], ["left", "pull"], 0.1)
    if early.state != "undecided":
        assert compare(pairs, ["left", "pull"], 0.1) == early


@given(ANY_PAIRS)
def test_better_means_more_led_than_lost_and_no_task_far_below(pairs):
    decision = compare(pairs, ["left", "pull"], 0.1)
    if decision.state == "better":
        used = pairs[: decision.pairs]
        assert sum(pair.lead for pair in used) > 0
        for task in ("left", "pull"):
            leads = [pair.lead for pair in used if pair.task == task]
            assert sum(leads) / len(leads) >= -0.1 - 1e-9


@pytest.mark.parametrize(
    ("pairs", "state", "used", "reason"),
    [
        (pairs_of("left", *[WON] * 20), "better", 8, "of 8 pairs only the candidate succeeded in 8"),
        (pairs_of("left", *[WON] * 7), "undecided", 7, "too little evidence yet"),
        ([], "undecided", 0, "too little evidence yet"),
        (pairs_of("left", *[LOST] * 20), "not_shown", 3, "led too seldom"),
        (pairs_of("left", *[TIED] * 30), "not_shown", 25, "too little evidence within 25 pairs"),
    ],
    ids=["wins", "wins so far", "nothing yet", "loses", "no difference"],
)
def test_when_it_stops(pairs, state, used, reason):
    decision = compare(pairs, ["left"], 0.1, max_pairs=25)
    assert (decision.state, decision.pairs) == (state, used)
    assert reason in decision.reason


def test_better_on_the_mean_is_not_enough_when_one_task_fell():
    pairs = pairs_of("pull", LOST, *[TIED] * 3) + pairs_of("left", *[WON] * 20)
    fell = compare(pairs, ["left", "pull"], max_task_loss=0.1)
    assert fell.state == "not_shown"
    assert "pull fell by 25% (at most 10% may be lost)" in fell.reason
    assert compare(pairs, ["left", "pull"], max_task_loss=0.25).state == "better"


def test_a_task_that_was_not_tried_is_waited_for():
    pairs = pairs_of("left", *[WON] * 20)
    assert compare(pairs, ["left", "pull"], 0.1).reason.startswith("pull not tried yet")
    assert compare(pairs, ["left", "pull"], 0.1, max_pairs=20).state == "not_shown"
    decision = compare([*pairs, *pairs_of("pull", TIED)], ["left", "pull"], 0.1)
    assert (decision.state, decision.pairs) == ("better", 21)


def test_it_says_what_it_cannot_tell():
    decision = compare(pairs_of("left", *[WON] * 10, *[LOST] * 2), ["left"], 0.1)
    assert decision.unknown == (
        "its mean success may have changed by anything from +15% to +100%, that of left by +15% or more "
        "(each bound holds with 95%)"
    )
    nothing = compare([], ["left"], 0.1).unknown
    assert "from -100% to +100%" in nothing


@pytest.mark.parametrize("chances", [(0.3, 0.5, 0.2), (0.0, 0.5, 0.5), (0.05, 0.9, 0.05)])
def test_a_bound_is_seldom_wrong_at_any_time(chances):
    rng = np.random.default_rng(5)
    mean, wrong, comparisons = chances[2] - chances[0], 0, 300
    for _ in range(comparisons):
        leads = rng.choice([-1, 0, 1], size=40, p=chances).tolist()
        wrong += any(upper_bound(leads[:seen]) < mean - 1e-9 for seen in range(2, 41, 2))
    assert wrong <= comparisons * ERROR


def test_a_bound_narrows():
    assert [upper_bound([0] * seen) for seen in (0, 10, 100)] == pytest.approx([1.0, 0.35, 0.04], abs=0.02)
    assert upper_bound([-1] * 50) < -0.8


def test_lots_are_repeatable_fair_and_new_for_each_comparison():
    lots = draw_tasks(["left", "pull", "away"], 3000, seed=1)
    assert lots == draw_tasks(["left", "pull", "away"], 3000, seed=1)
    assert lots != draw_tasks(["left", "pull", "away"], 3000, seed=2)
    assert all(900 < lots.count(task) < 1100 for task in ("left", "pull", "away"))
