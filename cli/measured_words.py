"""What the coordinator measured of a version, in words."""

from collections.abc import Sequence
from typing import Any


def simulation_words(evaluation: dict[str, Any] | None) -> list[str]:
    """A line per task: rollouts that succeeded in simulation, with the Wilson 95 % interval, and what kind of
    task it is unless it is a known one; then the generalisation score, where there is one."""
    if evaluation is None:
        return []
    lines = []
    for task, counts in {**evaluation["known"], **evaluation["unseen"]}.items():
        low, high = counts["wilson"]
        kind = f" ({counts['kind']})" if "kind" in counts else ""
        lines.append(f"{task}: {counts['successes']}/{counts['rollouts']} [{low:.0%}-{high:.0%}]{kind}")
    if score := evaluation["generalisation"]:
        lines.append(f"generalisation: {score['score']:.2f} [{score['low']:.2f}-{score['high']:.2f}]")
    return lines


def station_words(means: Sequence[dict[str, Any]]) -> list[str]:
    """A line per task: loss and action error on stations' evaluation episodes, the mean over stations."""
    return [
        f"{mean['task']}: loss {mean['loss']:.4g}, action MSE {mean['action_mse']:.4g}, "
        f"{mean['stations']} station{'s' if mean['stations'] > 1 else ''}"
        for mean in means
    ]
