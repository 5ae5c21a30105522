"""What the server does with a round's delta: take it as it is, with Nesterov momentum, or with Adam.

    none      step <- lr * delta

    nesterov  m    <- beta * m + delta
              step <- lr * (delta + beta * m)

    adam      m    <- beta * m + (1 - beta) * delta
              v    <- beta2 * v + (1 - beta2) * delta^2        v is tau^2 before the first round
              step <- lr * m / (sqrt(v) + tau)

Nesterov: FedAvgM (Hsu, Qi, Brown, arXiv 1909.06335) in Nesterov's form (Sutskever et al., ICML 2013, as
PyTorch's SGD writes it); beta = 0 is `none`. Adam: FedAdam (Reddi et al., arXiv 2003.00295, algorithm 2),
without bias correction, as there. Both assume that a round's delta points where the next one will; Adam also
that the size of a coordinate's deltas says nothing of its importance: a step moves each by about lr, whatever
the weights of the round were, so that a round of few or stale updates is no longer a short one.

The state is one dict of float64 tensors, stored with the version: `NAME` is m, `v:NAME` is v. After a change
of the optimiser the state starts afresh: the m of the two differ by a factor 1 - beta.
"""

from collections.abc import Mapping

import numpy as np

from coordinator.aggregation.mean import Tensors64
from coordinator.aggregation.rule import Optimiser

BETA2, TAU = 0.99, 1e-3
"""Adam's second decay and adaptivity: the defaults of Flower 1.41's FedAdam, which follows the same paper."""
SQUARE = "v:"


def step(
    delta: Mapping[str, np.ndarray],
    state: Mapping[str, np.ndarray],
    optimiser: Optimiser,
    beta: float,
    learning_rate: float,
) -> tuple[Tensors64, Tensors64]:
    """One server step.

    Args:
        delta: The round's delta, float64.
        state: The state after the parent version, float64; empty before the first round.
        optimiser: Which formula.
        beta: In [0, 1); `none` has none.
        learning_rate: Server learning rate, above 0.

    Returns:
        (what to add to the parent's tensors, the new state; empty for `none` and for Nesterov without beta).

    Raises:
        ValueError: the state belongs to other tensors.
    """
    if optimiser == "none" or (optimiser == "nesterov" and beta == 0.0):
        return {name: learning_rate * array for name, array in delta.items()}, {}
    if not state.keys() <= {*delta, *(SQUARE + name for name in delta)}:
        raise ValueError("the server's state belongs to other tensors than this round's")
    if (optimiser == "adam") != any(name.startswith(SQUARE) for name in state):
        state = {}
    if optimiser == "nesterov":
        new = {
            name: beta * state[name] + delta[name] if name in state else delta[name].copy() for name in delta
        }
        return {name: learning_rate * (delta[name] + beta * new[name]) for name in delta}, new
    change: Tensors64 = {}
    kept: Tensors64 = {}
    for name, array in delta.items():
        mean = beta * state.get(name, np.zeros_like(array)) + (1 - beta) * array
        square = BETA2 * state.get(SQUARE + name, np.full_like(array, TAU**2)) + (1 - BETA2) * array**2
        change[name] = learning_rate * mean / (np.sqrt(square) + TAU)
        kept |= {name: mean, SQUARE + name: square}
    return change, kept
