"""What is rolled out next, and what follows from the results: on the registry, no process here.

By the sequential rule a job is one batch of scenes of one task, and after each the recorded results say
whether another is wanted. By the rule of means it is everything at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from coordinator.config import CoordinatorConfig, EvaluationTask
from coordinator.promotion import Verdict, judge_by_mean, judge_in_sequence
from coordinator.registry.registry import Registry
from coordinator.registry.versions import Evaluation
from shared.errors import ArmfleetError

FIRST_BATCH = 8
"""Scenes in a task's first batch; each later batch doubles what there is, so that at most about half of the
rollouts were for nothing. With fewer than 8 pairs no candidate is promoted."""


@dataclass(frozen=True)
class Job:
    """Rollouts for the worker: scenes (by number, from 0) of each task, in lockstep.

    Without tasks all results are there, only the decision on them is missing.
    """

    version: int
    tasks: tuple[EvaluationTask, ...]
    scenes: range

    def __str__(self) -> str:
        if not self.tasks:
            return f"version {self.version}: deciding"
        named = ", ".join(task.key for task in self.tasks)
        return f"version {self.version}: {named}, scenes {self.scenes.start} to {self.scenes.stop - 1}"


def batch_of(scene: int, scenes: int) -> range:
    """The batch that a scene is in: 0 to 7, 8 to 15, 16 to 31, 32 to 63 and so on, below `scenes`.

    It does not depend on what is asked for when: the noise is the batch's (`Evaluator`), so a version's
    results on a scene are the same however its evaluation came there.
    """
    start, stop = 0, FIRST_BATCH
    while scene >= stop:
        start, stop = stop, 2 * stop
    return range(start, min(stop, scenes))


class EvaluationJobs:
    """The queue is a function of the registry: a job whose process died is simply still due."""

    def __init__(self, config: CoordinatorConfig, registry: Registry) -> None:
        self._registry, self._settings, self._promotion = registry, config.evaluation, config.promotion

    def next(self) -> Job | None:
        """First what the promoted version is to be measured on, then what the candidate that is due needs, on
        its side of the pairs or the promoted version's."""
        if not self._settings.tasks:
            return None
        promoted, candidate = self._registry.promoted(), self._due()
        lacking = self._lacking(promoted)
        if lacking is not None or candidate is None:
            return lacking
        step = self._step(candidate, promoted)
        return step if isinstance(step, Job) else Job(candidate, (), range(0))

    def request(self, job: Job) -> dict[str, Any]:
        """Arguments of the worker's op `evaluate`."""
        return {
            "version": job.version,
            "folder": str(self._registry.versions.path(job.version)),
            "tasks": [{"verb": task.verb, "color": task.color} for task in job.tasks],
            "seeds": [self.seeds()[scene] for scene in job.scenes],
            "delay_ticks": self._settings.delay_ticks,
            "noise_seed": job.scenes.start,
        }

    def seeds(self) -> list[int]:
        """Scenes, the same for every version."""
        return list(range(self._settings.seed0, self._settings.seed0 + self._settings.rollouts))

    def finish(self, job: Job, answer: dict[str, Any]) -> None:
        """Record the answer to `request`, and decide if that is enough.

        Raises:
            ArmfleetError: the worker's answer is not a result for every task and scene.
        """
        self._record(job, answer)
        candidate, promoted = self._due(), self._registry.promoted()
        if candidate is None:
            return
        verdict = self._step(candidate, promoted)
        if isinstance(verdict, Job):
            return
        if verdict.state == "promoted":
            self._registry.promote(candidate, verdict.reason)
        else:
            self._registry.decide(candidate, "rejected", verdict.reason)
        self._supersede_older(candidate)

    def _due(self) -> int | None:
        """The candidate to decide on now: one that was begun, else the newest that is due.

        Those that are due but were overtaken by a newer one that is due, too, are skipped.
        """
        due = [
            row.number
            for row in self._registry.index.versions()
            if row.state == "candidate" and row.number % self._settings.every == 0
        ]
        begun = [number for number in due if self._results(number, self._settings.tasks)]
        return max(begun or due, default=None)

    def _step(self, candidate: int, promoted: int) -> Verdict | Job:
        """The verdict, or the rollouts without which there is none."""
        known, rollouts = self._settings.tasks, self._settings.rollouts
        results = {number: self._results(number, known) for number in (promoted, candidate)}
        margin = self._promotion.max_task_loss
        if self._promotion.rule == "mean":
            for number in (promoted, candidate):
                if not self._complete(number):
                    return self._whole(number)
            return judge_by_mean(results[candidate], results[promoted], margin)
        tasks = {task.key: task for task in known}
        step = judge_in_sequence(
            results[candidate], results[promoted], list(tasks), rollouts, margin, seed=candidate
        )
        if isinstance(step, Verdict):
            return step
        short = next(number for number, got in results.items() if len(got.get(step.task, ())) <= step.scene)
        return Job(short, (tasks[step.task],), batch_of(step.scene, rollouts))

    def _lacking(self, promoted: int) -> Job | None:
        """What the promoted version is measured on whatever the candidates need: by the rule of means, which
        wants it whole, everything; else the unseen tasks, one at a time."""
        if self._promotion.rule == "mean":
            return None if self._complete(promoted) else self._whole(promoted)
        unseen, rollouts = self._settings.unseen, self._settings.rollouts
        got = self._results(promoted, unseen)
        lacking = (task for task in unseen if len(got.get(task.key, ())) < rollouts)
        return next((Job(promoted, (task,), range(rollouts)) for task in lacking), None)

    def _whole(self, number: int) -> Job:
        return Job(number, (*self._settings.tasks, *self._settings.unseen), range(self._settings.rollouts))

    def _complete(self, number: int) -> bool:
        results = self._results(number, self._settings.tasks)
        return all(len(results.get(task.key, ())) == self._settings.rollouts for task in self._settings.tasks)

    def _results(self, number: int, tasks: Sequence[EvaluationTask]) -> dict[str, list[int]]:
        """Recorded results on the tasks and scenes that are configured now."""
        evaluation = self._registry.versions.evaluation(number)
        if evaluation is None or evaluation.seeds != self.seeds():
            return {}
        recorded = {**evaluation.unseen, **evaluation.known}
        return {task.key: recorded[task.key] for task in tasks if task.key in recorded}

    def _record(self, job: Job, answer: dict[str, Any]) -> None:
        def merged(tasks: Sequence[EvaluationTask]) -> dict[str, list[int]]:
            before = self._results(job.version, tasks)
            new = {task.key: _outcomes(answer["results"], task, job) for task in job.tasks if task in tasks}
            return before | {
                task: before.get(task, [])[: job.scenes.start] + outcomes for task, outcomes in new.items()
            }

        earlier = self._registry.versions.evaluation(job.version)
        kept_s = earlier.seconds if earlier and earlier.seeds == self.seeds() else 0.0
        evaluation = Evaluation(
            known=merged(self._settings.tasks),
            unseen=merged(self._settings.unseen),
            seeds=self.seeds(),
            seconds=kept_s + float(answer["seconds"]),
            finished=datetime.now(UTC),
        )
        self._registry.record_evaluation(job.version, evaluation)

    def _supersede_older(self, number: int) -> None:
        for row in self._registry.index.versions():
            if row.state == "candidate" and row.number < number:
                self._registry.decide(row.number, "superseded", f"version {number} was evaluated first")


def _outcomes(results: Mapping[str, Sequence[int]], task: EvaluationTask, job: Job) -> list[int]:
    outcomes = results.get(task.key)
    if outcomes is None or len(outcomes) != len(job.scenes):
        raise ArmfleetError(f"the evaluation brought no complete result for {task.key}")
    return [int(bool(outcome)) for outcome in outcomes]
