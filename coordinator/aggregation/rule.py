"""How a round is computed: chosen in `coordinator.toml`, recorded with every version."""

from dataclasses import dataclass
from math import inf
from typing import Literal

type StationWeight = Literal["uniform", "examples"]
type Aggregator = Literal["mean", "refactored", "median", "trimmed_mean", "krum"]
type Optimiser = Literal["none", "nesterov", "adam"]


@dataclass(frozen=True)
class Rule:
    """Weights, aggregator and server optimiser of a round.

    The defaults are what versions meant that were recorded before these fields were there.
    """

    staleness_exponent: float
    momentum: float
    """beta of the server optimiser."""
    learning_rate: float
    """The server's."""
    buffer_size: int
    optimiser: Optimiser = "nesterov"
    station_weight: StationWeight = "uniform"
    aggregator: Aggregator = "mean"
    norm_limit: float = inf
    """In median lengths."""
    poisoned_stations: int = 1
    """f: stations of a round that may send anything."""

    @property
    def stations_needed(self) -> int:
        """Fewest stations of a round."""
        return stations_needed(self.aggregator, self.norm_limit, self.poisoned_stations)


def stations_needed(aggregator: Aggregator, norm_limit: float, poisoned: int) -> int:
    """Fewest stations of a round with which the rule holds out against `poisoned` of them.

    2 f + 3 for Krum (arXiv 1703.02757), 2 f + 1 where a median or a trimmed mean decides (arXiv 1803.01498),
    1 for rules that hold out against none.
    """
    if aggregator == "krum":
        return 2 * poisoned + 3
    robust = norm_limit < inf or aggregator in ("median", "trimmed_mean")
    return 2 * poisoned + 1 if robust else 1
