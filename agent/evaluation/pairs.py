"""Two versions compared in pairs of rollouts: in which order they run, and what the labels say. Pure."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from shared.comparison import Decision, Pair, compare


@dataclass(frozen=True)
class Result:
    """A rollout that has its label."""

    rollout: str
    version: int
    """Index in the series' versions; of two, 0 is the one that is to be better."""
    success: bool


def draw_order(pairs: int, seed: int) -> tuple[int, ...]:
    """Which of two versions runs first in each pair, by lot: (2 * pairs,) of 0 and 1."""
    lots = random.Random(seed)
    return tuple(version for _ in range(pairs) for version in lots.choice([(0, 1), (1, 0)]))


def pairs_of(task: str, results: Sequence[Result]) -> list[Pair]:
    """The complete pairs of a series, in order; version 0 stands where promotion has the candidate."""
    both = zip(results[::2], results[1::2], strict=False)
    by_version = ({one.version: one.success, other.version: other.success} for one, other in both)
    return [Pair(task, candidate=int(won[0]), promoted=int(won[1])) for won in by_version]


def decision(task: str, results: Sequence[Result]) -> Decision:
    """What the pairs so far say, by the test that promotes versions (`shared.comparison`). With a single task
    its rule on tasks that fall is idle."""
    return compare(pairs_of(task, results), [task], max_task_loss=1.0)
