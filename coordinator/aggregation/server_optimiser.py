"""What the server does with a round's mean delta: take it as it is, or with Nesterov momentum.

    m    <- beta * m + delta
    step <- lr * (delta + beta * m)

FedAvgM (Hsu, Qi, Brown, arXiv 1909.06335) in Nesterov's form (Sutskever et al., ICML 2013, as PyTorch's SGD
writes it). beta = 0 and lr = 1 is plain averaging.
"""

from collections.abc import Mapping

import numpy as np

from coordinator.aggregation.mean import Tensors64


def step(
    delta: Mapping[str, np.ndarray], momentum: Mapping[str, np.ndarray], beta: float, learning_rate: float
) -> tuple[Tensors64, Tensors64]:
    """One server step.

    Args:
        delta: The round's mean delta, float64.
        momentum: The state after the parent version, float64; empty before the first round.
        beta: In [0, 1).
        learning_rate: Server learning rate, above 0.

    Returns:
        (what to add to the parent's tensors, the new momentum; empty when beta is 0).

    Raises:
        ValueError: the momentum belongs to other tensors.
    """
    if beta == 0.0:
        return {name: learning_rate * array for name, array in delta.items()}, {}
    if momentum and sorted(momentum) != sorted(delta):
        raise ValueError("the server's momentum belongs to other tensors than this round's")
    new = {name: beta * momentum[name] + delta[name] if momentum else delta[name].copy() for name in delta}
    return {name: learning_rate * (delta[name] + beta * new[name]) for name in delta}, new
