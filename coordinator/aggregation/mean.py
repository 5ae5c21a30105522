"""Weighted mean of LoRA deltas: A with A, B with B, saved modules in full (FedAvg, arXiv 1602.05629; for LoRA
FedIT, arXiv 2305.05644).

The mean of the factors is not a factorisation of the mean product. Exact forms (FedEx-LoRA, arXiv 2410.09432)
change the base or the rank; in simulation they showed no gain at this size, so this one ships.
"""

from collections.abc import Mapping, Sequence

import numpy as np

Tensors64 = dict[str, np.ndarray]


def weighted_sum(deltas: Sequence[Mapping[str, np.ndarray]], weights: Sequence[float]) -> Tensors64:
    """Sum of `weights[i] * deltas[i]` in float64, added in the order given: same input, same bytes.

    With weights that sum to one this is the weighted mean.

    Args:
        deltas: At least one; all with the same names and shapes.
        weights: One per delta.

    Raises:
        ValueError: nothing to add, or names or shapes differ.
    """
    if not deltas:
        raise ValueError("a round needs at least one update")
    names = sorted(deltas[0])
    if any(sorted(delta) != names for delta in deltas):
        raise ValueError("the updates of a round must have the same tensors")
    total = {name: np.zeros(deltas[0][name].shape, np.float64) for name in names}
    for delta, weight in zip(deltas, weights, strict=True):
        for name in names:
            if delta[name].shape != total[name].shape:
                raise ValueError(f"{name} has the shape {delta[name].shape}, expected {total[name].shape}")
            total[name] += np.float64(weight) * delta[name].astype(np.float64)
    return total
