"""How often the comparison of `shared.comparison` promotes, and how many rollouts it takes.

    make bench-promotion       # SEED=n for other simulated comparisons

The rates are computed exactly, by following the distribution of the capital from pair to pair; simulated
comparisons must agree with them. Rollouts at 80 % against 60 % success, independent, are compared with exact
tests of a fixed size that have a power of 0.8 there (`benchmarks.promotion.fixed_size`):

    rollout_ratio             against the exact test for pairs, McNemar's
    rollout_ratio_smallest    against the one that needs the fewest; no sequential test for dependent pairs
                              gets below `least_possible_ratio` of that (Wald 1945)
    share_of_rollouts_run     what the evaluation in simulation runs of a candidate's `[evaluation] rollouts`

What happens to promoted versions on the arms, within 200 rollouts (`benchmarks.promotion.field_rollouts`):

    field_rollouts_mean, _p90   until a version with 40 % success is rolled back, against one with 80 %
    field_power                 share of such versions that are rolled back
    field_false_rollback_rate   share rolled back of the versions that are as good as the one before

The rates above leave `[promotion] max_task_loss` out. With it, simulated by the shipped comparison
(`benchmarks.promotion.tasks`):

    power_four_tasks            share promoted of candidates with 80 % against 60 % in each of four tasks
    promoted_with_a_lost_task   of those that truly lose 20 points in one of four tasks, and win 45 elsewhere

Exits with 1 when a candidate that is not better is promoted, or a version that is no worse rolled back, with
more than 5 %, the power is below 0.8, the mean number of rollouts is above 60 % of McNemar's, or a simulation
disagrees.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.outcome import measured
from benchmarks.promotion import field_rollouts, tasks
from benchmarks.promotion.fixed_size import (
    ALPHA,
    CANDIDATE,
    LOST,
    POWER,
    PROMOTED,
    TESTS,
    WON,
    least_mean_pairs,
    pairs_needed,
)
from coordinator.evaluation.jobs import batch_of
from coordinator.promotion import draw_pairs
from shared.comparison import MAX_PAIRS, START, WHOLE, Pair, compare, stake

ROOT = Path(__file__).resolve().parents[1]
RATIO_TARGET = 0.6
SIMULATIONS = 50_000
"""Comparisons per row of the table."""
SCENES, EVALUATIONS = 60, 400
"""Rollouts per task, as `[evaluation] rollouts` has them by default; simulated evaluations for each share."""
AGREEMENT = 4.5
"""Standard errors between simulation and exact value: by chance once in some 100 000 times."""

type Rates = Sequence[float]
"""True rate of success per task."""


@dataclass(frozen=True)
class Outlook:
    """What becomes of a comparison: probability of `better` and the mean number of pairs."""

    better: float
    pairs: float


def outlook(won: float, lost: float, max_pairs: int = MAX_PAIRS) -> Outlook:
    """Exact, by dynamic programming over the capital.

    Args:
        won: Probability that only the candidate succeeds in a pair, its task drawn by lot.
        lost: That only the promoted version does.
    """
    capital = np.arange(WHOLE + 1)
    stakes = np.array([stake(int(held)) for held in capital])
    share, pairs = (capital == START).astype(float), 0.0
    for _ in range(max_pairs):
        pairs += share[1:WHOLE].sum()
        moved = np.bincount(capital + stakes, share * won, WHOLE + 1)
        moved += np.bincount(capital - stakes, share * lost, WHOLE + 1)
        share = moved + share * (1 - won - lost)
    return Outlook(float(share[WHOLE]), float(pairs))


def chances(candidate: Rates, promoted: Rates) -> tuple[float, float]:
    """(won, lost) of a pair of independent rollouts whose task is drawn by lot."""
    ours, theirs = np.array(candidate), np.array(promoted)
    return float((ours * (1 - theirs)).mean()), float(((1 - ours) * theirs).mean())


def simulate(candidate: Rates, promoted: Rates, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Play comparisons rollout by rollout; (better, pairs used) of each."""
    stakes = np.array([stake(held) for held in range(WHOLE + 1)])
    capital, pairs = np.full(SIMULATIONS, START), np.zeros(SIMULATIONS, dtype=int)
    for _ in range(MAX_PAIRS):
        pairs += (capital > 0) & (capital < WHOLE)
        task = rng.integers(len(candidate), size=SIMULATIONS)
        ours = rng.random(SIMULATIONS) < np.array(candidate)[task]
        theirs = rng.random(SIMULATIONS) < np.array(promoted)[task]
        capital += stakes[capital] * (ours.astype(int) - theirs)
    return capital == WHOLE, pairs


def agrees(sample: np.ndarray, exact: float) -> bool:
    """Is the sample's mean as near to the exact one as chance allows?"""
    return bool(abs(sample.mean() - exact) <= AGREEMENT * sample.std() / math.sqrt(len(sample)))


def worst_false_promotion() -> float:
    """Largest exact rate at which a candidate that is not better is promoted.

    Over the share of pairs that end differently (that is all that dependence within a pair and the rates
    leave open), with an equal and with a worse candidate.
    """
    shares = np.linspace(0.01, 1, 100)
    return max(outlook(share * part, share * (1 - part)).better for share in shares for part in (0.5, 0.45))


SCENARIOS: Sequence[tuple[Rates, Rates]] = [
    ((0.1,), (0.1,)),
    ((0.5,), (0.5,)),
    ((0.8,), (0.8,)),
    ((0.9, 0.6, 0.1), (0.3, 0.5, 0.8)),
    ((0.5,), (0.6,)),
    ((0.7,), (0.6,)),
    ((CANDIDATE,), (PROMOTED,)),
    ((0.9,), (0.6,)),
    ((0.3,), (0.1,)),
    ((0.5,), (0.1,)),
    ((0.9, 0.8, 0.7), (0.7, 0.6, 0.5)),
    ((0.9, 0.6, 0.6), (0.3, 0.6, 0.6)),
]
"""True success of candidate and promoted version: equal (on the mean), worse, better."""


def simulations(seed: int) -> tuple[bool, Table]:
    """Exact values and, in brackets, simulated ones of each scenario, and whether they agree everywhere."""
    rng, agreed = np.random.default_rng(seed), True
    shown = Table("candidate", "promoted version", "better on the mean", "mean pairs")
    for candidate, promoted in track(SCENARIOS, "simulating"):
        exact = outlook(*chances(candidate, promoted))
        better, pairs = simulate(candidate, promoted, rng)
        agreed = agreed and agrees(better, exact.better) and agrees(pairs, exact.pairs)
        ours, theirs = (" ".join(f"{rate:.0%}" for rate in rates) for rates in (candidate, promoted))
        shown.add_row(
            ours,
            theirs,
            f"{exact.better:.1%} ({better.mean():.1%})",
            f"{exact.pairs:.1f} ({pairs.mean():.1f})",
        )
    return agreed, shown


def horizons() -> Table:
    """What a smaller number of pairs costs."""
    shown = Table("most pairs", "power at 80% against 60%", "at 60% against 30%", "mean pairs")
    for most in (20, 40, 60, 100, MAX_PAIRS):
        hard, easy = outlook(WON, LOST, most), outlook(*chances((0.6,), (0.3,)), most)
        shown.add_row(str(most), f"{hard.better:.0%}", f"{easy.better:.0%}", f"{hard.pairs:.1f}")
    return shown


EVALUATED = ((0.5, 0.6), (0.6, 0.6), (CANDIDATE, PROMOTED), (0.9, 0.6))
"""True success of candidate and promoted version: worse, equal, better, much better."""


def rollouts_run(candidate: float, promoted: float, rng: np.random.Generator) -> float:
    """Mean share of a candidate's rollouts that the evaluation runs before it is decided, in batches.

    With three tasks of `SCENES` scenes each, and the same rate of success in all of them.
    """
    names, shares = ["a", "b", "c"], []
    for seed in range(EVALUATIONS):
        order = draw_pairs(names, SCENES, seed)
        outcomes = rng.random((len(order), 2)) < (candidate, promoted)
        pairs = [Pair(draw.task, *map(int, row)) for draw, row in zip(order, outcomes, strict=True)]
        used = order[: compare(pairs, names, max_task_loss=1.0, max_pairs=len(order)).pairs]
        last = {draw.task: draw.scene for draw in used}
        shares.append(sum(batch_of(scene, SCENES).stop for scene in last.values()) / (len(names) * SCENES))
    return float(np.mean(shares))


def measure(seed: int) -> tuple[bool, dict[str, Any]]:
    """Whether the targets are met, and the figures."""
    agreed, shown = simulations(seed)
    sizes = {name: pairs_needed(power) for name, power in track(TESTS.items(), "fixed-size tests")}
    fewest, found = min(sizes.values()), outlook(WON, LOST)
    false_promotion, least = worst_false_promotion(), least_mean_pairs()
    ratio = found.pairs / sizes["mcnemar"]
    console = Console()
    console.print(shown, horizons())
    needed = ", ".join(f"{size} ({name})" for name, size in sizes.items())
    print(f"80% against 60%: {found.pairs:.1f} pairs on the mean; fixed-size tests need {needed}.")
    print(
        f"No test for dependent pairs with these error rates can use fewer than {least:.1f} on the mean, "
        f"{least / fewest:.0%} of {fewest}."
    )
    rng = np.random.default_rng(seed)
    run = {rates: rollouts_run(*rates, rng) for rates in track(EVALUATED, "evaluating")}
    for (candidate, promoted), share in run.items():
        print(f"{candidate:.0%} against {promoted:.0%}: {share:.0%} of a candidate's rollouts are run.")
    falls = field_rollouts.falls(seed)
    console.print(field_rollouts.table(falls))
    field = field_rollouts.figures(falls)
    limited, shown = tasks.figures(seed)
    console.print(shown)
    ok = agreed and false_promotion <= ALPHA and found.better >= POWER and ratio <= RATIO_TARGET
    ok = ok and field["field_false_rollback_rate"] <= ALPHA and field["field_power"] >= POWER
    figures: dict[str, Any] = {
        "false_promotion_rate": round(false_promotion, 6),
        "rollout_ratio": round(ratio, 4),
        "rollout_ratio_smallest": round(found.pairs / fewest, 4),
        "least_possible_ratio": round(least / fewest, 4),
        "power": round(found.better, 4),
        "mean_pairs": round(found.pairs, 2),
        "share_of_rollouts_run": round(run[CANDIDATE, PROMOTED], 4),
        **limited,
        "simulation_agrees": agreed,
        **field,
    }
    for name, size in sizes.items():
        figures[f"pairs_{name}"] = size
    return ok, figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, and returns the exit status; the last line is JSON."""
    parser = argparse.ArgumentParser(
        description="False promotions and roll-backs, power and rollouts of comparing versions."
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "bench-promotion.json", help="the result as JSON")
    options = parser.parse_args(arguments)
    return measured("bench-promotion", options.out, lambda: measure(options.seed))


if __name__ == "__main__":
    sys.exit(main())
