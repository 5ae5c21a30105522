"""Multi-Krum: the mean of the stations that lie closest together (Blanchard et al., NeurIPS 2017, arXiv
1703.02757).

    score_s = sum of |x_s - x_t|^2 over the n - f - 2 stations t nearest to s
    kept    = the n - f - 2 stations with the lowest scores

s runs over the n stations of the round, each with one vote (`combine.votes`); f of them may be poisoned, n >=
2 f + 3. Krum itself keeps one station; keeping several is less noisy, and as many are kept here as each is
compared with.

Assumes that honest updates are near each other and far from poisoned ones. With a task per station the honest
ones are far from each other too, and stations are left out for their task, round after round. All votes are
held at once: memory grows with the stations.

Own lines rather than Flower's `aggregate_krum`: that one returns the mean, not which stations it keeps, which
a version's manifest states, and computes a score for too few stations too. A test holds the two together.
"""

from collections.abc import Mapping, Sequence

import numpy as np


def nearest(votes: Sequence[Mapping[str, np.ndarray]], poisoned: int) -> list[int]:
    """Indices of the votes that are kept, ascending; of equal scores the earlier vote is kept.

    Args:
        votes: One per station, at least 2 * poisoned + 3, float64.
        poisoned: f.
    """
    count = len(votes)
    distances = np.zeros((count, count))
    for i in range(count):
        for j in range(i):
            gap = sum(np.sum(np.square(votes[i][name] - votes[j][name])) for name in sorted(votes[i]))
            distances[i, j] = distances[j, i] = gap
    near = count - poisoned - 2
    scores = [np.sort(np.delete(distances[i], i))[:near].sum() for i in range(count)]
    return sorted(int(i) for i in np.argsort(scores, kind="stable")[:near])
