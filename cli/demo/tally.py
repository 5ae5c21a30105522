"""Results of the rollouts on the arms, and whether the demo's targets are met. Pure."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Literal

from cli.demo.plan import Plan
from shared.metrics import wilson

When = Literal["before", "after"]


@dataclass
class Cell:
    """Rollouts of one task at one station."""

    before: list[bool] = field(default_factory=list)
    after: list[bool] = field(default_factory=list)


class Tally:
    """Task x station; appending from several threads is safe."""

    def __init__(self) -> None:
        self.cells: dict[str, dict[str, Cell]] = defaultdict(lambda: defaultdict(Cell))

    def add(self, task: str, station: str, when: When, success: bool) -> None:
        """One more rollout."""
        getattr(self.cells[task][station], when).append(success)

    def pooled(self, task: str, when: When) -> list[bool]:
        """All stations' rollouts of a task."""
        return [result for cell in self.cells[task].values() for result in getattr(cell, when)]

    def to_json(self) -> dict[str, Any]:
        """`tasks` of demo-report.json."""
        return {
            task: {
                station: {when: _count(getattr(cell, when)) for when in ("before", "after")}
                for station, cell in sorted(stations.items())
            }
            for task, stations in self.cells.items()
        }

    def misses(self, plan: Plan) -> list[str]:
        """A sentence for each target that was missed."""
        found = []
        for task in (each.key for each in plan.tasks):
            for station in (each.name for each in plan.stations):
                cell = self.cells[task][station]
                found += _too_few(f"{task} at {station}", cell, plan)
                if rate(cell.before) > plan.max_before:
                    found.append(
                        f"{task} at {station} succeeded before training in {described(cell.before)}, "
                        f"more than {plan.max_before:.0%}"
                    )
                if rate(cell.after) < plan.min_cell:
                    found.append(f"{task} at {station}: {described(cell.after)}, below {plan.min_cell:.0%}")
            after = self.pooled(task, "after")
            if rate(after) < plan.min_pooled:
                found.append(f"{task} over all stations: {described(after)}, below {plan.min_pooled:.0%}")
        return found


def rate(results: list[bool]) -> float:
    """Share of successes; 0 of none."""
    return sum(results) / len(results) if results else 0.0


def described(results: list[bool]) -> str:
    """ "14/20 70 % [48-85]", with the Wilson 95 % interval."""
    if not results:
        return "-"
    low, high = wilson(sum(results), len(results))
    return f"{sum(results)}/{len(results)} {rate(results):.0%} [{low * 100:.0f}-{high * 100:.0f}]"


def _count(results: list[bool]) -> dict[str, int]:
    return {"successes": sum(results), "rollouts": len(results)}


def _too_few(where: str, cell: Cell, plan: Plan) -> list[str]:
    missing = []
    for name, results, wanted in (("before", cell.before, plan.before), ("after", cell.after, plan.after)):
        if len(results) < wanted:
            missing.append(f"{where}: only {len(results)} of {wanted} rollouts {name}")
    return missing
