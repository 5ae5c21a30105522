"""Is a shared model as good as one trained on all demonstrations together? Hours; goes on where it stopped.

    make bench-learning                                    # every arm, training seeds 0, 1 and 2
    python -m benchmarks.learning --arms async sync --seeds 0

The arms are in `benchmarks/learning/arms.py`, what each figure answers in `figures.py`. Results are kept in
`learning-run/` (`--folder`); an arm and seed that has one is not run again. Tables and plots of
docs/learning/ are made from them (`benchmarks.learning.report`).

The folder's results of every arm count, this time's or not. Exits with 1 when a target is missed, or when an
arm that a figure needs was not run with three training seeds other than those that settings were chosen with.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from loguru import logger
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from benchmarks.learning.arms import ARMS, TRAINING_SEEDS
from benchmarks.learning.figures import figures
from benchmarks.learning.plan import QUICK, Arm, Scale
from benchmarks.learning.report import write_docs
from benchmarks.learning.results import Results, is_done, read_results
from benchmarks.learning.runner import ROOT, Run
from benchmarks.outcome import measured
from coordinator.evaluation.lockstep import Evaluator

BASE = ROOT / "sim" / "base"
FOLDER = ROOT / "learning-run"


def run_all(
    arms: Sequence[Arm],
    seeds: Sequence[int],
    folder: Path,
    scale: Scale,
    base: Path,
    done: Callable[[], None] = lambda: None,
) -> None:
    """Make every result that is not there, all seeds of an arm before the next arm; `done` after each."""
    arms = [scale.of(arm) for arm in arms]
    due = [(arm, seed) for arm in arms for seed in seeds if not is_done(folder, arm, seed, scale)]
    if not due:
        return
    evaluator = Evaluator(base)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as bars:
        whole = bars.add_task("all arms", total=len(arms) * len(seeds))
        bars.update(whole, completed=len(arms) * len(seeds) - len(due))
        for arm, seed in due:
            bar = bars.add_task("", total=1.0)
            title = f"{arm.name}, seed {seed}"

            def say(share: float, words: str, bar: TaskID = bar, title: str = title) -> None:
                bars.update(bar, completed=share, description=f"{title}: {words}")

            Run(arm, seed, folder, scale, evaluator, base).result(say)
            done()
            bars.remove_task(bar)
            bars.advance(whole)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what is missing, and returns the exit status; the last line is JSON."""
    names = [arm.name for arm in ARMS]
    parser = argparse.ArgumentParser(description="Federated against pooled training, in simulated time.")
    parser.add_argument("--arms", nargs="+", choices=names, default=names, metavar="ARM")
    parser.add_argument("--seeds", nargs="+", type=int, default=TRAINING_SEEDS, help="training seeds")
    parser.add_argument("--scenes", type=int, default=Scale().scenes, help="per task, for the last version")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="results, and unfinished work")
    parser.add_argument("--docs", type=Path, help="write tables and plots there, as docs/learning has them")
    parser.add_argument("--quick", action="store_true", help="a few steps and scenes: shows that it works")
    parser.add_argument("--out", type=Path, default=ROOT / "bench-learning.json", help="the result as JSON")
    options = parser.parse_args(arguments)
    logger.remove()
    logger.add(sys.stderr, level="WARNING")
    scale = QUICK if options.quick else Scale(scenes=options.scenes)
    arms = [arm for arm in ARMS if arm.name in options.arms]

    def results() -> Results:
        return read_results(options.folder, [scale.of(arm) for arm in ARMS], scale)

    def publish() -> None:
        if options.docs:
            write_docs(results(), options.docs)

    def measure() -> tuple[bool, dict[str, Any]]:
        results()  # whatever is in the way there is said now, not after hours
        run_all(arms, options.seeds, options.folder, scale, BASE, publish)
        publish()
        return figures(results())

    return measured("bench-learning", options.out, measure)


if __name__ == "__main__":
    sys.exit(main())
