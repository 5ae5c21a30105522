"""How much each update counts in a round.

    w_i = discount(staleness_i) * size_s / (max(K, stations present) * updates of s),   s: the station of i

`size_s` is 1 (uniform), or the station's examples relative to the mean of the stations present. Uniform,
every station that takes part has the same share, however many updates it delivered (otherwise the fastest
workstation would own the policy). By examples, a station with much data counts more, as in FedAvg (arXiv
1602.05629, algorithm 1); it assumes that stations state their examples honestly: nobody can check them.

An update loses weight with its staleness. A round of fewer than K stations takes a shorter step: dividing by
those present instead made the server's momentum overshoot along whichever task the fast station has (seen in
simulation). That is so whether the round was closed by its time limit or is full: with fewer stations than K
*every* step is shorter, also that of K updates (K = 4, two stations with two each: the weights sum to
0.5). K should be at most the number of stations.

Sources: the discounts are FedAsync's (Xie, Koyejo, Gupta, arXiv 1903.03934, section 5.2), polynomial, or
constant with exponent 0; that the sum is divided by K and the discounts are *not* renormalised to one, so
that a round of few or stale updates takes a shorter step, is FedBuff's rule (Nguyen et al., arXiv 2106.06639,
algorithm 1). FedBuff counts K in updates, and its full rounds sum to 1 whoever sent them; that a station's
updates share one part is ours.
"""

from collections import Counter
from collections.abc import Sequence


def staleness_discount(staleness: int, exponent: float) -> float:
    """(1 + staleness) ** -exponent: 1 for a fresh update; exponent 0 is the constant discount, 1 for all.

    Raises:
        ValueError: negative staleness or exponent.
    """
    if staleness < 0 or exponent < 0:
        raise ValueError(f"staleness {staleness} and exponent {exponent} must not be negative")
    return float((1 + staleness) ** -exponent)


def update_weights(
    stations: Sequence[str],
    staleness: Sequence[int],
    exponent: float,
    buffer_size: int,
    examples: Sequence[int] | None = None,
) -> list[float]:
    """Weight of each update of a round, in the order given.

    Args:
        stations: Name of the node that sent each update.
        staleness: Versions between each update's base version and the round's parent.
        exponent: Of the discount.
        buffer_size: K.
        examples: What each update could draw from, at least 1; None: stations count alike.

    Returns:
        Weights in (0, 1]; their sum is 1 when nothing is stale and K stations take part, else at most 1.
    """
    delivered = Counter(stations)
    shares = max(buffer_size, len(delivered))
    sizes = dict.fromkeys(delivered, 1.0) if examples is None else _sizes(stations, examples)
    return [
        sizes[station] * staleness_discount(stale, exponent) / (shares * delivered[station])
        for station, stale in zip(stations, staleness, strict=True)
    ]


def _sizes(stations: Sequence[str], examples: Sequence[int]) -> dict[str, float]:
    """Mean examples of each station's updates, relative to the mean over the stations."""
    given: dict[str, list[int]] = {station: [] for station in stations}
    for station, count in zip(stations, examples, strict=True):
        given[station].append(count)
    means = {station: sum(counts) / len(counts) for station, counts in given.items()}
    overall = sum(means[station] for station in sorted(means)) / len(means)
    return {station: mean / overall for station, mean in means.items()}
