"""What success on tasks that nobody was taught says of a version (docs/evaluation.md). Pure.

The score is the mean success on unseen tasks divided by that on the known ones. Its interval puts together
the Wilson intervals of the tasks, taken as independent, by the method of variance estimates recovery: first
into one of each mean (Zou & Donner, Stat. Med. 27, 2008), then into that of their ratio (Donner & Zou, Stat.
Methods Med. Res. 21, 2012). A task that always or never succeeded is not taken for certain by it, as it would
be if scenes were drawn again.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from coordinator.promotion import Results, rate
from shared.metrics import wilson

type Kind = Literal["known", "unseen combination", "unseen"]


@dataclass(frozen=True)
class Score:
    """The score, 0 or more, and its 95 % interval."""

    score: float
    low: float
    high: float


def generalisation(known: Results, unseen: Results) -> Score | None:
    """Mean success on unseen tasks over that on known ones; each task counts the same.

    Returns:
        None where there is nothing to divide: no rollouts of one of the two, or no success on known tasks.
    """
    if not any(known.values()) or not any(unseen.values()):
        return None
    (top, top_low, top_high), (bottom, bottom_low, bottom_high) = _mean(unseen), _mean(known)
    if bottom == 0:
        return None
    product = top * bottom
    by_least, by_most = bottom_low * (2 * bottom - bottom_low), bottom_high * (2 * bottom - bottom_high)
    least, most = top_low * (2 * top - top_low), top_high * (2 * top - top_high)
    # The lower limit in its rationalised form: `by_most` may be 0 or less.
    low = least / (product + _root(product**2 - least * by_most)) if product else 0.0
    high = (product + _root(product**2 - most * by_least)) / by_least
    return Score(top / bottom, low, high)


def kind(task: str, known: Collection[str]) -> Kind:
    """Whether a task is new, or only its pair of verb and colour; names as in results, `<verb>_<colour>`."""
    if task in known:
        return "known"
    verb, _, color = task.rpartition("_")
    verbs, colors = ({name.rpartition("_")[part] for name in known} for part in (0, 2))
    return "unseen combination" if verb in verbs and color in colors else "unseen"


def _mean(results: Results) -> tuple[float, float, float]:
    """Mean rate of the tasks that were tried, and its interval."""
    tried = [outcomes for outcomes in results.values() if outcomes]
    mean, below, above = 0.0, 0.0, 0.0
    for outcomes in tried:
        low, high = wilson(sum(outcomes), len(outcomes))
        mean += rate(outcomes) / len(tried)
        below += (rate(outcomes) - low) ** 2
        above += (high - rate(outcomes)) ** 2
    return mean, max(0.0, mean - math.sqrt(below) / len(tried)), mean + math.sqrt(above) / len(tried)


def _root(square: float) -> float:
    return math.sqrt(max(0.0, square))  # rounding may leave it below 0
