"""Version N as a pure function: parent tensors + server momentum + listed updates -> tensors + momentum.

Everything is computed on the CPU in float64 in a fixed order and rounded to float32 once, at the end:
recomputing a version from its folder's manifest gives the same bytes (`coordinator.rounds.recompute`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from coordinator.aggregation.mean import Tensors64, weighted_sum
from coordinator.aggregation.server_optimiser import step
from coordinator.aggregation.weights import update_weights
from shared.adapters import Contribution, Tensors


@dataclass(frozen=True)
class Rule:
    """How a round is computed; recorded with the version."""

    staleness_exponent: float
    momentum: float
    learning_rate: float
    buffer_size: int


@dataclass(frozen=True)
class Input:
    """One update as it enters a round: `delta` is float32 by tensor name."""

    update_id: str
    node: str
    base_version: int
    delta: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Result:
    """A new version: float32 tensors, float64 momentum, and who contributed what."""

    tensors: Tensors
    momentum: Tensors64
    contributions: list[Contribution]


def make_version(
    parent_version: int,
    parent: Mapping[str, np.ndarray],
    momentum: Mapping[str, np.ndarray],
    inputs: Sequence[Input],
    rule: Rule,
) -> Result:
    """Compute the version after `parent_version`.

    Args:
        parent_version: Number of the parent; staleness is counted to it.
        parent: Its tensors, float32.
        momentum: The server's momentum after the parent, float64; may be empty.
        inputs: The round's updates. Their order does not matter: they are added up in the order of their ids.
        rule: Weights and server optimiser.

    Raises:
        ValueError: no inputs, tensors that do not fit the parent, or a result that is not finite.
    """
    ordered = sorted(inputs, key=lambda item: item.update_id)
    staleness = [parent_version - item.base_version for item in ordered]
    nodes = [item.node for item in ordered]
    weights = update_weights(nodes, staleness, rule.staleness_exponent, rule.buffer_size)
    mean = weighted_sum([item.delta for item in ordered], weights)
    if sorted(mean) != sorted(parent):
        raise ValueError("the updates' tensors are not the parent version's")
    change, new_momentum = step(mean, momentum, rule.momentum, rule.learning_rate)
    tensors = {name: (parent[name].astype(np.float64) + change[name]).astype(np.float32) for name in parent}
    if not all(np.isfinite(array).all() for array in tensors.values()):
        raise ValueError("the new version would hold numbers that are not finite")
    contributions = [
        Contribution(update_id=item.update_id, node=item.node, weight=weight, staleness=stale)
        for item, weight, stale in zip(ordered, weights, staleness, strict=True)
    ]
    return Result(tensors, new_momentum, contributions)
