"""The experiment's plots, as SVG files that come out the same from the same results."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning.arms import FOUR, HELD_OUT
from benchmarks.learning.figures import TARGET_SUCCESS
from benchmarks.learning.plan import Asked
from benchmarks.learning.results import Point, Result, Results
from benchmarks.learning.statistics import estimate, percent, rows_of, table_of

COMPOSITION = ("composition-centralised", "composition-async", "composition-sync")
APART = ("composition", "time")
"""What the names of arms begin with that have stations of their own, and tables of their own."""
TIME = (
    "time-both-async",
    "time-both-sync",
    "time-thin-async",
    "time-thin-async-no-discount",
    "time-thin-sync",
)
STALE = ("async", "composition-async", "time-both-async", "time-thin-async")


def plot_all(results: Results, order: Sequence[str], docs: Path) -> None:
    """Write every plot for which there are results.

    Args:
        order: Arms, top to bottom.
    """
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "armfleet"
    four = [arm for arm in order if arm in results and not arm.startswith(APART)]
    height = 0.3 * len(four) + 1.2
    _saved(docs / "success.svg", bool(four), lambda axes: _success(axes, results, four), height)
    timed = [arm for arm in TIME if arm in results]
    _saved(docs / "time.svg", bool(timed), lambda axes: _time(axes, results, timed))
    composed = [arm for arm in COMPOSITION if arm in results]
    _saved(docs / "composition.svg", bool(composed), lambda axes: _composition(axes, results, composed))
    stale = [arm for arm in STALE if arm in results]
    _saved(docs / "courses.svg", bool(stale), lambda axes: _staleness(axes, results, stale))


def _saved(path: Path, wanted: bool, draw: Callable[[Any], None], height: float = 4.0) -> None:
    from matplotlib import pyplot

    if not wanted:
        path.unlink(missing_ok=True)  # of an earlier run that had them
        return
    figure, axes = pyplot.subplots(figsize=(7, height))
    draw(axes)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _success(axes: Any, results: Results, arms: Sequence[str]) -> None:
    """A point per training seed, the mean and its interval."""
    for row, arm in enumerate(reversed(arms)):
        found = estimate(percent, table_of(results[arm], FOUR))
        assert found is not None
        axes.plot(found.seeds, [row] * len(found.seeds), "o", color="tab:blue", alpha=0.4)
        axes.plot(found.interval, [row, row], color="black")
        axes.plot(found.value, row, "|", color="black", markersize=12)
    axes.set_yticks(range(len(arms)), list(reversed(arms)))
    axes.set(xlabel="success over four tasks, %; a dot is a training seed", xlim=(-3, 103))


def _time(axes: Any, results: Results, arms: Sequence[str]) -> None:
    for arm in arms:
        _curve(axes, results[arm], arm, FOUR, lambda point: point.at / 60)
    axes.axhline(100 * TARGET_SUCCESS, color="grey", linestyle=":")
    axes.set(xlabel="simulated minutes", ylabel="success over four tasks, %", ylim=(-3, 103))
    axes.legend()


def _composition(axes: Any, results: Results, arms: Sequence[str]) -> None:
    for arm in arms:
        _curve(axes, results[arm], f"{arm}, held out", HELD_OUT, lambda point: point.steps)
        _curve(axes, results[arm], f"{arm}, seen", FOUR, lambda point: point.steps, "--")
    axes.set(xlabel="gradient steps", ylabel="success, %", ylim=(-3, 103))
    axes.legend(fontsize="small")


def _curve(
    axes: Any,
    results: Sequence[Result],
    label: str,
    tasks: Sequence[Asked],
    position: Callable[[Point], float],
    line: str = "-",
) -> None:
    """Mean over the training seeds, whose courses are the same, and their range."""
    curves = np.array([[rows_of(point.outcomes, tasks).mean() for point in r.curve] for r in results])
    at = [position(point) for point in results[0].curve]
    (drawn,) = axes.plot(at, 100 * curves.mean(0), line, marker=".", label=label)
    axes.fill_between(at, 100 * curves.min(0), 100 * curves.max(0), alpha=0.12, color=drawn.get_color())


def _staleness(axes: Any, results: Results, arms: Sequence[str]) -> None:
    """Share of updates by staleness; the same for every training seed."""
    for arm in arms:
        counts = results[arm][0].staleness
        total = sum(counts.values())
        at = range(max(counts) + 1)
        axes.plot(at, [100 * counts.get(s, 0) / total for s in at], marker=".", label=arm)
    axes.set(xlabel="staleness, versions", ylabel="updates, %", yscale="symlog", ylim=(0, 110))
    axes.legend()
