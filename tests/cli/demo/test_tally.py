"""Results, targets and the small pure pieces of the report."""

from dataclasses import replace

from cli.demo.plan import Plan
from cli.demo.report import plot
from cli.demo.tally import Tally, described
from cli.demo.train import due, staleness

PLAN = replace(Plan(), before=2, after=4)


def tally(after):
    """All cells 0/2 before and `after` successes of 4."""
    results = Tally()
    for task in PLAN.tasks:
        for station in PLAN.stations:
            for index in range(4):
                if index < 2:
                    results.add(task.key, station.name, "before", False)
                results.add(task.key, station.name, "after", index < after)
    return results


def test_the_json_has_the_promised_form():
    cell = tally(3).to_json()["push_left"]["c"]
    assert cell == {"before": {"successes": 0, "rollouts": 2}, "after": {"successes": 3, "rollouts": 4}}


def test_all_targets_met():
    assert tally(3).misses(PLAN) == []


def test_a_weak_cell_and_a_weak_task_are_named():
    misses = tally(2).misses(PLAN)
    assert len(misses) == 2
    assert all("over all stations" in miss for miss in misses)
    weak = tally(3)
    weak.cells["push_left"]["c"].after[:] = [True, False, False, False]
    assert weak.misses(PLAN)[0] == "push_left at c: 1/4 25% [5-70], below 50%"


def test_success_before_training_is_a_miss():
    results = tally(4)
    results.cells["push_right"]["a"].before[:] = [True, True]
    assert any("before training" in miss for miss in results.misses(PLAN))


def test_missing_rollouts_are_a_miss():
    results = tally(4)
    results.cells["push_right"]["b"].after.pop()
    assert any("only 3 of 4 rollouts after" in miss for miss in results.misses(PLAN))


def test_nothing_is_described_as_nothing():
    assert described([]) == "-"


def version(number, state="superseded", stale=(), known=None):
    return {
        "version": number,
        "state": state,
        "contributions": [{"staleness": each} for each in stale],
        "evaluation": {"known": known, "unseen": {}} if known else None,
    }


def test_the_staleness_histogram_counts_updates():
    versions = [version(0), version(1, stale=[0, 0]), version(2, stale=[0, 3]), version(3, stale=[10])]
    assert staleness(versions) == {"0": 3, "3": 1, "10": 1}


def test_an_evaluation_is_due_until_the_last_k_th_version_is_judged():
    idle, busy = {"evaluation": {"version": None}}, {"evaluation": {"version": 20}}
    assert due([version(20, "candidate")], 10, idle)
    assert not due([version(20, "promoted"), version(21, "candidate")], 10, idle)
    assert due([version(20, "promoted")], 10, busy)


def test_the_plot_is_drawn(tmp_path):
    known = {"push_left_red": {"successes": 3, "rollouts": 20}}
    plot([version(0), version(10, known=known), version(20, known=known)], tmp_path / "plot.png")
    plot([], tmp_path / "empty.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
