"""Figures, tables and what is published: made-up results."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from benchmarks.learning import __main__ as bench
from benchmarks.learning.arms import ASYNC, FOUR, HELD_OUT, SYNC
from benchmarks.learning.figures import QUESTIONS, answer, figures
from benchmarks.learning.plan import QUICK, Scale
from benchmarks.learning.published import merged, read_published
from benchmarks.learning.report import ROOT, filled, tables, write_docs
from benchmarks.learning.results import (
    Point,
    Result,
    commit_of,
    is_done,
    plan_of,
    read_results,
    write_result,
)
from benchmarks.learning.statistics import estimate, percent, points_lost, ratio, table_of, time_to
from shared.errors import ArmfleetError

SCENES = 100
ALL = [asked.key for asked in FOUR + HELD_OUT]


def made(arm: str, seed: int, wins: int, reached_at: float = 100.0) -> Result:
    outcomes = {task: "1" * wins + "0" * (SCENES - wins) for task in ALL}
    curve = [
        Point(version=1, at=reached_at / 2, steps=8, outcomes=dict.fromkeys(ALL, "0")),
        Point(version=2, at=reached_at, steps=16, outcomes=dict.fromkeys(ALL, "1")),
    ]
    return Result(
        arm=arm,
        mode="async",
        seed=seed,
        commit="c" * 40,
        plan={"arm": arm},
        first_scene=0,
        outcomes=outcomes,
        curve=curve,
        versions=2,
        steps=16,
        seconds=reached_at,
        updates={"a": 2},
        weights={"a": 1.5},
        staleness={0: 1, 3: 1},
        bytes_sent=1000,
        left=0,
    )


@pytest.fixture
def good() -> dict[str, list[Result]]:
    """Every target is met."""
    arms = [arm for question in QUESTIONS for arm in (question.arm, question.reference)]
    results = {arm: [made(arm, seed, 90) for seed in range(3)] for arm in arms}
    results["time-both-async"] = [made("time-both-async", seed, 90, 30.0) for seed in range(3)]
    results["time-both-sync"] = [made("time-both-sync", seed, 90, 100.0) for seed in range(3)]
    return results


def test_the_figures_are_null_where_arms_were_not_run(good):
    ok, found = figures({"async": good["async"]})
    assert not ok
    assert len(found) == 23
    assert set(found.values()) == {None}


def test_the_targets_are_met_by_good_results(good):
    ok, found = figures(good)
    assert ok
    assert found["async_over_centralised"] == 1.0
    assert found["async_over_centralised_seeds"] == [1.0] * 3
    assert found["async_over_centralised_training_seeds"] == [0, 1, 2]
    assert found["codec_cost_points"] == 0.0
    assert found["async_time_ratio"] == pytest.approx(0.3)


@pytest.mark.parametrize(
    "arm", ["async", "async-int4", "async-poisoned-norm-limit", "composition-async", "time-both-async"]
)
def test_each_target_counts(good, arm):
    good[arm] = [made(arm, seed, 50, 50.0) for seed in range(3)]
    assert not figures(good)[0]


def test_too_few_seeds_or_scenes_meet_no_target(good):
    two = {arm: results[:2] for arm, results in good.items()}
    assert not figures(two)[0]
    for result in (*good["async-int4"], *good["async-no-codec"]):
        result.outcomes = {task: row[1:] for task, row in result.outcomes.items()}
    question = QUESTIONS[1]
    assert answer(question, good).value == 0.0
    assert not answer(question, good).met


def test_training_seeds_that_settings_were_chosen_with_count_for_nothing(good):
    others = {
        arm: [each.model_copy(update={"seed": each.seed + 7}) for each in of_arm]
        for arm, of_arm in good.items()
    }
    assert set(figures(others)[1].values()) == {None}
    new = {
        arm: [each.model_copy(update={"seed": each.seed + 10}) for each in of_arm]
        for arm, of_arm in good.items()
    }
    assert figures(new)[0]


def test_a_codec_that_costs_more_than_two_points_is_noticed(good):
    good["async-no-codec"] = [made("async-no-codec", seed, 95) for seed in range(3)]
    ok, found = figures(good)
    assert not ok
    assert found["codec_cost_points"] == pytest.approx(5.0)


def test_only_training_seeds_of_both_arms_are_compared(good):
    good["centralised"] = [*good["centralised"], made("centralised", 3, 0)]
    assert figures(good)[1]["async_over_centralised"] == 1.0


def test_a_seed_that_never_reaches_the_target_leaves_no_time_ratio(good):
    never = made("time-both-async", 1, 90)
    never.curve.pop()
    good["time-both-async"][1] = never
    ok, found = figures(good)
    assert not ok
    assert found["async_time_ratio"] is None
    assert found["async_time_ratio_seeds"] == [0.3, None, 0.3]
    assert time_to(never, 0.5) is None


def test_the_interval_of_a_rate_is_the_binomial_one():
    rng = np.random.default_rng(1)
    rolled = rng.random((3, 4, 100)) < 0.7
    found = estimate(percent, rolled)
    rate = rolled.mean()
    assert found.value == pytest.approx(100 * rate)
    expected = 100 * 1.96 * np.sqrt(rate * (1 - rate) / rolled.size)
    assert found.interval[1] - found.value == pytest.approx(expected, rel=0.15)
    assert found.seeds == pytest.approx([100 * seed.mean() for seed in rolled])


def test_arms_that_succeed_on_the_same_scenes_differ_without_doubt():
    rolled = np.random.default_rng(1).random((2, 4, 50)) < 0.5
    same = estimate(points_lost, rolled, rolled)
    other = estimate(points_lost, rolled, rolled[..., ::-1])
    assert same.interval == same.over_seeds == (0, 0)
    assert other.interval[0] < 0 < other.interval[1]
    assert estimate(ratio, rolled, np.zeros_like(rolled)) is None


def test_seeds_that_differ_widen_the_interval_over_seeds():
    rolled = np.zeros((3, 4, 100), bool)
    rolled[0] = True
    found = estimate(percent, rolled)
    assert found.interval == pytest.approx((100 / 3, 100 / 3))
    assert found.over_seeds == pytest.approx((0, 100))


def test_what_is_published_stays_beside_a_part_that_is_run_again(good):
    again = {"async": [made("async", 1, 10)]}
    both = merged(good, again)
    assert both == good | {"async": [good["async"][0], again["async"][0], good["async"][2]]}
    other = again["async"][0].model_copy(update={"plan": {"arm": "another"}})
    assert merged(good, {"async": [other]}) == good | {"async": [other]}


def test_what_is_published_is_of_the_present_plans_and_makes_the_present_tables(tmp_path):
    """Whoever changes an arm has to run it again, or take its results away."""
    docs = ROOT / "docs" / "learning"
    plans = {arm.name: plan_of(arm, Scale()) for arm in bench.ARMS}
    published = read_published(docs)
    assert published
    for arm, results in published.items():
        assert all(result.plan == plans[arm] for result in results), arm
    readme = (docs / "README.md").read_text()
    for name, part in tables(published).items():
        assert part in readme, f"{name}: python -m benchmarks.learning.report --published"


def test_published_results_are_the_results(good, tmp_path):
    (tmp_path / "README.md").write_text((ROOT / "docs" / "learning" / "README.md").read_text())
    write_docs(good, tmp_path)
    again = read_published(tmp_path)
    assert again == good
    counts = json.loads((tmp_path / "results.json").read_text())["async"]["0"]["pull_yellow"]
    assert (counts["successes"], counts["rollouts"]) == (90, SCENES)
    text = (tmp_path / "README.md").read_text()
    assert (
        "| async_over_centralised | async against centralised | 1.00 [1.00, 1.00] | [1.00, 1.00] "
        "| 1.00, 1.00, 1.00 |" in text
    )
    for name in ("success", "composition", "time", "courses"):
        assert "<svg" in (tmp_path / f"{name}.svg").read_text()
        assert f"({name}.svg)" in text
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write_docs(again, tmp_path)
    assert first == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_tables_without_results_and_missing_markers():
    parts = tables({})
    assert sum(line.endswith("| - |") for line in parts["answers"].splitlines()) == 5
    with pytest.raises(ValueError, match="answers"):
        filled("no markers", parts)


def test_the_plan_of_a_result_says_what_its_updates_went_through():
    plans = {arm.name: plan_of(arm, Scale())["arm"] for arm in bench.ARMS}
    said = {name: plans[name]["codec"] for name in ("async", "async-no-codec", "async-int4")}
    assert said == {"async": "fp16-zstd", "async-no-codec": "none", "async-int4": "int4-zstd"}
    assert "exact" not in plans["async"]


def test_the_exact_residual_is_all_that_two_arms_differ_in():
    mean, exact = (
        plan_of(arm, Scale())["arm"] for arm in bench.ARMS if arm.name in ("sync-mean", "sync-exact")
    )
    assert exact == mean | {"name": "sync-exact", "add_residual": True}


def test_a_result_of_another_plan_is_no_result(tmp_path: Path):
    arm = bench.ARMS[0]
    result = made(arm.name, 0, 30).model_copy(update={"plan": plan_of(arm, Scale())})
    assert not is_done(tmp_path, arm, 0, Scale())
    write_result(tmp_path, result)
    assert is_done(tmp_path, arm, 0, Scale())
    assert read_results(tmp_path, bench.ARMS, Scale()) == {arm.name: [result]}
    with pytest.raises(ArmfleetError, match="another plan"):
        is_done(tmp_path, QUICK.of(arm), 0, QUICK)
    with pytest.raises(ArmfleetError, match="another plan"):
        read_results(tmp_path, [QUICK.of(arm)], QUICK)


def test_the_last_line_says_what_was_not_run(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(bench, "run_all", lambda arms, seeds, *_: asked.append((arms, seeds)))
    options = ["--arms", "sync", "async", "--seeds", "1", "--folder", str(tmp_path), "--out"]
    assert bench.main([*options, str(tmp_path / "b.json")]) == 1
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["benchmark"], last["ok"]) == ("bench-learning", False)
    assert last["figures"]["async_over_centralised"] is None
    assert asked == [([ASYNC, SYNC], [1])]


def test_the_commit_says_whether_code_differs_from_it(tmp_path):
    assert commit_of(tmp_path) == "unknown"
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]

    def git(*arguments: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True)

    for folder in ("docs", "code"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "file").write_text("first")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    commit = commit_of(tmp_path)
    (tmp_path / "docs" / "file").write_text("results of this very commit")
    assert commit_of(tmp_path) == commit
    (tmp_path / "code" / "file").write_text("second")
    second = commit_of(tmp_path)
    assert second.startswith(f"{commit}-dirty-")
    (tmp_path / "code" / "file").write_text("third")
    assert commit_of(tmp_path) not in (commit, second), "unfinished work of other code would go on"


def test_the_success_of_made_up_results():
    assert table_of([made("async", 0, 25)], FOUR).mean() == 0.25
