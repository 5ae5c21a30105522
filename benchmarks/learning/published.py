"""What docs/learning/ keeps of results, and its tables and plots are made from:

results.json    arm -> seed -> task -> successes, rollouts, and a 1 or 0 per scene
courses.json    arm -> seed -> everything else: commit, rounds, versions along the way
plans.json      arm -> stations, recipe, rule, scenes: what it is the result of
"""

import json
from pathlib import Path
from typing import Any

from benchmarks.learning.results import Result, Results, by_arm
from shared.files import write_atomic

OUTCOMES, COURSES, PLANS = "results.json", "courses.json", "plans.json"


def publish(results: Results, docs: Path) -> None:
    """Replace the three files."""
    outcomes = {
        arm: {result.seed: {task: _counts(row) for task, row in result.outcomes.items()} for result in of_arm}
        for arm, of_arm in results.items()
    }
    courses = {
        arm: {r.seed: r.model_dump(mode="json", exclude={"outcomes", "plan"}) for r in of_arm}
        for arm, of_arm in results.items()
    }
    docs.mkdir(parents=True, exist_ok=True)
    _write(docs / OUTCOMES, outcomes)
    _write(docs / COURSES, courses)
    _write(docs / PLANS, {arm: of_arm[0].plan for arm, of_arm in results.items()})


def read_published(docs: Path) -> Results:
    """What `publish` wrote; nothing where it wrote nothing yet."""
    if not (docs / PLANS).exists():
        return {}
    outcomes, courses, plans = (json.loads((docs / name).read_text()) for name in (OUTCOMES, COURSES, PLANS))
    return by_arm(
        Result(
            **fields,
            plan=plans[arm],
            outcomes={task: part["outcomes"] for task, part in outcomes[arm][seed].items()},
        )
        for arm, seeds in courses.items()
        for seed, fields in seeds.items()
    )


def merged(published: Results, new: Results) -> Results:
    """Both; of the same arm and seed the new one. What was published of an arm by another plan than the new
    one's is left out: two plans must not end in one table."""
    plans = {arm: of_arm[0].plan for arm, of_arm in new.items()}
    run = {(result.arm, result.seed) for of_arm in new.values() for result in of_arm}
    kept = [
        result
        for arm, of_arm in published.items()
        for result in of_arm
        if (arm, result.seed) not in run and plans.get(arm, result.plan) == result.plan
    ]
    return by_arm([*kept, *(result for of_arm in new.values() for result in of_arm)])


def _write(path: Path, content: dict[str, Any]) -> None:
    write_atomic(path, json.dumps(content, indent=1, sort_keys=True) + "\n")


def _counts(outcomes: str) -> dict[str, int | str]:
    return {"successes": outcomes.count("1"), "rollouts": len(outcomes), "outcomes": outcomes}
