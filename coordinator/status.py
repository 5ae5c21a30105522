"""What `/status`, `/versions` and `/nodes` answer: what the coordinator does now, and why."""

import time
from collections.abc import Sequence
from typing import Any

from coordinator.config import CoordinatorConfig
from coordinator.enrolment.fleet import Fleet
from coordinator.evaluation.generalisation import generalisation, kind
from coordinator.evaluation.runner import EvaluationRunner
from coordinator.evaluation.station_measures import Told, means_over_stations
from coordinator.evaluation.unseen import may_train
from coordinator.exchange.desk import CheckInDesk
from coordinator.exchange.run_keeper import RunKeeper
from coordinator.field_watch import FieldWatch
from coordinator.promotion import rate
from coordinator.registry.registry import Registry
from coordinator.registry.versions import Evaluation
from coordinator.rounds import Rounds
from shared.messages import FieldResult
from shared.metrics import wilson


class Reporter:
    """Reads; changes nothing."""

    def __init__(
        self,
        config: CoordinatorConfig,
        fleet: Fleet,
        registry: Registry,
        desk: CheckInDesk,
        rounds: Rounds,
        keeper: RunKeeper,
        evaluation: EvaluationRunner,
        field: FieldWatch,
    ) -> None:
        self._config, self._fleet, self._registry = config, fleet, registry
        self._desk, self._rounds, self._keeper, self._evaluation = desk, rounds, keeper, evaluation
        self._field = field

    def status(self) -> dict[str, Any]:
        """The whole coordinator on a page."""
        promoted = self._registry.promoted()
        decision = self._registry.versions.decision(promoted)
        return {
            "fleet": self._fleet.name,
            "base_digest": self._fleet.base_digest,
            "promoted": {"version": promoted, "why": decision.reason, **self._measured(promoted)},
            "field": {"now": self._field.sentence},
            "newest": self._registry.newest(),
            "rounds": self._config.aggregation.rounds,
            "normalisation": self._desk.normalisation,
            "aggregation": {
                "now": self._rounds.outlook(),
                "waiting": len(self._registry.waiting()),
                "set_aside": [row.refused for row in self._registry.index.set_aside()],
                "staleness_histogram": self._registry.index.staleness_histogram(),
            },
            "evaluation": {
                "now": self._evaluation.sentence,
                "version": self._evaluation.evaluating,
                "worker_pid": self._evaluation.pid,
            },
            "exchange": {
                "now": self.exchange_sentence(),
                "run": self._keeper.sentence,
                "run_id": str(self._keeper.run_id) if self._keeper.run_id is not None else None,
                "training": self._desk.recipe_wanted() or "asked for",
                "stopped": self._keeper.stopped,
            },
            "nodes": self.nodes(),
        }

    def exchange_sentence(self) -> str:
        """Whether check-ins flow, and if not, what is missing."""
        if self._desk.asked_at is None:
            return f"the ServerApp has not asked for check-ins yet ({self._keeper.sentence})"
        silent = time.monotonic() - self._desk.asked_at
        if silent > 30:
            return f"the ServerApp has been silent for {silent:.0f} s ({self._keeper.sentence})"
        nodes = self._registry.nodes.all()
        online = sum(self._desk.is_online(node.name) for node in nodes)
        return f"{online} of {len(nodes)} nodes are online"

    def nodes(self) -> list[dict[str, Any]]:
        """Every enrolled node, what it last said, and what came from it."""
        totals = self._registry.index.totals()
        answer = []
        for node in self._registry.nodes.all():
            known = self._desk.known(node.name)
            reply = known.reply if known else None
            answer.append(
                {
                    "name": node.name,
                    "node_id": str(node.node_id),
                    "online": self._desk.is_online(node.name),
                    "enrolled": node.enrolled.isoformat(),
                    "last_reply": known.replied_at.isoformat() if known and known.replied_at else None,
                    "activity": reply.activity if reply else None,
                    "running": reply.held.running if reply else None,
                    "promoted": reply.held.promoted if reply else None,
                    "candidate": reply.held.candidate if reply else None,
                    "health": reply.health.model_dump() if reply else None,
                    "trouble": known.last_error if known else "",
                    **totals.get(node.name, {"updates": 0, "refused": 0, "bytes": 0}),
                }
            )
        return answer

    def versions(self) -> list[dict[str, Any]]:
        """Every version, ascending, with what was decided and measured."""
        answer = []
        for row in self._registry.index.versions():
            manifest = self._registry.versions.manifest(row.number)
            answer.append(
                {
                    "version": row.number,
                    "parent": row.parent,
                    "state": row.state,
                    "why": row.reason,
                    "created": row.created,
                    "tensors_digest": row.tensors_digest,
                    "contributions": [part.model_dump() for part in manifest.contributions],
                    "remembered": [part.model_dump() for part in manifest.remembered],
                    **self._measured(row.number),
                }
            )
        return answer

    def _measured(self, version: int) -> dict[str, Any]:
        """What a version can do: in simulation, on stations' evaluation episodes, on the arms."""
        evaluation = self._registry.versions.evaluation(version)
        told = [Told(row.node, row.measured, row.tasks) for row in self._registry.index.began_from(version)]
        return {
            "evaluation": self._evaluation_of(evaluation) if evaluation else None,
            "at_stations": [vars(mean) for mean in means_over_stations(told)],
            "field": self._field_results(version),
        }

    def _evaluation_of(self, evaluation: Evaluation) -> dict[str, Any]:
        settings = self._config.evaluation
        taught = may_train(settings, self._config.recipe)
        known = {*evaluation.known, *(task.key for task in settings.tasks)}
        kinds = {task: "may train" if task in taught else kind(task, known) for task in evaluation.unseen}
        kept = {task: outcomes for task, outcomes in evaluation.unseen.items() if kinds[task] != "may train"}
        score = generalisation(evaluation.known, kept)
        return {
            "known": {task: _counts(outcomes) for task, outcomes in evaluation.known.items()},
            "unseen": {
                task: {**_counts(outcomes), "kind": kinds[task]}
                for task, outcomes in evaluation.unseen.items()
            },
            "generalisation": vars(score) if score else None,
            "seconds": evaluation.seconds,
            "finished": evaluation.finished.isoformat(),
        }

    def _field_results(self, version: int) -> list[dict[str, Any]]:
        """By task, of all stations together: labelled rollouts, interventions where counted, unsafe arms."""
        told: dict[str, list[FieldResult]] = {}
        for results in self._registry.field.of_version(version).values():
            for result in results:
                told.setdefault(result.task, []).append(result)
        return [_together(task, results) for task, results in sorted(told.items())]


def _counts(outcomes: Sequence[int]) -> dict[str, Any]:
    """With the Wilson 95 % interval of the rate."""
    won, tried = sum(outcomes), len(outcomes)
    return {"successes": won, "rollouts": tried, "rate": rate(outcomes), "wilson": list(wilson(won, tried))}


def _together(task: str, results: Sequence[FieldResult]) -> dict[str, Any]:
    labels = "".join(result.labels for result in results)
    counted = [result.interventions for result in results if result.interventions is not None]
    return {
        "task": task,
        "successes": labels.count("1"),
        "rollouts": len(labels),
        "interventions": sum(counted) if counted else None,
        "unsafe": sum(result.unsafe for result in results),
    }
