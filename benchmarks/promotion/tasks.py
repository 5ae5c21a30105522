"""What `[promotion] max_task_loss` does to the comparison, simulated with `shared.comparison.compare` itself.

The limit reads the rates of each task as they came out, so it stops candidates that lost nothing (power) and
lets some through that did. The exact values of `bench_promotion` leave it out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from benchmarks.promotion.fixed_size import CANDIDATE, PROMOTED
from coordinator.config import PromotionSection
from shared.comparison import MAX_PAIRS, Pair, compare, draw_tasks

SIMULATIONS = 2500
"""Comparisons per row: a share is then right within 2 points, 19 times of 20."""
LOST_TASK = ((0.95, 0.95, 0.95, 0.4), (0.5, 0.5, 0.5, 0.6))
"""True success of candidate and promoted version: one of four tasks loses 20 points, the others win 45."""


@dataclass(frozen=True)
class Shares:
    """Of all comparisons: promoted, and turned down for a task although better on the mean."""

    promoted: float
    turned_down: float


def shares(candidate: Sequence[float], promoted: Sequence[float], seed: int) -> Shares:
    """Independent rollouts with these true rates per task, judged as shipped."""
    rng, tasks = np.random.default_rng(seed), [f"task {number}" for number in range(len(candidate))]
    limit = PromotionSection().max_task_loss
    states = []
    for lots in rng.integers(2**32, size=SIMULATIONS):
        drawn = draw_tasks(tasks, MAX_PAIRS, int(lots))
        at = [tasks.index(task) for task in drawn]
        ours, theirs = (rng.random(MAX_PAIRS) < np.array(rates)[at] for rates in (candidate, promoted))
        pairs = [Pair(*each) for each in zip(drawn, ours.astype(int), theirs.astype(int), strict=True)]
        decision = compare(pairs, tasks, limit)
        states.append((decision.state == "better", "better on the mean, but" in decision.reason))
    better, fell = np.mean(states, axis=0)
    return Shares(float(better), float(fell))


def figures(seed: int) -> tuple[dict[str, float], Table]:
    """The two figures, and a row for each case."""
    shown = Table("tasks", "candidate", "promoted version", "promoted", "turned down for a task")
    rows = [((CANDIDATE,) * tasks, (PROMOTED,) * tasks) for tasks in (1, 3, 4)]
    found = []
    for candidate, promoted in (*rows, LOST_TASK):
        found.append(shares(candidate, promoted, seed))
        ours, theirs = (" ".join(f"{rate:.0%}" for rate in rates) for rates in (candidate, promoted))
        row = (ours, theirs, f"{found[-1].promoted:.1%}", f"{found[-1].turned_down:.1%}")
        shown.add_row(str(len(candidate)), *row)
    names = ("power_four_tasks", "promoted_with_a_lost_task")
    return dict(zip(names, (round(each.promoted, 4) for each in found[-2:]), strict=True)), shown
