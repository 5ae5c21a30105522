"""A tiny adapter, stations that train it, and every rule: what the suites of the aggregators share."""

from math import inf

import numpy as np

from coordinator.aggregation.rule import Rule
from coordinator.aggregation.version import Input

STATIONS = 5
A, B, SAVED = "m.lora_A.weight", "m.lora_B.weight", "head.weight"
SHAPES = {A: (3, 8), B: (6, 3), SAVED: (2, 5)}


def rule(aggregator, norm_limit=inf):
    """Plain averaging with learning rate 1: what comes out is what the aggregator made."""
    return Rule(0.5, 0.0, 1.0, STATIONS, "none", aggregator=aggregator, norm_limit=norm_limit)


RULES = {
    "mean": rule("mean"),
    "refactored": rule("refactored"),
    "mean, limited": rule("mean", 2.0),
    "refactored, limited": rule("refactored", 2.0),
    "median": rule("median"),
    "trimmed mean": rule("trimmed_mean"),
    "krum": rule("krum"),
}
OPEN = {name: made for name, made in RULES.items() if made.stations_needed == 1}
ROBUST = {name: made for name, made in RULES.items() if made.stations_needed > 1}


def draw(seed, scale=1.0, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return {name: (scale * rng.normal(size=shape)).astype(np.float32) for name, shape in shapes.items()}


def update(number, delta, base=None, base_version=0, station=None):
    """The update with that number, of station number % STATIONS unless another is named."""
    base = draw(0) if base is None else base
    node = f"arm-{number % STATIONS}" if station is None else station
    return Input(f"{number:032x}", node, base_version, 10, lambda: delta, lambda: base)


def product(tensors):
    return tensors[B].astype(np.float64) @ tensors[A].astype(np.float64)


def effect(tensors, parent):
    """What the change from parent to tensors does to the policy: one vector."""
    saved = tensors[SAVED].astype(np.float64) - parent[SAVED]
    return np.concatenate([(product(tensors) - product(parent)).ravel(), saved.ravel()])


def added(parent, delta):
    return {name: parent[name] + delta[name] for name in parent}
