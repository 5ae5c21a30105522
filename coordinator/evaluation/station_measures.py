"""What stations measured of a version on their own evaluation episodes, before they trained on it. Pure.

Information, never decisive: how close a policy's actions come to recorded ones does not say whether it does
the task, and the numbers are a station's word about episodes that nobody else can look at.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from shared.tasks import START_LOSS, START_MSE, metric_name


@dataclass(frozen=True)
class Told:
    """What one update's header says: who sent it, the metrics that begin with `START_LOSS` or `START_MSE`,
    and the tasks that it names in full."""

    node: str
    metrics: Mapping[str, float]
    tasks: Collection[str]


@dataclass(frozen=True)
class StationMean:
    """Of one task: flow-matching loss and mean squared error of sampled actions (normalised units), each the
    mean over so many stations."""

    task: str
    loss: float
    action_mse: float
    stations: int


def means_over_stations(told: Sequence[Told]) -> list[StationMean]:
    """Per task the mean over stations, one vote each: of what a station told more than once the newest.

    Args:
        told: By updates that began from the version, oldest first.

    Returns:
        Sorted by task. A task whose sentence no update names is called as its metrics are.
    """
    newest = {each.node: found for each in told if (found := _by_name(each.metrics))}
    sentences = {metric_name("", task): task for each in told for task in each.tasks}
    means = []
    for name in {name for found in newest.values() for name in found}:
        votes = [found[name] for found in newest.values() if name in found]
        loss, action_mse = (fmean(values) for values in zip(*votes, strict=True))
        means.append(StationMean(sentences.get(name, name.replace("_", " ")), loss, action_mse, len(votes)))
    return sorted(means, key=lambda mean: mean.task)


def _by_name(metrics: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Loss and error by the task's name; a task that lacks one of them is left out."""
    names = [name.removeprefix(f"{START_LOSS}_") for name in metrics if name.startswith(f"{START_LOSS}_")]
    return {
        name: (metrics[f"{START_LOSS}_{name}"], metrics[f"{START_MSE}_{name}"])
        for name in names
        if f"{START_MSE}_{name}" in metrics
    }
