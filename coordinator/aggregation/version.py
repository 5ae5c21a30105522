"""Version N as a pure function: parent tensors + server state + listed updates -> tensors + server state.

Everything is computed on the CPU in float64 in a fixed order and rounded to float32 once, at the end:
recomputing a version from its folder's manifest gives the same bytes (`coordinator.rounds.recompute`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from coordinator.aggregation.combine import Part, combine
from coordinator.aggregation.mean import Tensors64
from coordinator.aggregation.rule import Rule
from coordinator.aggregation.server_optimiser import step
from coordinator.aggregation.weights import update_weights
from shared.adapters import Contribution, Tensors


@dataclass(frozen=True)
class Input:
    """One update as it enters a round; its tensors, float32 by name, are read when they are needed."""

    update_id: str
    node: str
    base_version: int
    examples: int
    read: Callable[[], Mapping[str, np.ndarray]]
    """Its delta."""
    read_base: Callable[[], Mapping[str, np.ndarray]]
    """The tensors of its base version; only some rules ask for them."""


@dataclass(frozen=True)
class Result:
    """A new version: float32 tensors, float64 server state, who contributed what, and the rule's metrics."""

    tensors: Tensors
    server_state: Tensors64
    contributions: list[Contribution]
    """Of the round's own updates."""
    metrics: dict[str, float]
    remembered: list[Contribution] = field(default_factory=list)
    """Of earlier updates that it counted once more."""


def make_version(
    parent_version: int,
    parent: Mapping[str, np.ndarray],
    server_state: Mapping[str, np.ndarray],
    inputs: Sequence[Input],
    rule: Rule,
    remembered: Sequence[Input] = (),
) -> Result:
    """Compute the version after `parent_version`.

    Args:
        parent_version: Number of the parent; staleness is counted to it.
        parent: Its tensors, float32.
        server_state: Of the server optimiser after the parent, float64; may be empty.
        inputs: The round's updates. Their order does not matter: they are added up in the order of their ids.
        rule: Weights, aggregator and server optimiser.
        remembered: Earlier updates of absent stations (`memory.remembered`), weighted as if they came now.

    Raises:
        ValueError: no inputs, or fewer stations than the rule needs; tensors that do not fit the parent or
            are not finite; or a result that is not finite.
    """
    if not inputs:
        raise ValueError("a round needs at least one update")
    ordered = sorted((*inputs, *remembered), key=lambda item: item.update_id)
    staleness = [parent_version - item.base_version for item in ordered]
    weights = update_weights(
        [item.node for item in ordered],
        staleness,
        rule.staleness_exponent,
        rule.buffer_size,
        [item.examples for item in ordered] if rule.station_weight == "examples" else None,
    )
    parts = [
        Part(item.node, weight, partial(_read, item, parent), item.read_base)
        for item, weight in zip(ordered, weights, strict=True)
    ]
    combined = combine(parent, parts, rule)
    change, new_state = step(combined.delta, server_state, rule.optimiser, rule.momentum, rule.learning_rate)
    tensors = {name: (parent[name].astype(np.float64) + change[name]).astype(np.float32) for name in parent}
    if not _finite(tensors):
        raise ValueError("the new version would hold numbers that are not finite")
    counted = [
        Contribution(update_id=item.update_id, node=item.node, weight=weight, staleness=stale)
        for item, weight, stale in zip(ordered, combined.weights, staleness, strict=True)
    ]
    earlier = {item.update_id for item in remembered}
    return Result(
        tensors,
        new_state,
        contributions=[part for part in counted if part.update_id not in earlier],
        metrics=combined.metrics,
        remembered=[part for part in counted if part.update_id in earlier],
    )


def _read(item: Input, parent: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """The delta of an update that fits the parent; ValueError for another."""
    delta = item.read()
    if {n: a.shape for n, a in delta.items()} != {n: a.shape for n, a in parent.items()}:
        raise ValueError(f"update {item.update_id}: its tensors are not the parent version's")
    if not _finite(delta):
        raise ValueError(f"update {item.update_id} holds numbers that are not finite")
    return delta


def _finite(tensors: Mapping[str, np.ndarray]) -> bool:
    return all(np.isfinite(array).all() for array in tensors.values())
