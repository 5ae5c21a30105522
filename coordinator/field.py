"""Does the promoted version do worse on the arms than its predecessor? The bets of `comparison`. Pure.

A pair is the i-th labelled rollout of the promoted version and the i-th of its predecessor, of one station
and task: the same table, and start scenes as the operator set them up. The hypothesis to refute is that the
promoted version is nowhere worse: that in no task of any station it is likelier that the predecessor alone
succeeds than that the promoted version alone does. The bets are on the predecessor, always with the share
`comparison.EDGE` of what is there: an account that began with 1 holds (16/11)^won (6/11)^lost.

Two things differ from the comparison before a promotion. Nobody draws lots, and reports come in any order:
what an account holds here does not depend on the order of its pairs, so that a new look is no new test. (The
stakes of `comparison.stake` do depend on it, by the reserve that lets a hopeless comparison give up.) And
nothing gives up: rollouts in the field are made anyway.

There is one account for all pairs, which finds what is a little worse everywhere, and one for each task of
each station, so that a version can fall by what it does at one of them alone. They begin with shares of 1:
all pairs with a half; the other half goes in equal parts to the stations, and there 1/2 to the task that the
predecessor tried first, 1/6 to the second, 1/12 and so on: 1 / (j (j + 1)) adds up to 1, however many come
later. While the hypothesis holds no bet has a positive expectation, whatever is rolled out next. So the sum
of the accounts reaches 1 / error with a probability of at most `error`, however often one looks (Ville 1939;
arXiv 2010.09686). Fewer than nine pairs never suffice at 5 %.

What this assumes: if the versions are alike, the two rollouts of a pair could as well have been each other's
(exchangeable). The predecessor's were made before, so a table that drifts breaks it: a camera that was
knocked, a worn gripper, harder start scenes make any later version look worse, and easier ones hide that it
is. So does an operator who labels only failures, or who changes labels knowing what the comparison says. And
the bound holds before either half of a pair is rolled out: against a predecessor whose first rollouts were
lucky more versions fall.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from shared.comparison import EDGE, Pair

type Labels = Mapping[str, Mapping[str, str]]
"""Station, task: its rollouts' labels in the order in which they ran, "1" success, "0" failure."""

SHARE_OF_ALL = 0.5
"""Of the account for all pairs."""


@dataclass(frozen=True)
class Finding:
    """What the rollouts in the field say of the promoted version.

    Attributes:
        worse: It is shown to do worse than its predecessor.
        reason: A sentence.
        pairs: How many were compared.
        log_held: Natural logarithm of what all accounts hold together, having begun with 1 at most.
    """

    worse: bool
    reason: str
    pairs: int
    log_held: float


@dataclass(frozen=True)
class _Account:
    """Bets on the predecessor in some of the pairs; `where` is for people."""

    where: str
    share: float
    won: int
    lost: int

    @property
    def log_held(self) -> float:
        return math.log(self.share) + float(log_growth(self.won, self.lost))

    def __str__(self) -> str:
        return f"only its predecessor succeeded in {self.won}, only this version in {self.lost}"


def log_growth(won: np.ndarray | int, lost: np.ndarray | int) -> np.ndarray | float:
    """Natural logarithm of what an account that began with 1 holds after so many bets won and lost."""
    share = EDGE[0] / EDGE[1]
    return won * math.log1p(share) + lost * math.log1p(-share)


def share_of_task(stations: int, place: int) -> float:
    """What one task of one of so many stations begins with; `place` in the order of first tries, from 1."""
    return (1 - SHARE_OF_ALL) / stations / (place * (place + 1))


def judge_in_field(promoted: Labels, predecessor: Labels, stations: Collection[str], error: float) -> Finding:
    """Compare by the rollouts so far.

    Args:
        promoted: Of the promoted version.
        predecessor: Of the version that was promoted before; at each station the task tried first is first.
        stations: Those of the fleet when the version was promoted: they have accounts of their own. Others
            count only among all.
        error: Largest probability with which a version that is nowhere worse is found to be worse, over all
            looks together.
    """
    pairs = {
        (station, task): pairs_of(task, promoted.get(station, {}).get(task, ""), labels)
        for station, tasks in predecessor.items()
        for task, labels in tasks.items()
    }
    everywhere = _account("", SHARE_OF_ALL, [pair for found in pairs.values() for pair in found])
    accounts = [everywhere]
    for station in sorted(predecessor.keys() & set(stations)):
        for place, task in enumerate(predecessor[station], 1):
            share = share_of_task(len(stations), place)
            accounts.append(_account(f"at {station} in '{task}'", share, pairs[station, task]))
    log_held, count = _log_sum(accounts), sum(map(len, pairs.values()))
    overall = f"of {count} pairs of rollouts in the field {everywhere}"
    if log_held < -math.log(error):
        bets = f"the bets on its predecessor stand at {math.exp(log_held):.1f}, {1 / error:.0f} would show it"
        return Finding(False, f"not shown to be worse: {overall} ({bets})", count, log_held)
    most = max(accounts, key=lambda account: account.log_held)
    where = "" if most is everywhere else f"{most.where} {most}; "
    return Finding(True, f"worse in the field: {where}{overall}", count, log_held)


def pairs_of(task: str, promoted: str, predecessor: str) -> list[Pair]:
    """The i-th of the one with the i-th of the other, as far as both go; in `comparison`'s words the
    predecessor is the candidate."""
    labels = zip(predecessor, promoted, strict=False)
    return [Pair(task, int(before), int(now)) for before, now in labels]


def _account(where: str, share: float, pairs: Collection[Pair]) -> _Account:
    leads = [pair.lead for pair in pairs]
    return _Account(where, share, leads.count(1), leads.count(-1))


def _log_sum(accounts: Collection[_Account]) -> float:
    return float(np.logaddexp.reduce([account.log_held for account in accounts]))
