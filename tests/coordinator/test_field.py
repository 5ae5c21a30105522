"""The comparison in the field: what pairs, what no order changes, and the bound on false roll-backs."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.field import judge_in_field, log_growth, pairs_of, share_of_task
from shared.comparison import EDGE

STATIONS = ("a", "b")
ERROR = 0.05
LABELS = st.text("01", max_size=30)
RESULTS = st.fixed_dictionaries(
    {station: st.fixed_dictionaries({"push": LABELS, "pull": LABELS}) for station in STATIONS}
)


def judge(promoted, predecessor, stations=STATIONS, error=ERROR):
    return judge_in_field(promoted, predecessor, stations, error)


def test_the_ith_rollout_is_paired_with_the_ith_as_far_as_both_go():
    assert [pair.lead for pair in pairs_of("push", "0101", "110")] == [1, 0, 0]
    assert judge({"a": {"push": "0101"}}, {"a": {"push": "110"}, "b": {"push": "1111"}}).pairs == 3
    assert judge({"a": {"pull": "0000"}}, {"a": {"push": "1111"}}).pairs == 0


def test_nine_pairs_can_be_enough_and_eight_never_are():
    """With one station and one task all stakes but a quarter are on the same pairs."""
    assert not judge({"a": {"push": "0" * 8}}, {"a": {"push": "1" * 8}}, ["a"]).worse
    found = judge({"a": {"push": "0" * 9}}, {"a": {"push": "1" * 9}}, ["a"])
    assert found.worse
    assert found.reason == (
        "worse in the field: of 9 pairs of rollouts in the field only its predecessor succeeded in 9, "
        "only this version in 0"
    )
    assert found.log_held == pytest.approx(math.log(0.75) + 9 * math.log(1 + EDGE[0] / EDGE[1]))


@given(RESULTS, RESULTS, st.randoms())
def test_the_order_of_the_pairs_changes_nothing(promoted, predecessor, random):
    shuffled = ({}, {})
    for station, tasks in predecessor.items():
        for task, labels in tasks.items():
            pairs = list(zip(promoted[station][task], labels, strict=False))
            random.shuffle(pairs)
            for which, row in zip(shuffled, zip(*pairs, strict=True) if pairs else ("", ""), strict=True):
                which.setdefault(station, {})[task] = "".join(row)
    before, after = judge(promoted, predecessor), judge(*shuffled)
    assert after.log_held == pytest.approx(before.log_held)
    assert after.pairs == before.pairs


@given(RESULTS, RESULTS, st.sampled_from(STATIONS), st.sampled_from(["push", "pull"]), st.integers(0, 9))
def test_no_further_pair_of_equal_odds_is_worth_anything(promoted, predecessor, station, task, tied):
    """So the accounts are a supermartingale, whichever pair comes next: that is what bounds the error."""

    def after(now, before):
        longer = {name: {**tasks} for name, tasks in promoted.items()}
        former = {name: {**tasks} for name, tasks in predecessor.items()}
        short = min(len(longer[station][task]), len(former[station][task]))
        longer[station][task] = longer[station][task][:short] + now
        former[station][task] = former[station][task][:short] + before
        return math.exp(judge(longer, former).log_held)

    odds = (1 - tied / 10) / 2
    expected = odds * after("0", "1") + odds * after("1", "0") + tied / 10 * after("1", "1")
    assert expected == pytest.approx(after("", ""))


def test_all_accounts_together_begin_with_one_at_most():
    begun = judge({}, {station: {f"task {n}": "" for n in range(50)} for station in STATIONS})
    assert 0.98 < math.exp(begun.log_held) < 1
    assert sum(share_of_task(2, place) for place in range(1, 1000)) == pytest.approx(0.25, abs=1e-3)


def test_a_task_or_station_that_comes_later_takes_nothing_from_the_others():
    some = {"a": {"push": "1" * 8}}
    later = {"a": {"push": "1" * 8, "pull": ""}, "b": {"push": ""}}
    lost = {"a": {"push": "0" * 8}}
    assert judge(lost, later).log_held >= judge(lost, some).log_held


@pytest.mark.parametrize("rate", [0.5, 0.8])
def test_equal_versions_fall_less_often_than_the_bound_at_whatever_error(rate):
    rng, error = np.random.default_rng(1), 0.3
    fell = 0
    for _ in range(300):
        before, now = ("".join(map(str, row)) for row in rng.binomial(1, rate, (2, 60)))
        fell += any(
            judge({"a": {"push": now[:n]}}, {"a": {"push": before}}, ["a"], error).worse for n in range(61)
        )
    assert 0.05 * 300 < fell <= error * 300


def test_a_version_that_is_worse_at_one_station_alone_falls_and_the_reason_names_it():
    stations = ("a", "b", "c")
    promoted = {"a": {"push": "01" * 10}, "b": {"push": "01" * 10}, "c": {"push": "0" * 20, "pull": "1" * 20}}
    predecessor = {name: {"push": "10" * 10} for name in "ab"} | {"c": {"push": "1" * 20, "pull": "1" * 20}}
    found = judge(promoted, predecessor, stations)
    assert found.worse
    assert found.reason == (
        "worse in the field: at c in 'push' only its predecessor succeeded in 20, only this version in 0; "
        "of 80 pairs of rollouts in the field only its predecessor succeeded in 40, only this version in 20"
    )
    alike = {"push": "1" * 20, "pull": "1" * 20}
    assert not judge({**promoted, "c": alike}, predecessor, stations).worse


def test_a_station_that_joined_later_counts_among_all_only():
    promoted, predecessor = {"new": {"push": "0" * 9}}, {"new": {"push": "1" * 9}}
    assert judge(promoted, predecessor, ["new"]).worse
    assert not judge(promoted, predecessor, ["a"]).worse
    assert judge({"new": {"push": "0" * 10}}, {"new": {"push": "1" * 10}}, ["a"]).worse


def test_a_better_version_stays_and_the_reason_says_how_far_the_bets_are():
    found = judge({"a": {"push": "1" * 50}}, {"a": {"push": "0" * 50}})
    assert not found.worse
    assert found.reason == (
        "not shown to be worse: of 50 pairs of rollouts in the field only its predecessor succeeded in 0, "
        "only this version in 50 (the bets on its predecessor stand at 0.0, 20 would show it)"
    )


def test_the_bets_are_those_of_the_comparison_before_a_promotion():
    assert log_growth(2, 1) == pytest.approx(math.log(16 / 11 * 16 / 11 * 6 / 11))
