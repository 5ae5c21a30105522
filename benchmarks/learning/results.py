"""What an arm gave with one training seed: one JSON file each, whole or absent."""

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from benchmarks.learning.plan import FIRST_SCENE, Arm, Scale
from shared.errors import ArmfleetError
from shared.files import write_atomic

FORMAT = 1
OUTCOMES, COURSES = "results.json", "courses.json"
Outcomes = dict[str, str]
"""Task ("push_left_red") to a 1 (success) or 0 per scene, from the plan's first scene on."""


class Point(BaseModel):
    """A version along the way, on fewer scenes.

    at: simulated seconds; steps: gradient steps that went into it.
    """

    model_config = ConfigDict(extra="forbid")

    version: int
    at: float
    steps: int
    outcomes: Outcomes


class Result(BaseModel):
    """An arm's last version and how it came to be.

    plan: The arm and the scale that this is the result of; empty in what is published. updates: per station,
    those that versions contain. seconds: simulated. bytes_sent: encoded deltas, all stations. left: updates
    that no version took. weights: per station, the sum of its updates' weights.
    """

    model_config = ConfigDict(extra="forbid")

    format: int = FORMAT
    arm: str
    mode: str
    seed: int
    commit: str
    plan: dict[str, Any] = {}
    first_scene: int
    outcomes: Outcomes
    curve: list[Point]
    versions: int
    steps: int
    seconds: float
    updates: dict[str, int]
    weights: dict[str, float]
    staleness: dict[int, int]
    bytes_sent: int
    left: int


Results = dict[str, list[Result]]
"""Arm to its results, one per training seed, ascending."""


def plan_of(arm: Arm, scale: Scale) -> dict[str, Any]:
    """What a result depends on, besides the seed and the code."""
    # As a file gives it back: JSON has no infinity.
    settings = json.loads(arm.model_dump_json())
    # Younger than the first results.
    if not arm.aggregation.remember_versions:
        del settings["aggregation"]["remember_versions"]
    if not arm.add_residual:
        del settings["add_residual"]
    return {"arm": settings, "scale": scale.model_dump(mode="json"), "first_scene": FIRST_SCENE}


def path_of(folder: Path, arm: str, seed: int) -> Path:
    """Where a result is kept below the run's folder."""
    return folder / "results" / f"{arm}-{seed}.json"


def is_done(folder: Path, arm: Arm, seed: int, scale: Scale) -> bool:
    """Whether the result is there.

    Raises:
        ArmfleetError: there is one of another plan: two plans must not end in one table.
    """
    path = path_of(folder, arm.name, seed)
    if not path.exists():
        return False
    if Result.model_validate_json(path.read_bytes()).plan != plan_of(arm, scale):
        raise ArmfleetError(
            f"{path} is the result of another plan",
            kept="the file",
            do="choose another --folder, or remove the file to run this arm again",
        )
    return True


def write_result(folder: Path, result: Result) -> None:
    """Replace the result of its arm and seed."""
    path = path_of(folder, result.arm, result.seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, result.model_dump_json(indent=1) + "\n")


def read_results(folder: Path) -> Results:
    """All results below a run's folder."""
    paths = sorted((folder / "results").glob("[!.]*.json"))
    return _by_arm(Result.model_validate_json(path.read_bytes()) for path in paths)


def publish(results: Results, docs: Path) -> None:
    """Write what tables and plots are made from: results.json, arm -> seed -> task -> {successes, rollouts,
    outcomes}, and courses.json, arm -> seed -> everything else."""
    outcomes = {
        arm: {result.seed: {task: _counts(row) for task, row in result.outcomes.items()} for result in of_arm}
        for arm, of_arm in results.items()
    }
    courses = {
        arm: {r.seed: r.model_dump(mode="json", exclude={"outcomes", "plan"}) for r in of_arm}
        for arm, of_arm in results.items()
    }
    docs.mkdir(parents=True, exist_ok=True)
    write_atomic(docs / OUTCOMES, json.dumps(outcomes, indent=1, sort_keys=True) + "\n")
    write_atomic(docs / COURSES, json.dumps(courses, indent=1, sort_keys=True) + "\n")


def read_published(docs: Path) -> Results:
    """What `publish` wrote."""
    outcomes = json.loads((docs / OUTCOMES).read_text())
    courses = json.loads((docs / COURSES).read_text())
    return _by_arm(
        Result(**fields, outcomes={task: part["outcomes"] for task, part in outcomes[arm][seed].items()})
        for arm, seeds in courses.items()
        for seed, fields in seeds.items()
    )


def _by_arm(results: Iterable[Result]) -> Results:
    found: Results = {}
    for result in sorted(results, key=lambda each: (each.arm, each.seed)):
        found.setdefault(result.arm, []).append(result)
    return found


def _counts(outcomes: str) -> dict[str, int | str]:
    return {"successes": outcomes.count("1"), "rollouts": len(outcomes), "outcomes": outcomes}


def commit_of(root: Path) -> str:
    """The checkout's commit; ends in "-dirty" where tracked files other than docs/, which results are written
    to, differ from it; "unknown" without git."""
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return f"{commit}-dirty" if changed else commit


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
