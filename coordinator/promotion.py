"""Which version the robots run: decided by success on the known tasks, never by loss. Pure.

A candidate and the promoted version are judged on the same scenes. Either rule wants a higher mean success
over the known tasks and no task that lost more than the margin; a tie changes nothing on a robot.
`judge_in_sequence` wants evidence for it (`comparison`), `judge_by_mean` takes the rates as they came out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

from shared.comparison import MAX_PAIRS, Pair, compare, draw_tasks

type Results = Mapping[str, Sequence[int]]
"""Task: 1 for each rollout that succeeded, 0 for each that did not; entry i is of the task's scene i."""


@dataclass(frozen=True)
class Verdict:
    """What becomes of a candidate, and why, as a sentence."""

    state: Literal["promoted", "rejected"]
    reason: str


@dataclass(frozen=True)
class Draw:
    """What a pair is of: a task, and the number of its scene, from 0."""

    task: str
    scene: int


def rate(outcomes: Sequence[int]) -> float:
    """Share of successes; 0 for no rollouts."""
    return sum(outcomes) / len(outcomes) if outcomes else 0.0


def mean_rate(results: Results) -> float:
    """Mean of the tasks' success rates: each task counts the same."""
    return sum(rate(outcomes) for outcomes in results.values()) / len(results) if results else 0.0


def judge_in_sequence(
    candidate: Results,
    promoted: Results,
    tasks: Sequence[str],
    scenes: int,
    max_task_loss: float,
    seed: int,
) -> Verdict | Draw:
    """Promote only what is shown to be better, with at most 5 % false promotions: `comparison.compare`.

    Args:
        candidate: Its results so far, from scene 0 on; later ones than the test reads change nothing.
        promoted: The promoted version's results so far, on the same scenes.
        tasks: The known tasks.
        scenes: How many scenes each task has.
        max_task_loss: Largest drop of one task's success rate that is tolerated, in [0, 1].
        seed: Of the lots that decide which task each pair is of; another one for each candidate.

    Returns:
        The verdict, or the first pair that both must have tried before there can be one.
    """
    order = draw_pairs(tasks, scenes, seed)
    results = {
        task: list(zip(candidate.get(task, ()), promoted.get(task, ()), strict=False)) for task in tasks
    }
    there = takewhile(lambda draw: draw.scene < len(results[draw.task]), order)
    pairs = [Pair(draw.task, *results[draw.task][draw.scene]) for draw in there]
    decision = compare(pairs, tasks, max_task_loss, max_pairs=len(order))
    if decision.state == "undecided":
        return order[len(pairs)]
    state: Literal["promoted", "rejected"] = "promoted" if decision.state == "better" else "rejected"
    return Verdict(state, f"{decision.reason}; {decision.unknown}")


def draw_pairs(tasks: Sequence[str], scenes: int, seed: int) -> list[Draw]:
    """Each pair is the next scene of a task drawn by lot, until a task is drawn that has none left."""
    used = dict.fromkeys(sorted(tasks), 0)
    order = []
    for task in draw_tasks(list(used), MAX_PAIRS, seed):
        if used[task] == scenes:
            break
        order.append(Draw(task, used[task]))
        used[task] += 1
    return order


def judge_by_mean(candidate: Results, promoted: Results, max_task_loss: float) -> Verdict:
    """Promote what came out higher. Of candidates that are no better, nearly half are promoted by luck.

    Args:
        candidate: Its results on the known tasks.
        promoted: The promoted version's, on the same tasks and scenes.
        max_task_loss: Largest drop of one task's success rate that is tolerated, in [0, 1].

    Raises:
        ValueError: the two were not evaluated on the same tasks with the same number of rollouts.
    """
    lost = {task: rate(promoted[task]) - rate(candidate[task]) for task in _tasks(candidate, promoted)}
    worst = max(lost, key=lambda task: lost[task])
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


def _tasks(candidate: Results, promoted: Results) -> list[str]:
    sizes = {task: len(outcomes) for task, outcomes in candidate.items()}
    if sizes != {task: len(outcomes) for task, outcomes in promoted.items()} or not sizes:
        raise ValueError("candidate and promoted version were evaluated on different tasks")
    return sorted(sizes)
