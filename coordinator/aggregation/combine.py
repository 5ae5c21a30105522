"""From a round's weighted updates to one delta: every aggregator by its name (docs/aggregation.md).

The robust rules give every station one vote: the weighted mean of its updates. Median and trimmed mean are
votes too, and are scaled with the sum of the weights, so that a round of few or stale updates takes a shorter
step here as well; Krum shares that sum out among those whom it keeps.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf

import numpy as np

from coordinator.aggregation import coordinate, krum, norm_limit
from coordinator.aggregation.mean import Tensors64, weighted_sum
from coordinator.aggregation.refactored import refactored
from coordinator.aggregation.rule import Rule

type Tensors = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Part:
    """One update in a round; its tensors are read when they are needed, and may be read twice."""

    station: str
    weight: float
    read: Callable[[], Tensors]
    """Its delta, with the parent's names and shapes."""
    read_base: Callable[[], Tensors]
    """The tensors of its base version."""


@dataclass(frozen=True)
class Combined:
    """The round's delta, what each update weighed in it in the end, and what is stated with the version."""

    delta: Tensors64
    weights: list[float]
    metrics: dict[str, float]


def combine(parent: Tensors, parts: Sequence[Part], rule: Rule) -> Combined:
    """Combine a round's updates, in the order given.

    Args:
        parent: The parent's tensors.
        parts: The updates.
        rule: Its aggregator and norm limit.

    Raises:
        ValueError: fewer stations than the rule needs.
    """
    stations = len({part.station for part in parts})
    if stations < rule.stations_needed:
        raise ValueError(f"the rule needs updates of {rule.stations_needed} stations, there are {stations}")
    metrics: dict[str, float] = {}
    if rule.norm_limit < inf:
        parts, metrics["updates_shortened"] = _limited(parts, rule.norm_limit)
    match rule.aggregator:
        case "mean":
            delta = weighted_sum(_deltas(parts), _weights(parts), parent)
        case "refactored":
            done = refactored(parent, ((part.weight, part.read_base(), part.read()) for part in parts))
            delta, metrics["truncation_error"] = done.delta, done.truncation_error
        case "krum":
            parts = _kept_by_krum(parts, votes(parts, parent), rule.poisoned_stations)
            delta = weighted_sum(_deltas(parts), _weights(parts), parent)
        case "median":
            delta = _in_full(parts, coordinate.median(list(votes(parts, parent).values())))
        case "trimmed_mean":
            ballots = list(votes(parts, parent).values())
            delta = _in_full(parts, coordinate.trimmed_mean(ballots, rule.poisoned_stations))
    return Combined(delta, _weights(parts), metrics)


def votes(parts: Sequence[Part], like: Tensors) -> dict[str, Tensors64]:
    """The weighted mean of each station's updates, by station, in the order of the names."""
    ballots = {}
    for station in sorted({part.station for part in parts}):
        own = [part for part in parts if part.station == station]
        total = sum(_weights(own))
        ballots[station] = weighted_sum(_deltas(own), [part.weight / total for part in own], like)
    return ballots


def _in_full(parts: Sequence[Part], vote: Tensors64) -> Tensors64:
    """A vote as long as the sum of the weights makes it."""
    total = sum(_weights(parts))
    return {name: total * array for name, array in vote.items()}


def _kept_by_krum(parts: Sequence[Part], ballots: Mapping[str, Tensors64], poisoned: int) -> list[Part]:
    """The parts with weight 0 for the stations that are left out, and the sum of the weights as before."""
    names = list(ballots)
    kept = {names[index] for index in krum.nearest(list(ballots.values()), poisoned)}
    share = sum(_weights(parts)) / sum(part.weight for part in parts if part.station in kept)
    return [replace(part, weight=part.weight * share if part.station in kept else 0.0) for part in parts]


def _limited(parts: Sequence[Part], limit: float) -> tuple[list[Part], int]:
    """The parts with their deltas shortened where they are too long, and how many were."""
    scales = norm_limit.scales(_deltas(parts), [part.station for part in parts], limit)
    shortened = [
        part if scale == 1.0 else replace(part, read=partial(_scaled, part.read, scale))
        for part, scale in zip(parts, scales, strict=True)
    ]
    return shortened, sum(scale < 1.0 for scale in scales)


def _scaled(read: Callable[[], Tensors], scale: float) -> Tensors64:
    return {name: np.float64(scale) * array.astype(np.float64) for name, array in read().items()}


def _deltas(parts: Sequence[Part]) -> Iterator[Tensors]:
    return (part.read() for part in parts)


def _weights(parts: Sequence[Part]) -> list[float]:
    return [part.weight for part in parts]
