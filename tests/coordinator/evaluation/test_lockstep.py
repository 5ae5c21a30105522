"""Evaluation in lockstep: repeatable, per task and scene."""

from pathlib import Path

import pytest

from sim.tasks import Task

TASKS = [Task("push_left", "red"), Task("touch", "blue")]
SEEDS = [500_000, 500_001]


@pytest.fixture(scope="module")
def evaluator(tiny_base: Path):  # type: ignore[no-untyped-def]
    from coordinator.evaluation.lockstep import Evaluator

    return Evaluator(tiny_base)


def test_results_are_per_task_and_scene_and_repeatable(evaluator) -> None:  # type: ignore[no-untyped-def]
    first = evaluator.evaluate(None, TASKS, SEEDS)
    assert list(first) == ["push_left_red", "touch_blue"]
    assert all(len(row) == 2 and set(row) <= {0, 1} for row in first.values())
    assert evaluator.evaluate(None, TASKS[1:], SEEDS)["touch_blue"] == first["touch_blue"]


def test_requests_as_the_daemon_sends_them(evaluator, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from coordinator.evaluation.worker import EvaluationWorker
    from shared.errors import ArmfleetError

    worker = EvaluationWorker(evaluator)
    request = {
        "version": 0,
        "folder": None,
        "tasks": [{"verb": "push_left", "color": "red"}],
        "seeds": [500_000],
    }
    answer = worker.evaluate({**request, "delay_ticks": 1})
    assert answer["results"].keys() == {"push_left_red"}
    assert answer["seconds"] > 0
    with pytest.raises(ArmfleetError, match="can't evaluate the task"):
        worker.evaluate({**request, "tasks": [{"verb": "fold", "color": "red"}]})
    with pytest.raises(ArmfleetError, match="can't be read"):
        worker.evaluate({**request, "folder": str(tmp_path / "gone")})
    assert worker.status({}) == {"evaluating": None}
