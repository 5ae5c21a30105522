"""Which version is evaluated next, and what follows from its result: on the registry, no process here."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from coordinator.config import CoordinatorConfig, EvaluationTask
from coordinator.promotion import judge_by_mean, judge_in_sequence
from coordinator.registry.registry import Registry
from coordinator.registry.versions import Evaluation
from shared.errors import ArmfleetError


class EvaluationJobs:
    """The queue is a function of the registry: a job whose process died is simply still due."""

    def __init__(self, config: CoordinatorConfig, registry: Registry) -> None:
        self._registry, self._settings, self._promotion = registry, config.evaluation, config.promotion

    def next(self) -> int | None:
        """The version to evaluate now: first the promoted one (the yardstick), then the newest that is due.

        Versions that are due but were overtaken by a newer one that is due, too, are skipped.
        """
        if not self._settings.tasks:
            return None
        promoted = self._registry.promoted()
        if not self._valid(promoted):
            return promoted
        due = [
            row.number
            for row in self._registry.index.versions()
            if row.state == "candidate" and row.number % self._settings.every == 0
        ]
        return due[-1] if due else None

    def request(self, number: int) -> dict[str, Any]:
        """Arguments of the worker's op `evaluate`: known and unseen tasks together."""
        settings = self._settings
        tasks = (*settings.tasks, *settings.unseen)
        return {
            "version": number,
            "folder": str(self._registry.versions.path(number)),
            "tasks": [{"verb": task.verb, "color": task.color} for task in tasks],
            "seeds": self.seeds(),
            "delay_ticks": settings.delay_ticks,
        }

    def seeds(self) -> list[int]:
        """Scenes, the same for every version."""
        return list(range(self._settings.seed0, self._settings.seed0 + self._settings.rollouts))

    def finish(self, number: int, answer: dict[str, Any]) -> None:
        """Record the answer to `request` and decide.

        Raises:
            ArmfleetError: the worker's answer is not a result for every task and scene.
        """
        known = self._pick(answer["results"], self._settings.tasks)
        unseen = self._pick(answer["results"], self._settings.unseen)
        evaluation = Evaluation(
            known=known,
            unseen=unseen,
            seeds=self.seeds(),
            seconds=float(answer["seconds"]),
            finished=datetime.now(UTC),
        )
        self._registry.record_evaluation(number, evaluation)
        if self._registry.versions.decision(number).state != "candidate":
            return
        promoted = self._registry.promoted()
        yardstick = self._registry.versions.evaluation(promoted)
        # The operator may have promoted another one meanwhile: that one is measured first.
        if yardstick is None or not self._valid(promoted):
            return
        margin = self._promotion.max_task_loss
        if self._promotion.rule == "sequential":
            verdict = judge_in_sequence(known, yardstick.known, margin, seed=number)
        else:
            verdict = judge_by_mean(known, yardstick.known, margin)
        if verdict.state == "promoted":
            self._registry.promote(number, verdict.reason)
        else:
            self._registry.decide(number, "rejected", verdict.reason)
        self._supersede_older(number)

    def _pick(self, results: dict[str, list[int]], tasks: Sequence[EvaluationTask]) -> dict[str, list[int]]:
        picked = {}
        for task in tasks:
            outcomes = results.get(task.key)
            if outcomes is None or len(outcomes) != self._settings.rollouts:
                raise ArmfleetError(f"the evaluation brought no complete result for {task.key}")
            picked[task.key] = [int(bool(outcome)) for outcome in outcomes]
        return picked

    def _valid(self, number: int) -> bool:
        """Is there an evaluation on the tasks and scenes that are configured now?"""
        evaluation = self._registry.versions.evaluation(number)
        keys = {task.key for task in self._settings.tasks}
        return evaluation is not None and set(evaluation.known) == keys and evaluation.seeds == self.seeds()

    def _supersede_older(self, number: int) -> None:
        for row in self._registry.index.versions():
            if row.state == "candidate" and row.number < number:
                self._registry.decide(row.number, "superseded", f"version {number} was evaluated first")
