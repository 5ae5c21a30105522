"""What an arm gave with one training seed: one JSON file each, whole or absent."""

import json
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from benchmarks.learning.plan import (
    CHECK_IN_S,
    DELAY_TICKS,
    FIRST_DEMONSTRATION,
    FIRST_SCENE,
    STEP_S,
    Arm,
    Scale,
)
from shared.errors import ArmfleetError
from shared.files import sha256, write_atomic

FORMAT = 1
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

    plan: The arm and the scale that this is the result of (`plan_of`). updates: per station, those that
    versions contain. seconds: simulated. bytes_sent: encoded deltas, all stations. left: updates
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
    return {
        "arm": json.loads(arm.model_dump_json()),  # as a file gives it back: JSON has no infinity
        "scale": scale.model_dump(mode="json"),
        "first_scene": FIRST_SCENE,
        "first_demonstration": FIRST_DEMONSTRATION,
        "delay_ticks": DELAY_TICKS,
        "step_s": STEP_S,
        "check_in_s": CHECK_IN_S,
    }


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


def read_results(folder: Path, arms: Sequence[Arm], scale: Scale) -> Results:
    """The results of `arms` below a run's folder, whatever their seeds.

    Args:
        arms: Within the limits of `scale`.

    Raises:
        ArmfleetError: as `is_done`.
    """
    found = []
    for arm in arms:
        for path in (folder / "results").glob(f"{arm.name}-*.json"):
            seed = path.stem.removeprefix(f"{arm.name}-")
            if seed.isdecimal() and is_done(folder, arm, int(seed), scale):
                found.append(Result.model_validate_json(path.read_bytes()))
    return by_arm(found)


def by_arm(results: Iterable[Result]) -> Results:
    """Sorted by arm and seed."""
    found: Results = {}
    for result in sorted(results, key=lambda each: (each.arm, each.seed)):
        found.setdefault(result.arm, []).append(result)
    return found


def commit_of(root: Path) -> str:
    """The checkout's commit. Where tracked files other than docs/, which results are written to, differ from
    it, "-dirty-" and a digest of the difference follow; "unknown" without git."""
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "diff", "HEAD", "--", ".", ":!docs")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return f"{commit}-dirty-{sha256(changed.encode())[:8]}" if changed else commit


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
