"""Norm limit: no update may be longer than a multiple of the round's median length.

    delta_i <- delta_i * min(1, c * median_s(length_s) / |delta_i|)

|.| is the L2 norm over all tensors; length_s is the mean length of station s's updates, so that a station has
one say in the median however many updates it sends. Clipping bounds what one update can do (Sun et al., "Can
you really backdoor federated learning?", arXiv 1911.07963); the median as the bound is FLAME's (arXiv
2101.02281).

Assumes that fewer than half of the round's stations are poisoned, so that the median lies between honest
lengths, and that honest updates are about equally long, which holds when all take the same number of steps.
It limits how far a poisoned update moves the version, not in which direction; no station is silenced, so it
suits fleets with a task per station.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np


def norm(delta: Mapping[str, np.ndarray]) -> float:
    """L2 norm over all tensors, in float64, in the order of the names."""
    squares = (np.sum(np.square(delta[name].astype(np.float64))) for name in sorted(delta))
    return float(np.sqrt(sum(squares)))


def scales(deltas: Iterable[Mapping[str, np.ndarray]], stations: Sequence[str], limit: float) -> list[float]:
    """What each delta is multiplied with, in the order given, in [0, 1]; 1: it is short enough.

    Args:
        deltas: Taken one by one.
        stations: Name of the node that sent each.
        limit: c, at least 1.
    """
    norms = [norm(delta) for delta in deltas]
    lengths = [
        np.mean([length for length, sender in zip(norms, stations, strict=True) if sender == station])
        for station in sorted(set(stations))
    ]
    longest = limit * float(np.median(lengths))
    return [1.0 if length <= longest else longest / length for length in norms]
