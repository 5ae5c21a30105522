"""Weighted mean of LoRA deltas: A with A, B with B, saved modules in full (FedAvg, arXiv 1602.05629; for LoRA
FedIT, arXiv 2305.05644).

    delta = sum_i w_i * delta_i

Assumes that the stations' factors are near each other. The mean of the factors is not a factorisation of the
mean product: with A_i = A + a_i and B_i = B + b_i the difference is second order in a_i and b_i, so small for
short updates. Exact forms (FedEx-LoRA, arXiv 2410.09432) change the base or the rank; `refactored` is the
nearest form that changes neither.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

Tensors64 = dict[str, np.ndarray]


def weighted_sum(
    deltas: Iterable[Mapping[str, np.ndarray]], weights: Sequence[float], like: Mapping[str, np.ndarray]
) -> Tensors64:
    """Sum of `weights[i] * deltas[i]` in float64, added in the order given: same input, same bytes.

    With weights that sum to one this is the weighted mean. The deltas are taken one by one: handed in as a
    generator, their number does not change the memory that this takes.

    Args:
        deltas: All with the names and shapes of `like`.
        weights: One per delta.
        like: Names and shapes of the result.

    Raises:
        ValueError: there are more or fewer weights than deltas.
    """
    total = {name: np.zeros(array.shape, np.float64) for name, array in sorted(like.items())}
    for delta, weight in zip(deltas, weights, strict=True):
        for name, array in total.items():
            array += np.float64(weight) * delta[name].astype(np.float64)
    return total
