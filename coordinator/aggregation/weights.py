"""How much each update counts in a round.

Every station that takes part has the same share, however many updates it delivered (otherwise the fastest
workstation would own the policy), and an update loses weight with its staleness. A round that was closed by
its time limit with fewer than K stations takes a shorter step: dividing by those present instead made the
server's momentum overshoot along whichever task the fast station has (seen in simulation).

Sources: the polynomial discount is FedAsync's (Xie, Koyejo, Gupta, arXiv 1903.03934, section 5.2); that the
sum is divided by K and the discounts are *not* renormalised to one, so that a round of few or stale updates
takes a shorter step, is FedBuff's rule (Nguyen et al., arXiv 2106.06639, algorithm 1).
"""

from collections import Counter
from collections.abc import Sequence


def staleness_discount(staleness: int, exponent: float) -> float:
    """(1 + staleness) ** -exponent: 1 for a fresh update; exponent 0 ignores staleness.

    Raises:
        ValueError: negative staleness or exponent.
    """
    if staleness < 0 or exponent < 0:
        raise ValueError(f"staleness {staleness} and exponent {exponent} must not be negative")
    return float((1 + staleness) ** -exponent)


def update_weights(
    stations: Sequence[str], staleness: Sequence[int], exponent: float, buffer_size: int
) -> list[float]:
    """Weight of each update of a round, in the order given.

    Args:
        stations: Name of the node that sent each update.
        staleness: Versions between each update's base version and the round's parent.
        exponent: Of the discount.
        buffer_size: K.

    Returns:
        Weights in (0, 1]; their sum is 1 when nothing is stale and K stations take part, else at most 1.
    """
    delivered = Counter(stations)
    shares = max(buffer_size, len(delivered))
    return [
        staleness_discount(stale, exponent) / (shares * delivered[station])
        for station, stale in zip(stations, staleness, strict=True)
    ]
