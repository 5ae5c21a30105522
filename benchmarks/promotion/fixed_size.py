"""Exact tests of a fixed size, for `bench_promotion`: does the candidate succeed more often than the promoted
version?

Each `*_power(pairs)` is the power at 80 % against 60 % success, independent, of the one-sided test at 5 %
with that many rollouts of each version. None uses an approximation in its error bound.
"""

import math
from collections.abc import Callable
from itertools import count

import numpy as np

ALPHA = 0.05
POWER = 0.8
CANDIDATE, PROMOTED = 0.8, 0.6
"""True rates of success at which tests are compared."""
WON, LOST = CANDIDATE * (1 - PROMOTED), (1 - CANDIDATE) * PROMOTED
"""Probabilities that only the candidate, only the promoted version succeeds, when they are independent."""
NUISANCE = np.linspace(0.01, 0.99, 99)
"""Values of what the hypothesis leaves open, over which a test's error is maximised."""

type Array = np.ndarray


def mcnemar_power(pairs: int) -> float:
    """Exact McNemar test: the sign test on the pairs that ended differently. Valid for dependent pairs."""
    won, lost = _splits(pairs)
    tails = [_upper_tails(total) for total in range(pairs + 1)]
    p_value = np.array([tails[w + v][w] for w, v in zip(won, lost, strict=True)])
    return float(_trinomial(pairs, WON, LOST)[p_value <= ALPHA].sum())


def unconditional_power(pairs: int) -> float:
    """Unconditional exact McNemar test (Suissa & Shuster, Biometrics 47, 1991). Valid for dependent pairs."""
    won, lost = _splits(pairs)
    score = (won - lost) / np.sqrt(np.maximum(won + lost, 1))
    nulls = np.array([_trinomial(pairs, share / 2, share / 2) for share in NUISANCE])
    return _power(score, nulls, _trinomial(pairs, WON, LOST))


def barnard_power(pairs: int) -> float:
    """Barnard's test by the pooled z score, for independent rollouts; arXiv 2503.10966 compares with it."""
    successes = np.arange(pairs + 1)
    ours, theirs = (axis.ravel() for axis in np.meshgrid(successes, successes, indexing="ij"))
    pooled = (ours + theirs) / (2 * pairs)
    score = (ours - theirs) / np.sqrt(np.maximum(pooled * (1 - pooled), 1e-12))
    nulls = np.array([np.outer(row, row).ravel() for row in (_binomial(pairs, rate) for rate in NUISANCE)])
    return _power(score, nulls, np.outer(_binomial(pairs, CANDIDATE), _binomial(pairs, PROMOTED)).ravel())


TESTS: dict[str, Callable[[int], float]] = {
    "mcnemar": mcnemar_power,
    "unconditional_mcnemar": unconditional_power,
    "barnard": barnard_power,
}


def pairs_needed(power: Callable[[int], float]) -> int:
    """Smallest number of pairs with a power of at least `POWER`; below 40 none of these tests has it."""
    return next(pairs for pairs in count(40) if power(pairs) >= POWER)


def least_mean_pairs() -> float:
    """No test for dependent pairs with these error rates uses fewer on the mean at 80 % against 60 %.

    Wald's bound (Ann. Math. Stat. 16, 1945): kl(power, alpha) over the divergence, per pair, from the nearest
    hypothesis, here a candidate and a promoted version that win equally often.
    """
    needed = POWER * math.log(POWER / ALPHA) + (1 - POWER) * math.log((1 - POWER) / (1 - ALPHA))
    even = (WON + LOST) / 2
    return needed / (WON * math.log(WON / even) + LOST * math.log(LOST / even))


def _power(score: Array, nulls: Array, alternative: Array) -> float:
    """Power of the largest region {score > c} that no null gives more than ALPHA.

    Args:
        score: Of each outcome.
        nulls: Probabilities, one row per value of `NUISANCE`.
        alternative: Probabilities at 80 % against 60 %.
    """
    order = np.argsort(-score, kind="stable")
    worst = np.cumsum(nulls[:, order], axis=1).max(axis=0)
    threshold = score[order[int((worst <= ALPHA).sum())]]
    return float(alternative[score > threshold + 1e-9].sum())


def _splits(pairs: int) -> tuple[Array, Array]:
    """All (won, lost) with won + lost <= pairs."""
    won, lost = np.indices((pairs + 1, pairs + 1))
    possible = won + lost <= pairs
    return won[possible], lost[possible]


def _trinomial(pairs: int, win: float, lose: float) -> Array:
    """Probability of each of `_splits(pairs)`."""
    won, lost = _splits(pairs)
    tied = pairs - won - lost
    log_factorial = np.array([math.lgamma(number + 1) for number in range(pairs + 1)])
    ways = log_factorial[pairs] - log_factorial[won] - log_factorial[lost] - log_factorial[tied]
    return np.exp(ways + won * math.log(win) + lost * math.log(lose) + tied * math.log(1 - win - lose))


def _binomial(size: int, rate: float) -> Array:
    return np.array([math.comb(size, k) * rate**k * (1 - rate) ** (size - k) for k in range(size + 1)])


def _upper_tails(size: int) -> Array:
    """P(at least k of `size` fair coins), k = 0 … size."""
    return np.cumsum(_binomial(size, 0.5)[::-1])[::-1]
