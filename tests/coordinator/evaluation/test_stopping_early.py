"""Rollouts stop as soon as the comparison is decided, and the decision is that of the full evaluation."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.aggregation.rule import Rule
from coordinator.aggregation.version import Result
from coordinator.config import CoordinatorConfig
from coordinator.enrolment.setup import init
from coordinator.evaluation.jobs import EvaluationJobs, Job, batch_of
from coordinator.evaluation.runner import EvaluationRunner
from coordinator.promotion import Draw, Results, Verdict, judge_in_sequence
from coordinator.registry.registry import Registry
from shared.adapters import Contribution
from shared.recipe import Recipe

SCENES = 60
TASKS = ("pull_blue", "push_left_red")


@given(
    st.lists(st.floats(0, 1), min_size=6, max_size=6),
    st.integers(0, 10_000),
    st.integers(1, SCENES),
    st.sampled_from([0.0, 0.1, 1.0]),
)
def test_the_decision_in_batches_is_that_of_the_full_evaluation(chances, seed, scenes, margin):
    tasks, rng = ["left", "pull", "away"], np.random.default_rng(seed)
    full = [
        {task: rng.binomial(1, chance, scenes).tolist() for task, chance in zip(tasks, half, strict=True)}
        for half in (chances[:3], chances[3:])
    ]

    def judge(candidate: Results, promoted: Results) -> Verdict | Draw:
        return judge_in_sequence(candidate, promoted, tasks, scenes, margin, seed)

    rolled_out = {task: 0 for task in tasks}
    while isinstance(
        step := judge(*({t: results[t][: rolled_out[t]] for t in tasks} for results in full)), Draw
    ):
        batch = batch_of(step.scene, scenes)
        assert batch.start == rolled_out[step.task] <= step.scene < batch.stop
        rolled_out[step.task] = batch.stop
    assert step == judge(*full)


@given(st.integers(1, 500))
def test_batches_cover_the_scenes_and_at_most_double_what_there_was(scenes):
    stop = 0
    while stop < scenes:
        batch = batch_of(stop, scenes)
        assert batch.start == stop
        assert all(batch_of(scene, scenes) == batch for scene in batch)
        assert len(batch) <= max(8, stop)
        stop = batch.stop


@pytest.fixture
def sequential(config: CoordinatorConfig) -> CoordinatorConfig:
    evaluation = config.evaluation.model_copy(update={"rollouts": SCENES, "every": 1})
    promotion = config.promotion.model_copy(update={"rule": "sequential"})
    return config.model_copy(update={"evaluation": evaluation, "promotion": promotion})


@pytest.fixture
def fleet(sequential: CoordinatorConfig, adapter: Path) -> CoordinatorConfig:
    init(sequential, adapter, "ba5e" * 16)
    return sequential


def add_version(registry: Registry) -> int:
    """A candidate after the newest version, of the same tensors."""
    parent = registry.newest()
    tensors, _ = registry.versions.adapter(parent)
    contribution = Contribution(update_id="u", node="arm-a", weight=1.0, staleness=0)
    return registry.add_version(
        parent, Result(tensors, {}, [contribution], {}), Rule(0.0, 0.0, 1.0, 1), Recipe()
    )


def truth(rates: list[float]) -> list[dict[str, list[int]]]:
    """What each version does on each scene, were it rolled out."""
    rng = np.random.default_rng(8)
    keys = (*TASKS, "push_left_blue")
    return [{key: rng.binomial(1, rate, SCENES).tolist() for key in keys} for rate in rates]


def roll_out(job: Job, outcomes: list[dict[str, list[int]]]) -> dict:
    rows = {task.key: outcomes[job.version][task.key] for task in job.tasks}
    return {"results": {key: [row[scene] for scene in job.scenes] for key, row in rows.items()}, "seconds": 1}


def run(fleet: CoordinatorConfig, outcomes: list, opened: Callable[[], Registry]) -> list[Job]:
    """Work all jobs off, as the runner and the worker do; a registry opened anew for each is a restart."""
    done = []
    while (job := EvaluationJobs(fleet, opened()).next()) is not None:
        EvaluationJobs(fleet, opened()).finish(job, roll_out(job, outcomes))
        done.append(job)
    return done


def test_what_is_clear_takes_few_rollouts_and_the_promoted_ones_serve_again(fleet):
    registry, outcomes = Registry(fleet.state), truth([0.0, 0.0, 0.9, 0.1])
    for _ in outcomes[1:]:
        add_version(registry)
    registry.decide(1, "superseded", "not of this story")
    registry.decide(3, "superseded", "not of this story")
    jobs = run(fleet, outcomes, lambda: registry)
    assert registry.promoted() == 2
    first, second = (registry.versions.evaluation(number) for number in (0, 2))
    assert all(len(row) <= 16 for row in first.known.values())
    assert {task: len(row) for task, row in first.known.items()} == {
        task: len(row) for task, row in second.known.items()
    }
    assert second.unseen == {"push_left_blue": outcomes[2]["push_left_blue"]}
    assert first.unseen == {"push_left_blue": outcomes[0]["push_left_blue"]}
    assert registry.versions.evaluation(3) is None

    late = add_version(registry)
    outcomes.append(truth([0.2])[0])
    jobs = run(fleet, outcomes, lambda: registry)
    assert registry.versions.decision(late).state == "rejected"
    assert {job.version for job in jobs} == {late}
    assert sum(len(row) for row in registry.versions.evaluation(late).known.values()) <= 16
    registry.close()


@pytest.mark.parametrize("rates", [[0.3, 0.6], [0.5, 0.5], [0.6, 0.4], [0.0, 0.0]], ids=str)
def test_the_registry_decides_as_if_all_had_been_rolled_out(fleet, rates):
    registry, outcomes = Registry(fleet.state), truth(rates)
    number = add_version(registry)
    run(fleet, outcomes, lambda: registry)
    known = [{task: row[task] for task in TASKS} for row in outcomes]
    verdict = judge_in_sequence(known[1], known[0], TASKS, SCENES, fleet.promotion.max_task_loss, number)
    decision = registry.versions.decision(number)
    assert isinstance(verdict, Verdict)
    assert (decision.state, decision.reason) == (verdict.state, verdict.reason)
    for version in (0, 1):
        for task, row in registry.versions.evaluation(version).known.items():
            assert row == outcomes[version][task][: len(row)]
    registry.close()


def test_a_coordinator_killed_between_all_batches_decides_alike(fleet):
    registry, outcomes = Registry(fleet.state), truth([0.4, 0.6])
    number = add_version(registry)
    opened = [registry]

    def reopened() -> Registry:
        opened.pop().close()
        opened.append(Registry(fleet.state))
        return opened[0]

    jobs = run(fleet, outcomes, reopened)
    assert [len(job.tasks) for job in jobs] == [1] * len(jobs)
    known = [{task: row[task] for task in TASKS} for row in outcomes]
    verdict = judge_in_sequence(known[1], known[0], TASKS, SCENES, 0.1, number)
    assert opened[0].versions.decision(number).reason == verdict.reason
    opened[0].close()


def test_a_worker_killed_in_the_middle_changes_no_decision(fleet, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_DIE", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    registry = Registry(fleet.state)
    number = add_version(registry)
    decided = asyncio.Event()

    async def on_decision() -> None:
        if registry.versions.decision(number).state != "candidate":
            decided.set()

    async def run_until_decided() -> None:
        jobs = EvaluationJobs(fleet, registry)
        runner = EvaluationRunner(fleet, tmp_path / "c.toml", jobs, on_decision, module="fake_worker")
        task = asyncio.create_task(runner.run())
        async with asyncio.timeout(60):
            await decided.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run_until_decided())
    assert (tmp_path / "died").exists()
    known = [{task: [int(scene % 4 < v) for scene in range(SCENES)] for task in TASKS} for v in (0, number)]
    verdict = judge_in_sequence(known[1], known[0], TASKS, SCENES, 0.1, number)
    decision = registry.versions.decision(number)
    assert (decision.state, decision.reason) == ("promoted", verdict.reason)
    registry.close()


def test_a_kill_between_the_last_result_and_the_decision_costs_no_rollout(fleet, monkeypatch):
    registry, outcomes = Registry(fleet.state), truth([0.0, 0.0])
    number = add_version(registry)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(registry, "decide", killed)
    with pytest.raises(KeyboardInterrupt):
        run(fleet, outcomes, lambda: registry)
    registry.close()
    registry = Registry(fleet.state)
    jobs = EvaluationJobs(fleet, registry)
    left = jobs.next()
    assert left == Job(number, (), range(0))
    jobs.finish(left, {"results": {}, "seconds": 0.0})
    assert registry.versions.decision(number).state == "rejected"
    registry.close()


def test_a_candidate_that_was_begun_is_decided_before_a_newer_one(fleet):
    registry, outcomes = Registry(fleet.state), truth([0.8, 0.3, 0.8])
    jobs, begun = EvaluationJobs(fleet, registry), add_version(registry)
    while (job := jobs.next()).version != begun:
        jobs.finish(job, roll_out(job, outcomes))
    jobs.finish(job, roll_out(job, outcomes))
    newer = add_version(registry)
    versions = [job.version for job in run(fleet, outcomes, lambda: registry)]
    assert begun in versions
    assert versions.index(newer) > max(at for at, number in enumerate(versions) if number == begun)
    registry.close()


def test_an_operators_promotion_meanwhile_compares_with_that_version(fleet):
    registry, outcomes = Registry(fleet.state), truth([0.5, 1.0, 0.9])
    by_hand, candidate = add_version(registry), add_version(registry)
    jobs = EvaluationJobs(fleet, registry)
    jobs.finish(job := jobs.next(), roll_out(job, outcomes))
    registry.promote(by_hand, "by the operator")
    run(fleet, outcomes, lambda: registry)
    assert registry.versions.decision(candidate).state == "rejected"
    assert registry.promoted() == by_hand


def test_with_the_shipped_base_a_spoilt_candidate_is_dropped_after_a_first_batch(sequential):
    """Worker, policy and simulator as they are: the base touches cubes, a candidate of noise does not."""
    from coordinator.evaluation.lockstep import Evaluator
    from coordinator.evaluation.worker import EvaluationWorker

    touch = [{"verb": "touch", "color": color} for color in ("red", "blue")]
    config = CoordinatorConfig.model_validate(
        sequential.model_dump()
        | {"policy": {"base": "sim/base"}, "evaluation": {"every": 1, "rollouts": SCENES, "tasks": touch}}
    )
    init(config)
    registry = Registry(config.state)
    tensors, _ = registry.versions.adapter(0)
    rng = np.random.default_rng(0)
    noise = {name: rng.normal(0, 0.5, row.shape).astype(np.float32) for name, row in tensors.items()}
    registry.add_version(0, Result(noise, {}, [], {}), Rule(0.0, 0.0, 1.0, 1), config.recipe)
    jobs, worker = EvaluationJobs(config, registry), EvaluationWorker(Evaluator("sim/base"))
    while (job := jobs.next()) is not None:
        jobs.finish(job, worker.evaluate(jobs.request(job)))
    decision = registry.versions.decision(1)
    assert decision.state == "rejected"
    assert "it led too seldom" in decision.reason
    rollouts = sum(len(row) for v in (0, 1) for row in registry.versions.evaluation(v).known.values())
    assert rollouts <= 32  # of 240

    task, seeds = touch[:1], jobs.seeds()[8:16]
    request = jobs.request(Job(1, config.evaluation.tasks[:1], batch_of(8, SCENES)))
    assert (request["tasks"], request["seeds"]) == (task, seeds)
    before = worker.evaluate(request)["results"]
    worker.evaluate(jobs.request(Job(0, config.evaluation.tasks, range(2))))
    assert worker.evaluate(request)["results"] == before
    registry.close()
