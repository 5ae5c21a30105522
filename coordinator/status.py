"""What `/status`, `/versions` and `/nodes` answer: what the coordinator does now, and why."""

import time
from collections.abc import Sequence
from typing import Any

from coordinator.config import CoordinatorConfig
from coordinator.enrolment.fleet import Fleet
from coordinator.evaluation.runner import EvaluationRunner
from coordinator.exchange.desk import CheckInDesk
from coordinator.exchange.run_keeper import RunKeeper
from coordinator.field_watch import FieldWatch
from coordinator.promotion import rate
from coordinator.registry.registry import Registry
from coordinator.registry.versions import Evaluation
from coordinator.rounds import Rounds
from shared.messages import FieldResult


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
            "promoted": {"version": promoted, "why": decision.reason, "field": self._field_results(promoted)},
            "field": {"now": self._field.sentence},
            "newest": self._registry.newest(),
            "rounds": self._config.aggregation.rounds,
            "normalisation": self._desk.normalisation,
            "aggregation": {
                "now": self._rounds.outlook(),
                "waiting": len(self._registry.waiting()),
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
            evaluation = self._registry.versions.evaluation(row.number)
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
                    "evaluation": _evaluation(evaluation) if evaluation else None,
                    "field": self._field_results(row.number),
                }
            )
        return answer

    def _field_results(self, version: int) -> list[dict[str, Any]]:
        """By task, of all stations together: labelled rollouts, interventions where counted, unsafe arms."""
        told: dict[str, list[FieldResult]] = {}
        for results in self._registry.field.of_version(version).values():
            for result in results:
                told.setdefault(result.task, []).append(result)
        return [_together(task, results) for task, results in sorted(told.items())]


def _evaluation(evaluation: Evaluation) -> dict[str, Any]:
    def counts(results: dict[str, list[int]]) -> dict[str, dict[str, float]]:
        return {
            task: {"successes": sum(outcomes), "rollouts": len(outcomes), "rate": rate(outcomes)}
            for task, outcomes in results.items()
        }

    return {
        "known": counts(evaluation.known),
        "unseen": counts(evaluation.unseen),
        "seconds": evaluation.seconds,
        "finished": evaluation.finished.isoformat(),
    }


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
