"""How soon the trainer is gone when the operator wants the machine, with all processors busy.

    make bench-preempt         # 40 interruptions; --count N for others, SEED=n for other moments

The trainer is the real process, started and supervised as the agent does it, in the middle of an update of
the tiny base, with a checkpoint every tenth of a second. Then as many processes as there are processors
begin to compute at normal priority, and after a random moment `Worker.kill` is called, which is what a
request for the arm waits for. The clock stops when the process has been reaped: its processor and its memory
are free, those on a GPU included. Every next start goes on from the checkpoint.

    p99_s     of the interruptions; of fewer than a hundred, the longest

Exits with 1 when p99_s is a second or more.
"""

import argparse
import asyncio
import math
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.progress import Progress

from agent.daemon import worker_commands
from agent.judging import main as judge
from agent.supervision import Worker, WorkerSpec
from benchmarks.outcome import Figures, measured
from benchmarks.soak.steps import Workplace
from shared.adapters import Manifest, digest, write_adapter
from shared.errors import ArmfleetError
from shared.policy.digest import base_digest
from shared.policy.initial import initial_adapter
from shared.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
BASE = ROOT / "sim" / "base"
P99_TARGET_S = 1.0
READY_S = 300.0
"""Longest wait for the trainer to be at work: it imports torch at the lowest priority."""
LOAD_S = 1.0
"""The interruption comes within this time of the beginning of the load."""

EPISODES = 4
STEPS = 100_000
"""Of the update: more than are done between all interruptions."""


def prepare(folder: Path, seed: int) -> tuple[Workplace, dict[str, Any]]:
    """A workstation with admitted episodes and a version; with it, the order to train on that."""
    place = Workplace(folder, BASE)
    place.toml.write_text(place.toml.read_text() + "[training]\ncheckpoint_s = 0.1\n")
    names = [f"{number + 1:06d}" for number in range(EPISODES)]
    for number, name in enumerate(names):
        place.save(name, seed * EPISODES + number)()()
    if judge(place.toml, names):
        raise ArmfleetError("the gate could not judge the demonstrations")
    recipe = Recipe(batch=4, draws=1, steps=STEPS)
    tensors, peft_config = initial_adapter(BASE, recipe)
    manifest = Manifest(
        version=0,
        parent=None,
        base_digest=base_digest(BASE),
        tensors_digest=digest(tensors),
        recipe=recipe,
        created="2026-01-01T00:00:00Z",
    )
    version = folder / "version"
    version.mkdir()
    write_adapter(version, tensors, peft_config, manifest)
    order = {"version": 0, "folder": str(version), "recipe": recipe.model_dump(mode="json")}
    return place, order | {"learning_rate": 1e-3}


class Bench:
    """The trainer under supervision.

    Args:
        place: Its workstation.
        order: Fields of `train`.
    """

    def __init__(self, place: Workplace, order: dict[str, Any]) -> None:
        self._order = order
        spec = WorkerSpec("trainer", worker_commands(place.toml)["trainer"], background=True)
        self._worker = Worker(spec, self._event)
        self._stepped = asyncio.Event()

    async def at_work(self) -> None:
        """Start it, and wait until it has done a step."""
        self._stepped.clear()
        self._worker.start()
        await self._worker.wait_ready(READY_S)
        await self._worker.request("train", **self._order)
        await asyncio.wait_for(self._stepped.wait(), READY_S)

    async def interrupt(self) -> float:
        """Seconds from the wish to the end of the process."""
        pid, began = self._worker.pid, time.monotonic()
        await self._worker.kill("the operator wants the machine")
        took = time.monotonic() - began
        if pid is None or Path(f"/proc/{pid}").exists():
            raise ArmfleetError(f"the trainer (process {pid}) was not running, or still is")
        return took

    async def stop(self) -> None:
        """End it, whatever happened."""
        await self._worker.stop("the end")

    def _event(self, name: str, _fields: dict[str, Any]) -> None:
        if name == "progress":
            self._stepped.set()


@contextmanager
def load() -> Iterator[None]:
    """Every processor computes at normal priority while the block runs."""
    processes = [
        get_context("spawn").Process(target=_compute, daemon=True) for _ in range(os.cpu_count() or 1)
    ]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def _compute() -> None:
    while True:
        math.sqrt(2.0)


async def interruptions(folder: Path, count: int, seed: int) -> list[float]:
    """Seconds that each took."""
    draw, took = random.Random(seed), []
    bench = Bench(*prepare(folder, seed))
    try:
        with Progress() as bars:
            for _ in bars.track(range(count), description="interrupting the trainer"):
                await bench.at_work()
                with load():
                    await asyncio.sleep(draw.uniform(0, LOAD_S))
                    took.append(await bench.interrupt())
    finally:
        await bench.stop()
    return took


def measure(count: int, seed: int) -> tuple[bool, Figures]:
    """Interrupts `count` times; whether the target is met, and the figures."""
    with tempfile.TemporaryDirectory(prefix="armfleet-bench-") as folder:
        took = sorted(asyncio.run(interruptions(Path(folder), count, seed)))
    p99 = took[math.ceil(0.99 * count) - 1]
    print(f"{count} interruptions: median {took[count // 2]:.3f} s, longest {took[-1]:.3f} s")
    figures = {"p99_s": round(p99, 3), "median_s": round(took[count // 2], 3), "count": count}
    return p99 < P99_TARGET_S, figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, and returns the exit status; the last line is JSON."""
    parser = argparse.ArgumentParser(description="How soon the trainer is gone when it must give way.")
    parser.add_argument("--count", type=int, default=40, help="interruptions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "bench-preempt.json", help="the result as JSON")
    options = parser.parse_args(arguments)
    return measured("bench-preempt", options.out, lambda: measure(options.count, options.seed))


if __name__ == "__main__":
    sys.exit(main())
