"""Which version the robots run: decided by success on the known tasks, never by loss. Pure.

A candidate and the promoted version are judged on the same scenes. The candidate is promoted when its mean
success over the known tasks is higher and no task lost more than the margin; a tie changes nothing on a
robot.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

type Results = Mapping[str, Sequence[int]]
"""Task: 1 for each rollout that succeeded, 0 for each that did not."""


@dataclass(frozen=True)
class Verdict:
    """What becomes of a candidate, and why, as a sentence."""

    state: Literal["promoted", "rejected"]
    reason: str


def rate(outcomes: Sequence[int]) -> float:
    """Share of successes; 0 for no rollouts."""
    return sum(outcomes) / len(outcomes) if outcomes else 0.0


def mean_rate(results: Results) -> float:
    """Mean of the tasks' success rates: each task counts the same."""
    return sum(rate(outcomes) for outcomes in results.values()) / len(results) if results else 0.0


def judge(candidate: Results, promoted: Results, max_task_loss: float) -> Verdict:
    """Compare a candidate with the promoted version.

    Args:
        candidate: Its results on the known tasks.
        promoted: The promoted version's, on the same tasks and scenes.
        max_task_loss: Largest drop of one task's success rate that is tolerated, in [0, 1].

    Raises:
        ValueError: the two were not evaluated on the same tasks with the same number of rollouts.
    """
    sizes = {task: len(outcomes) for task, outcomes in candidate.items()}
    if sizes != {task: len(outcomes) for task, outcomes in promoted.items()} or not sizes:
        raise ValueError("candidate and promoted version were evaluated on different tasks")
    lost = {task: rate(promoted[task]) - rate(candidate[task]) for task in sizes}
    worst = max(sorted(lost), key=lambda task: lost[task])
    if lost[worst] > max_task_loss + 1e-9:
        return Verdict(
            "rejected", f"{worst} fell by {lost[worst]:.0%} (at most {max_task_loss:.0%} may be lost)"
        )
    before, after = mean_rate(promoted), mean_rate(candidate)
    if after <= before + 1e-9:
        return Verdict(
            "rejected", f"mean success {after:.0%} is not above the promoted version's {before:.0%}"
        )
    return Verdict("promoted", f"mean success rose from {before:.0%} to {after:.0%}")
