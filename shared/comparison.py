"""Is a candidate better than the promoted version? A sequential test on pairs of rollouts. Pure.

A pair is one rollout of each on the same scene. Before every pair a lot decides which task it is of
(`draw_tasks`), so the candidate's expected lead in a pair is the mean over the tasks of its gain, whatever
differs between the tasks. The hypothesis to refute is that this mean gain is not above 0. With tasks in turn
the pairs of one task that rose could promote before those of one that fell are seen.

The candidate starts with a capital of `START` thousandths. Before each pair a stake, fixed by the capital
alone, is put on it; it is won if only the candidate succeeds, lost if only the promoted version does, and
stays if both end alike. A capital of 1 shows that the candidate is better; with nothing left it was not
shown. While the hypothesis holds no bet has a positive expectation, so the capital is a supermartingale and
reaches 1 with a probability of at most what it started from: 5 %, however often one looks, whatever the
rates of success, and however the two rollouts of a pair depend on each other (Ville 1939; for betting
against bounded means Waudby-Smith & Ramdas, arXiv 2010.09686).

The stakes are those of Wald's sequential probability ratio test (Ann. Math. Stat. 16, 1945) between even
odds and 8 : 3 among the pairs that ended differently, but never more than is there or is missing. So no bet
overshoots, and nothing of the 5 % is given away. This is near-optimal stopping as in STEP (arXiv 2503.10966),
without a table that has to be computed, and for paired rollouts and several tasks.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

WHOLE = 1000
"""Capital is counted in integers, thousandths of what promotes: the same on every machine."""
START = 50
"""In thousandths: the bound on the rate of false promotion, 5 %."""
EDGE = (5, 11)
"""Share of capital and reserve that is staked: the growth-optimal bet (Kelly 1956), P(won) - P(lost) among
the pairs that end differently; at 80 % against 60 % success, independent, these are 0.8 x 0.4 to 0.2 x 0.6,
so 8 to 3."""
RESERVE = 15
"""In thousandths, added to the capital for the stake: what a Wald test has left when it gives up, so more of
it gives up sooner. 15 is the most that keeps a power of 0.8 at 80 % against 60 %. Wald's approximation comes
near: B / (A - B) with A = (1 - beta) / alpha and B = beta / (1 - alpha) is 0.013 for alpha 0.05, beta 0.2."""
MAX_PAIRS = 150
"""Horizon. At 80 % against 60 % one comparison in a hundred gets there."""
ERROR = 0.05
"""Each bound that a report gives is wrong with at most this probability, whenever the comparison stopped."""

type State = Literal["better", "not_shown", "undecided"]


@dataclass(frozen=True)
class Pair:
    """One rollout of each version on the same scene: 1 success, 0 failure."""

    task: str
    candidate: int
    promoted: int

    @property
    def lead(self) -> int:
        """1: only the candidate succeeded; -1: only the promoted version did; 0: they ended alike."""
        return self.candidate - self.promoted


@dataclass(frozen=True)
class Decision:
    """What the pairs so far say.

    Attributes:
        state: `undecided` asks for another pair.
        reason: A sentence.
        pairs: How many were used; those after the stop are not looked at.
        unknown: What the pairs can't tell, as a sentence.
    """

    state: State
    reason: str
    pairs: int
    unknown: str


def draw_tasks(tasks: Sequence[str], count: int, seed: int) -> list[str]:
    """The task of each pair, by lot, with a new seed for each comparison: the bound is over the lots too."""
    return random.Random(seed).choices(tasks, k=count)


def stake(capital: int) -> int:
    """What is bet on the candidate in the next pair, in thousandths; 0 at both ends."""
    numerator, denominator = EDGE
    return min(numerator * (capital + RESERVE) // denominator, capital, WHOLE - capital)


def compare(
    pairs: Sequence[Pair], tasks: Sequence[str], max_task_loss: float, max_pairs: int = MAX_PAIRS
) -> Decision:
    """Judge a candidate by the pairs so far, in the order in which they were drawn.

    A candidate that is better on the mean is still not shown to be good for everybody when, at the stop, the
    success rate of one task is lower by more than `max_task_loss`; while a task was not tried at all, pairs
    go on.

    Args:
        pairs: With tasks drawn by lot.
        tasks: The known tasks.
        max_task_loss: Largest drop of one task's success rate that is tolerated, in [0, 1].
        max_pairs: A candidate that was not shown to be better by then is not.
    """
    capital, untried = START, set(tasks)
    for used, pair in enumerate(pairs[:max_pairs], 1):
        capital += stake(capital) * pair.lead
        untried.discard(pair.task)
        if capital == 0:
            return _decision("not_shown", "it led too seldom", pairs[:used])
        if capital == WHOLE and not untried:
            return _better(pairs[:used], max_task_loss)
    missing = f"{', '.join(sorted(untried))} not tried" if capital == WHOLE else "too little evidence"
    if len(pairs) < max_pairs:
        return _decision("undecided", f"{missing} yet", pairs)
    return _decision("not_shown", f"{missing} within {max_pairs} pairs", pairs[:max_pairs])


def _better(pairs: Sequence[Pair], max_task_loss: float) -> Decision:
    losses = {task: -sum(leads) / len(leads) for task, leads in _leads_by_task(pairs).items()}
    worst = max(losses, key=lambda task: losses[task])
    if losses[worst] > max_task_loss + 1e-9:
        fell = f"{worst} fell by {losses[worst]:.0%} (at most {max_task_loss:.0%} may be lost)"
        return _decision("not_shown", f"better on the mean, but {fell}", pairs)
    return _decision("better", "better on the mean of the tasks", pairs)


def _decision(state: State, reason: str, pairs: Sequence[Pair]) -> Decision:
    leads = [pair.lead for pair in pairs]
    won, lost = leads.count(1), leads.count(-1)
    said = f"of {len(leads)} pairs only the candidate succeeded in {won}, only the promoted version in {lost}"
    return Decision(state, f"{reason}: {said}", len(leads), _unknown(state, pairs))


def _unknown(state: State, pairs: Sequence[Pair]) -> str:
    leads = [pair.lead for pair in pairs]
    low, high = -upper_bound([-lead for lead in leads]), upper_bound(leads)
    low = max(low, 0.0) if state == "better" else low
    worst_cases = "".join(
        f", that of {task} by {-upper_bound([-lead for lead in leads]):+.0%} or more"
        for task, leads in _leads_by_task(pairs).items()
    )
    return (
        f"its mean success may have changed by anything from {low:+.0%} to {high:+.0%}{worst_cases} "
        f"(each bound holds with {1 - ERROR:.0%})"
    )


def _leads_by_task(pairs: Sequence[Pair]) -> dict[str, list[int]]:
    tasks = sorted({pair.task for pair in pairs})
    return {task: [pair.lead for pair in pairs if pair.task == task] for task in tasks}


def upper_bound(leads: Sequence[int]) -> float:
    """Smallest mean lead, in steps of 0.01, that the leads (-1, 0 or 1) refute, or 1; valid at any stop.

    A mean m is refuted when bets that the leads lie below it have won 1 / ERROR: the mean over f of the
    products of 1 + f (m - lead) / (1 - m), a martingale if m is right (arXiv 2010.09686, section 4).
    """
    lost, tied, won = (sum(lead == outcome for lead in leads) for outcome in (-1, 0, 1))
    means = np.arange(-99, 100)[:, None] / 100
    shares = np.arange(1, 20)[None, :] / 20
    growth = (
        lost * np.log1p(shares * (means + 1) / (1 - means))
        + tied * np.log1p(shares * means / (1 - means))
        + won * np.log1p(-shares)
    )
    refuted = np.exp(growth).mean(axis=1) >= 1 / ERROR
    return float(means[refuted, 0].min(initial=1.0))
