"""Success of the three ways to join chunks at inference delays of 0 to 8 control ticks (0 to 0.27 s).

    make bench-delay       # SEED=n for other demonstrations, training and scenes; goes on where it stopped

Two adapters are trained with the product's trainer on the pooled demonstrations of four push tasks, from the
same frames and noise: one plainly, one for the delay (`Recipe.delay`). Both are run in lockstep, every cell
of the table on the same scenes:

    none        the plain one; a new chunk knows nothing of the previous one
    guidance    the plain one; chunks are pulled towards the rest of the previous one (arXiv 2506.07339)
    prefix      the one trained for the delay; its chunks continue the actions that are executed meanwhile
                (arXiv 2512.05964)

Three ticks are an action. A chunk that takes 1 to 3 ticks loses its first action, as LeRobot's engine counts:
such cells differ by the policy's noise alone. A cell's time is the mean over its successful rollouts, from
the start to the judge's verdict.

Exits with 1 when a cell has fewer than 60 rollouts; which way is best is no target.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from loguru import logger
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks.learning.arms import CENTRALISED
from benchmarks.learning.demonstrations import Demonstrations
from benchmarks.learning.plan import FIRST_SCENE, Arm
from benchmarks.learning.results import commit_of
from benchmarks.learning.updates import StationUpdates
from benchmarks.outcome import measured
from coordinator.evaluation.lockstep import Evaluator
from coordinator.exchange.schedule import learning_rate
from shared.adapters import Tensors
from shared.files import sha256, write_atomic
from shared.metrics import wilson
from shared.policy.initial import initial_adapter
from shared.policy.rtc import CONTROL_HZ, POLICY_HZ, Guidance
from sim.lockstep import rollout_batch

ROOT = Path(__file__).resolve().parents[1]
BASE, FOLDER = ROOT / "sim" / "base", ROOT / "delay-run"
TICKS = range(9)
CHOSEN = (0, 4, 8)
"""Ticks whose success is a figure of its own. They are run first: a run that is stopped early has them."""
ROLLOUTS = 60
"""A cell's, at least."""
TRAINED_DELAY = 3
"""Actions that 8 ticks take, rounded up: no cell is beyond what was trained for."""


@dataclass(frozen=True)
class Way:
    """How a column of the table is run. delay: Of the recipe that its adapter was trained with."""

    delay: int
    guidance: Guidance


WAYS = {
    "none": Way(0, Guidance(enabled=False)),
    "guidance": Way(0, Guidance()),
    "prefix": Way(TRAINED_DELAY, Guidance()),
}


@dataclass(frozen=True)
class Cell:
    """successes and rollouts of one way at one delay; seconds: mean over the successful ones, 0 without."""

    successes: int
    rollouts: int
    seconds: float

    @property
    def words(self) -> str:
        """For the table: success with its interval, and the time."""
        low, high = wilson(self.successes, self.rollouts)
        rate = self.successes / self.rollouts
        return f"{rate:.0%} [{100 * low:.0f}-{100 * high:.0f}], {self.seconds:.1f} s"


class Bench:
    """The two adapters and the table in the making; both lie below `folder` as far as they are done.

    Args:
        seed: Of demonstrations, training and scenes, below 20.
        scenes: Per task.
        updates: That each adapter is trained for.
        arm: Whose one station, recipe and tasks are used.
    """

    def __init__(
        self, folder: Path, seed: int, scenes: int, updates: int, arm: Arm = CENTRALISED, base: Path = BASE
    ) -> None:
        self._arm = arm.model_copy(update={"exact": True})
        self._seed, self._scenes, self._updates, self._base = seed, scenes, updates, base
        self._demonstrations = folder / "demonstrations"
        plan = [self._arm.model_dump_json(), seed, scenes, updates, TRAINED_DELAY, commit_of(ROOT)]
        self._work = folder / sha256(json.dumps(plan).encode())[:12]
        (self._work / "cells").mkdir(parents=True, exist_ok=True)

    def table(self, begin: Callable[[str, int], Callable[[], None]]) -> dict[str, list[Cell]]:
        """Way to its cells, for `TICKS`.

        Args:
            begin: Called with (what begins, how many parts); what it returns is called after each part.
        """
        evaluator, found = Evaluator(self._base), dict[tuple[str, int], Cell]()
        adapters = {delay: self._trained(delay, begin) for delay in (0, TRAINED_DELAY)}
        done = begin("rollouts", len(WAYS) * len(TICKS))
        for ticks in sorted(TICKS, key=lambda ticks: ticks not in CHOSEN):
            for name, way in WAYS.items():
                tensors, peft_config = adapters[way.delay]
                evaluator.chunker.load_tensors(tensors, peft_config, delay=way.delay)
                evaluator.chunker.guidance = way.guidance
                found[name, ticks] = self._cell(evaluator, name, ticks)
                done()
        return {name: [found[name, ticks] for ticks in TICKS] for name in WAYS}

    def _trained(
        self, delay: int, begin: Callable[[str, int], Callable[[], None]]
    ) -> tuple[Tensors, dict[str, Any]]:
        """(adapter, its PEFT configuration), trained as far as it is not on disk."""
        recipe = self._arm.recipe.model_copy(update={"seed": self._seed, "delay": delay})
        (station,) = self._arm.stations
        split = Demonstrations(self._demonstrations, self._seed).split(station)
        updates = StationUpdates(self._arm, station, recipe, self._base, split, self._work / f"delay-{delay}")
        tensors, peft_config = initial_adapter(self._base, recipe)
        done = begin(f"training for a delay of {delay}" if delay else "plain training", self._updates)
        for number in range(self._updates):
            rate = learning_rate(recipe, number, self._updates)
            delta, _ = updates.update(number, tensors, number, rate)
            tensors = {name: array + delta[name] for name, array in tensors.items()}
            done()
        return tensors, peft_config

    def _cell(self, evaluator: Evaluator, name: str, ticks: int) -> Cell:
        path = self._work / "cells" / f"{name}-{ticks}.json"
        if path.exists():
            return Cell(**json.loads(path.read_text()))
        first, results = FIRST_SCENE + 1_000_000 * self._seed, []
        for asked in self._arm.tasks:
            # A row's cells share their noise; those of another row that lose as many actions don't.
            evaluator.chunker.reseed(ticks)
            scenes = list(range(first, first + self._scenes))
            results += rollout_batch(evaluator.predict, [asked.task] * len(scenes), scenes, ticks)
        steps = [result.steps for result in results if result.success]
        seconds = round(float(np.mean(steps)) / POLICY_HZ, 3) if steps else 0.0
        cell = Cell(len(steps), len(results), seconds)
        write_atomic(path, json.dumps(asdict(cell)))
        return cell


def shown(table: dict[str, list[Cell]]) -> Table:
    """For people."""
    printed = Table("ticks", "ms", *table, title="success [95 % interval], mean time of successful rollouts")
    for ticks in TICKS:
        cells = [of_way[ticks].words for of_way in table.values()]
        printed.add_row(str(ticks), f"{1000 * ticks / CONTROL_HZ:.0f}", *cells)
    return printed


def figures(table: dict[str, list[Cell]]) -> tuple[bool, dict[str, Any]]:
    """(every cell has enough rollouts, figures): success of each way at 0, 4 and 8 ticks, and everything."""
    cells = [cell for of_way in table.values() for cell in of_way]
    rates = {name: [cell.successes / cell.rollouts for cell in of_way] for name, of_way in table.items()}
    chosen = {f"{name}_{ticks}": round(rates[name][ticks], 4) for name in rates for ticks in CHOSEN}
    whole = {name: [asdict(cell) for cell in of_way] for name, of_way in table.items()}
    fewest = min(cell.rollouts for cell in cells)
    return fewest >= ROLLOUTS, chosen | {"rollouts_per_cell": fewest, "cells": whole}


def measure(bench: Bench) -> tuple[bool, dict[str, Any]]:
    """Train, roll out, print the table."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as bars:

        def begin(what: str, parts: int) -> Callable[[], None]:
            bar: TaskID = bars.add_task(what, total=parts)
            return lambda: bars.advance(bar)

        table = bench.table(begin)
    Console(width=140).print(shown(table))
    return figures(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what is missing, and returns the exit status; the last line is JSON."""
    parser = argparse.ArgumentParser(description="Three ways to join chunks, at delays of 0 to 8 ticks.")
    parser.add_argument("--seed", type=int, choices=range(20), default=0, metavar="0..19")
    parser.add_argument("--scenes", type=int, default=15, help="per task, of four tasks")
    parser.add_argument("--updates", type=int, default=60, help="of 24 gradient steps, for each adapter")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="adapters and finished cells")
    parser.add_argument("--out", type=Path, default=ROOT / "bench-delay.json", help="the result as JSON")
    options = parser.parse_args(arguments)
    logger.remove()
    logger.add(sys.stderr, level="WARNING")
    bench = Bench(options.folder, options.seed, options.scenes, options.updates)
    return measured("bench-delay", options.out, lambda: measure(bench))


if __name__ == "__main__":
    sys.exit(main())
