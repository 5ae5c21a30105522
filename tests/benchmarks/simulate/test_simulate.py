"""What `make simulate` reports, and that a fleet that learned nothing is not called a success."""

import io
import json

import pytest
from rich.console import Console

from benchmarks.simulate import __main__ as simulate


def version(number, state, left=None, right=None):
    counts = {
        task: {"successes": won, "rollouts": 20, "rate": won / 20}
        for task, won in (("push_left_red", left), ("push_right_green", right))
        if won is not None
    }
    return {"version": number, "state": state, "evaluation": {"known": counts} if counts else None}


def status(*versions, promoted):
    return {
        "rounds": 3,
        "newest": versions[-1]["version"],
        "promoted": {"version": promoted},
        "nodes": [{"updates": 2}, {"updates": 3}],
        "aggregation": {"staleness_histogram": {"0": 2, "1": 3}},
        "versions": list(versions),
    }


LEARNED = status(
    version(0, "superseded", 0, 1), version(1, "superseded"), version(2, "promoted", 9, 4), promoted=2
)


def test_the_figures_are_the_coordinators():
    assert simulate.figures(LEARNED) == {
        "nodes": 2,
        "rounds": 3,
        "versions": 2,
        "updates": 5,
        "staleness_histogram": {"0": 2, "1": 3},
        "promoted": 2,
        "success_before": {"push_left_red": [0, 20], "push_right_green": [1, 20]},
        "success_after": {"push_left_red": [9, 20], "push_right_green": [4, 20]},
    }
    assert simulate.better(simulate.figures(LEARNED))


@pytest.mark.parametrize(
    ("before", "after", "better"), [(0, 4, False), (0, 8, True), (10, 18, False), (20, 3, False)]
)
def test_better_means_beyond_chance(before, after, better):
    learned = status(version(0, "superseded", before, 0), version(1, "promoted", after, 0), promoted=1)
    assert simulate.better(simulate.figures(learned)) == better


def test_the_table_shows_evaluated_versions_with_their_intervals():
    console = Console(file=io.StringIO(), width=120)
    console.print(simulate.table(LEARNED["versions"]))
    rows = [line for line in console.file.getvalue().splitlines() if "[" in line]
    assert [row.split()[1] for row in rows] == ["0", "2"]
    assert "9/20 [26%-66%]" in rows[1]


@pytest.mark.parametrize(("rounds", "every"), [(1, 1), (40, 10), (50, 12)])
def test_the_configuration_is_one_that_the_coordinator_takes(tmp_path, rounds, every):
    path = tmp_path / "coordinator.toml"
    path.write_text(simulate.fill(tmp_path, 12, rounds, seed=7))
    config = simulate.load(path)
    assert (config.aggregation.buffer_size, config.aggregation.rounds) == (4, rounds)
    assert (config.evaluation.every, config.recipe.seed) == (every, 7)
    assert [task.key for task in config.evaluation.tasks] == ["push_left_red", "push_right_green"]


def test_impossible_numbers_are_refused_before_anything_is_done(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(simulate, "check_ray", lambda: None)
    monkeypatch.setattr(simulate, "RUN", tmp_path / "run")
    assert simulate.main(["--nodes", "3", "--out", str(tmp_path / "simulate.json")]) != 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert not answer["ok"]
    assert "3 nodes can't share" in answer["figures"]["error"]
    assert not (tmp_path / "run").exists()
