"""What the benchmark of the comparison computes, against enumeration, and that its targets mean something."""

import itertools
import json

import numpy as np
import pytest

from benchmarks import bench_promotion
from benchmarks.bench_promotion import agrees, chances, main, outlook, worst_false_promotion
from benchmarks.promotion import field_rollouts, fixed_size, tasks
from coordinator.field import judge_in_field
from shared import comparison
from shared.comparison import Pair, compare


def test_the_exact_outlook_is_that_of_compare():
    """Every course of eight pairs, each lead with its probability."""
    won, lost = 0.6, 0.15
    weight = {(1, 0): won, (0, 1): lost, (0, 0): 1 - won - lost}
    better = pairs = 0.0
    for outcomes in itertools.product(weight, repeat=8):
        decision = compare([Pair("left", *outcome) for outcome in outcomes], ["left"], 1.0, max_pairs=8)
        probability = float(np.prod([weight[outcome] for outcome in outcomes]))
        better += probability * (decision.state == "better")
        pairs += probability * decision.pairs
    exact = outlook(won, lost, max_pairs=8)
    assert (exact.better, exact.pairs) == pytest.approx((better, pairs))
    assert better == pytest.approx(won**8)


def test_bound_and_power():
    assert 0.049 < worst_false_promotion() <= 0.05
    assert outlook(fixed_size.WON, fixed_size.LOST).better >= fixed_size.POWER


def test_a_larger_reserve_would_cost_the_power(monkeypatch):
    monkeypatch.setattr(comparison, "RESERVE", comparison.RESERVE + 1)
    assert outlook(fixed_size.WON, fixed_size.LOST).better < fixed_size.POWER


def test_no_comparison_beats_the_bound_of_wald():
    assert fixed_size.least_mean_pairs() < outlook(fixed_size.WON, fixed_size.LOST).pairs


def test_tasks_count_the_same():
    assert chances((0.9, 0.3), (0.3, 0.9)) == pytest.approx(((0.63 + 0.03) / 2, (0.63 + 0.03) / 2))


@pytest.mark.parametrize(
    ("power", "pairs"),
    [(fixed_size.mcnemar_power, 73), (fixed_size.unconditional_power, 65), (fixed_size.barnard_power, 65)],
)
def test_fixed_sizes(power, pairs):
    assert power(pairs - 1) < fixed_size.POWER <= power(pairs)


def test_the_sign_test_rejects_from_five_of_five():
    """With five pairs only five wins have a p-value of at most 5 % (1 / 32)."""
    assert fixed_size.mcnemar_power(5) == pytest.approx(fixed_size.WON**5)


def test_a_simulation_that_is_off_is_noticed():
    sample = np.random.default_rng(0).random(50_000) < 0.05
    assert agrees(sample, 0.05)
    assert not agrees(sample, 0.06)


def test_the_simulated_accounts_in_the_field_are_those_of_the_comparison():
    rng, station = np.random.default_rng(2), np.arange(30) % 3
    before, now = rng.random((2, 1, 30)) < 0.6
    held = field_rollouts.log_held(before & ~now, now & ~before, station, 3)[0, -1]

    def labels(row):
        return {name: {"push": "".join(str(int(x)) for x in row[0, station == name])} for name in range(3)}

    assert held == pytest.approx(judge_in_field(labels(now), labels(before), range(3), 0.05).log_held)


@pytest.mark.parametrize("rate", [0.8, 0.85])
def test_a_good_version_stays_in_the_field_over_200_rollouts(rate):
    fall = field_rollouts.simulate((0.8,) * 3, (rate,) * 3, np.random.default_rng(3), count=2000)
    assert fall.share <= 0.05


def test_a_bad_version_falls_in_the_field_soon():
    fall = field_rollouts.simulate(*field_rollouts.BAD, np.random.default_rng(3), count=2000)
    assert fall.share > 0.99
    assert 25 < fall.mean < 33
    assert fall.high <= 46


def test_with_one_task_the_limit_for_tasks_stops_nothing_that_the_exact_power_has(monkeypatch):
    """With a single task a candidate that comes out better leads in it, so the limit plays no part."""
    monkeypatch.setattr(tasks, "SIMULATIONS", 300)
    found = tasks.shares((fixed_size.CANDIDATE,), (fixed_size.PROMOTED,), seed=1)
    assert found.turned_down == 0
    assert found.promoted == pytest.approx(outlook(fixed_size.WON, fixed_size.LOST).better, abs=0.1)


def test_of_candidates_that_lose_a_task_the_limit_turns_some_down_and_not_all(monkeypatch):
    monkeypatch.setattr(tasks, "SIMULATIONS", 200)
    found = tasks.shares(*tasks.LOST_TASK, seed=1)
    assert 0.2 < found.promoted < 0.7
    assert found.promoted + found.turned_down > 0.9


def test_the_result_names_its_figures_and_fails_with_a_missed_target(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench_promotion, "SIMULATIONS", 2000)
    monkeypatch.setattr(field_rollouts, "SIMULATIONS", 2000)
    monkeypatch.setattr(tasks, "SIMULATIONS", 20)
    monkeypatch.setattr(bench_promotion, "RATIO_TARGET", 1.0)
    assert main(["--seed", "3", "--out", str(tmp_path / "b.json")]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])["figures"]
    assert {"false_promotion_rate", "rollout_ratio", "power"} <= set(figures)
    assert {"power_four_tasks", "promoted_with_a_lost_task"} <= set(figures)
    assert {"field_rollouts_mean", "field_rollouts_p90", "field_false_rollback_rate"} <= set(figures)
    monkeypatch.setattr(bench_promotion, "RATIO_TARGET", 0.1)
    assert main(["--out", str(tmp_path / "b.json")]) == 1
