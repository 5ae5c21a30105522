"""Coordinate-wise rules: of every single number the median, or the mean without the extremes (Yin et al.,
arXiv 1803.01498).

    median        x_j = median_s(x_sj)
    trimmed mean  x_j = mean of x_sj without the f smallest and the f largest of s

s runs over the stations, each with one vote (`combine.votes`). With at most f poisoned stations of at least
2 f + 1, every coordinate lies between two honest ones.

Assumes that the stations' updates are exchangeable: the same task, other demonstrations. With a task per
station a coordinate that matters to one station only is an extreme there and near zero elsewhere: where none
matters to two, both rules drown every task (a test shows it); in training they overlap, and less is lost
(docs/aggregation.md). Both hold all votes at once: memory grows with the stations.

Flower's `aggregate_median` is the same call of numpy's median. Its `aggregate_trimmed_avg` adds up in the
order that `partition` leaves, which differs between processors; sorted, the bytes do not. A test holds both
against Flower's.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from coordinator.aggregation.mean import Tensors64


def median(votes: Sequence[Mapping[str, np.ndarray]]) -> Tensors64:
    """Coordinate median of votes with the same names and shapes, float64."""
    return {name: np.median([vote[name] for vote in votes], axis=0) for name in votes[0]}


def trimmed_mean(votes: Sequence[Mapping[str, np.ndarray]], poisoned: int) -> Tensors64:
    """Coordinate mean without the `poisoned` smallest and largest of each; more than twice as many votes."""
    kept = slice(poisoned, len(votes) - poisoned)
    return {
        name: np.sort([vote[name] for vote in votes], axis=0)[kept].mean(axis=0, dtype=np.float64)
        for name in votes[0]
    }
