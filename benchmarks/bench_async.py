"""Asynchronous against synchronous inference: the same tasks, scenes, policy and arm, in the same run.

    make bench-async           # four pushes, ten scenes each, three delays; SEED=n, SCENES=n

A virtual workstation with the product's arm process and policy process. Asynchronous is the product
(`agent.inference.engine`); synchronous is LeRobot's engine, which stands still while it infers
(`benchmarks.workers.either_arm`). They take turns on each scene, so that whatever else the machine does
disturbs both. The policy is the tiny one, as it is and with 100 and 250 ms more for each inference, which is
what the full-size one takes on a small GPU (`benchmarks.workers.slowed_policy`); the pause costs no processor
time.

The adapter that can do the tasks is trained first, four minutes, and kept in `--folder`
(`benchmarks.asynchronous.pooled_adapter`).

    speedup_completion  mean time to completion, synchronous over asynchronous, of scenes that both completed
    throughput_ratio    completions per minute of running time, asynchronous over synchronous
    starved_ticks       control ticks without an action, in asynchronous rollouts whose latency stayed below
                        half a chunk (`rollouts_in_time` of them); the arm holds in such a tick

The first two are the lesser of the cases with 100 and 250 ms. Exits with 1 when one of them is below 1.3,
when a tick starved, or when asynchronous success is below synchronous by more than chance allows: the 95 %
Wilson intervals over all rollouts don't overlap.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loguru import logger

from benchmarks.asynchronous.figures import MODES, Tried, figures, met, table
from benchmarks.asynchronous.pooled_adapter import TASKS, UPDATES, pooled_adapter
from benchmarks.asynchronous.rollouts import LONGEST_S, Bench
from benchmarks.outcome import measured
from benchmarks.workers.arm_process import agent_config
from cli.demo.enrol import QUIET
from cli.demo.plan import BASE
from cli.demo.screen import Screen
from sim.launch import launch

ROOT = Path(__file__).resolve().parents[1]
DELAYS_MS = (0, 100, 250)
SEED0 = 40_000_000
"""First scene of SEED 0, above all that anything was trained or evaluated on (benchmarks.learning.plan)."""


def run(options: argparse.Namespace, screen: Screen, folder: Path, adapter: Path) -> list[Tried]:
    """Every rollout."""
    config = folder / "workstation.toml"
    config.write_text(f'dir = "{folder}/ws"\n[cameras.front]\nport = 0\n')
    seeds = range(SEED0 + 1000 * options.seed, SEED0 + 1000 * options.seed + options.scenes)
    bar = screen.bar("rollouts", len(DELAYS_MS) * len(TASKS) * len(seeds) * len(MODES))
    tried: list[Tried] = []
    workstation = launch(config)
    try:
        toml = agent_config(workstation, folder, base=BASE)
        toml.write_text(toml.read_text() + f"[inference]\nmax_s = {LONGEST_S}\n")
        with Bench(workstation, toml, adapter, folder / "state/rollouts") as bench:
            for delay_ms in DELAYS_MS:
                bench.load_policy(delay_ms)
                for turn, (task, seed) in enumerate((task, seed) for task in TASKS for seed in seeds):
                    for mode in MODES if turn % 2 else reversed(MODES):
                        tried.append(bench.rollout(mode, task, seed))
                        bar.advance(f"{delay_ms} ms, {task.task.text}, {mode}")
    finally:
        workstation.stop()
    return tried


def measure(options: argparse.Namespace) -> tuple[bool, dict[str, Any]]:
    """Trains if need be, runs, prints the tables; whether the targets are met, and the figures."""
    screen = Screen()
    options.folder.mkdir(parents=True, exist_ok=True)
    logger.remove()
    logger.add(options.folder / "bench.log", level="INFO")
    folder = Path(tempfile.mkdtemp(prefix="armfleet-async-"))
    try:
        with screen.running():
            bar = screen.bar("training", UPDATES)
            adapter = pooled_adapter(options.folder.absolute(), BASE, options.seed, bar.advance)
            bar.set(UPDATES)
            tried = run(options, screen, folder, adapter)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for delay_ms in DELAYS_MS:
        screen.console.print(table(tried, delay_ms))
    chunk = json.loads((BASE / "config.json").read_text())["chunk_size"]
    found = figures(tried, chunk)
    return met(found, tried), found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, and returns the exit status; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=10, choices=range(1, 101), metavar="PER_TASK")
    parser.add_argument("--seed", type=int, default=0, help="of training and scenes")
    parser.add_argument("--folder", type=Path, default=ROOT / "async-run", help="keeps the adapter")
    parser.add_argument("--out", type=Path, default=ROOT / "bench-async.json", help="the result as JSON")
    options = parser.parse_args(arguments)
    os.environ.update(QUIET)
    return measured("bench-async", options.out, lambda: measure(options))


if __name__ == "__main__":
    sys.exit(main())
