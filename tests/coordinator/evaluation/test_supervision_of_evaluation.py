"""Which version is evaluated, what follows, and a worker that dies in the middle of it."""

import asyncio
from pathlib import Path

import pytest

from coordinator.evaluation.jobs import EvaluationJobs
from coordinator.evaluation.runner import EvaluationRunner
from coordinator.registry.registry import Registry
from coordinator.rounds import Rounds
from shared.errors import ArmfleetError

TASKS = ("push_left_red", "pull_blue", "push_left_blue")


class Silent:
    def publish(self, offers):
        return False


@pytest.fixture
def registry(fleet):
    opened = Registry(fleet.state)
    yield opened
    opened.close()


@pytest.fixture
def jobs(fleet, registry):
    return EvaluationJobs(fleet, registry)


@pytest.fixture
def add_versions(fleet, registry, make_update):
    rounds = Rounds(fleet, registry, Silent())

    def add(count):
        for _ in range(count):
            for seed in range(2):
                registry.accept(*make_update(f"arm-{seed}", registry.newest(), seed=seed))
            rounds.run_if_due()

    return add


def answer(wins):
    return {"results": {task: [1] * wins + [0] * (4 - wins) for task in TASKS}, "seconds": 1.0}


def finish(jobs, number, wins):
    """What the runner does once a version is due, with so many successes on each task."""
    job = jobs.next()
    assert job.version == number
    jobs.finish(job, answer(wins))


def test_the_promoted_version_is_the_yardstick_and_comes_first(jobs, add_versions):
    add_versions(2)
    finish(jobs, 0, 1)
    assert jobs.next().version == 2


def test_only_each_kth_version_and_of_those_the_newest(jobs, registry, add_versions):
    finish(jobs, 0, 0)
    add_versions(1)
    assert jobs.next() is None
    add_versions(4)
    finish(jobs, 4, 3)
    assert registry.promoted() == 4
    states = {row.number: row.state for row in registry.index.versions()}
    assert states == {
        0: "superseded",
        1: "superseded",
        2: "superseded",
        3: "superseded",
        4: "promoted",
        5: "candidate",
    }
    assert jobs.next() is None


def test_a_version_that_is_no_better_is_rejected(jobs, registry, add_versions):
    finish(jobs, 0, 2)
    add_versions(2)
    finish(jobs, 2, 2)
    assert registry.versions.decision(2).state == "rejected"
    assert registry.promoted() == 0


def test_with_the_sequential_rule_luck_is_not_enough(fleet, registry, add_versions):
    settings = fleet.promotion.model_copy(update={"rule": "sequential"})
    jobs = EvaluationJobs(fleet.model_copy(update={"promotion": settings}), registry)
    add_versions(2)
    while registry.versions.decision(2).state == "candidate":
        jobs.finish(job := jobs.next(), answer(1 if job.version == 0 else 2))
    assert registry.promoted() == 0
    assert "too little evidence" in registry.versions.decision(2).reason


def test_other_tasks_in_the_configuration_measure_the_yardstick_again(fleet, registry, jobs):
    finish(jobs, 0, 1)
    assert jobs.next() is None
    settings = fleet.evaluation.model_copy(update={"seed0": 7})
    changed = EvaluationJobs(fleet.model_copy(update={"evaluation": settings}), registry)
    assert changed.next().version == 0


def test_a_yardstick_of_other_scenes_is_measured_again_before_it_decides(fleet, registry, jobs, add_versions):
    finish(jobs, 0, 1)
    add_versions(2)
    settings = fleet.evaluation.model_copy(update={"seed0": 7})
    changed = EvaluationJobs(fleet.model_copy(update={"evaluation": settings}), registry)
    changed.finish(jobs.next(), answer(4))
    assert registry.versions.decision(2).state == "candidate"
    finish(changed, 0, 1)
    assert registry.promoted() == 2


def test_without_tasks_nothing_is_evaluated(fleet, registry):
    settings = fleet.evaluation.model_copy(update={"tasks": ()})
    assert EvaluationJobs(fleet.model_copy(update={"evaluation": settings}), registry).next() is None


def test_an_incomplete_result_decides_nothing(jobs, registry):
    with pytest.raises(ArmfleetError, match="no complete result for pull_blue"):
        jobs.finish(jobs.next(), {"results": {"push_left_red": [0] * 4}, "seconds": 1.0})
    assert registry.versions.evaluation(0) is None


def test_a_worker_killed_in_the_middle_is_restarted_and_the_version_evaluated(
    fleet, registry, jobs, add_versions, tmp_path, monkeypatch
):
    monkeypatch.setenv("FAKE_DIE", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    add_versions(2)
    decided = []

    async def on_decision():
        decided.append(registry.promoted())

    async def run():
        runner = EvaluationRunner(fleet, tmp_path / "c.toml", jobs, on_decision, module="fake_worker")
        task = asyncio.create_task(runner.run())
        async with asyncio.timeout(60):
            while len(decided) < 2:
                await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert runner.pid is None

    asyncio.run(run())
    assert (tmp_path / "died").exists()
    assert decided == [0, 2]
    assert registry.versions.decision(2).reason == "mean success rose from 0% to 50%"
