"""One plant, two clocks: does the same policy succeed as often in lockstep as through the serial port?

    make bench-clocks          # 60 rollouts per task; --rollouts N for fewer
    … -m benchmarks.bench_clocks --adapter versions/000040 --tasks push_left:red,push_right:green

First a virtual workstation and a real agent attempt every scene in real time: drivers, servo bus, camera,
asynchronous inference; the simulator judges. When their processes have ended, the coordinator's evaluator
rolls out the same policy on the same scenes in lockstep, with the inference delay measured at the port. If
that is not the coordinator's own `[evaluation] delay_ticks`, the table shows what it would say too.

Exits with 1 when a task's rates of success differ by more than `MAX_POINTS`.
"""

import argparse
import math
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import batched
from pathlib import Path
from typing import Any

from loguru import logger
from rich.table import Column, Table

from agent.evaluation.rollouts import RolloutRecord, RolloutStore
from agent.versions import SWAP_S
from benchmarks.outcome import measured
from benchmarks.workers.adapted_agent import ADAPTED
from cli.demo.enrol import QUIET, agent_unit, simulator_unit
from cli.demo.layout import ROOT, Layout, make_layout
from cli.demo.plan import BASE, Plan, StationPlan, TaskPlan
from cli.demo.record import READY_S
from cli.demo.screen import Screen
from cli.demo.station import Station
from cli.demo.supervisor import Supervisor, require_running
from cli.demo.tally import described
from coordinator.config import load
from shared.adapters import digest, read_adapter
from shared.errors import ArmfleetError
from sim.lockstep import MAX_S, POLICY_HZ
from sim.tasks import Task

MAX_POINTS = 10.0
SEED0 = 950_000
"""First scene: neither the base's training and evaluation nor a demo of SEED 0 uses these."""
BATCH = 20
"""Scenes rolled out together in lockstep, as many as the coordinator takes by default."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Tasks = Sequence[TaskPlan]
Results = dict[str, list[bool]]
"""Per task one entry per scene, in the order of the seeds."""


def parse_tasks(text: str) -> tuple[TaskPlan, ...]:
    """`touch:red,hover:green`, as plans with their sentences."""
    try:
        tasks = [Task(*each.split(":")) for each in text.split(",")]
    except (TypeError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not VERB:COLOUR,… ({error})") from error
    return tuple(TaskPlan(task.verb, task.color, task.text) for task in tasks)


def named(task: TaskPlan) -> str:
    """Name of a task in the figures, as the coordinator's evaluation has it."""
    return f"{task.verb}_{task.color}"


def latency_ms(records: Sequence[RolloutRecord]) -> float:
    """Mean time from an observation's dispatch to its chunk, over all chunks of all rollouts."""
    chunks = sum(record.figures.chunks for record in records)
    total = sum(record.figures.latency_ms_mean * record.figures.chunks for record in records)
    return total / chunks if chunks else 0.0


def ticks_of(latency: float) -> int:
    """The policy ticks that RTC's queue counts for an inference of `latency` ms: at least one."""
    return max(1, math.ceil(latency * POLICY_HZ / 1000))


def figures(port: Results, lockstep: Results, delay_ticks: int, latency: float) -> dict[str, Any]:
    """Those of the last line; the difference is that of a task's two rates of success."""
    points = [abs(sum(port[name]) - sum(lockstep[name])) * 100 / len(port[name]) for name in port]
    return {
        "rollouts": len(next(iter(port.values()))),
        "port": {name: sum(results) for name, results in port.items()},
        "lockstep": {name: sum(results) for name, results in lockstep.items()},
        "largest_difference_points": round(max(points), 1),
        "delay_ticks": delay_ticks,
        "port_latency_ms": round(latency, 1),
    }


@contextmanager
def workstation(layout: Layout, adapter: Path | None) -> Iterator[Station]:
    """A virtual workstation and its agent, ready; afterwards every process has ended, the agent's first.

    Raises:
        ArmfleetError: It was not ready in time, or the agent ended and was started again meanwhile.
    """
    place = layout.stations[0]
    agent = agent_unit(place)
    if adapter is not None:
        argv = [sys.executable, "-m", "benchmarks.workers.adapted_agent", str(place.config), str(adapter)]
        agent = replace(agent, argv=argv, cwd=ROOT)
    supervisor = Supervisor(layout.logs, QUIET)
    try:
        supervisor.start(simulator_unit(place))
        supervisor.start(agent)
        station = Station(place, threading.Event())
        station.wait_ready(READY_S)
        if adapter is not None:
            station.until("the swap to the adapter", SWAP_S, place.config.with_name(ADAPTED).exists)
        yield station
        require_running(supervisor, agent.name, restarts=1)
    finally:
        before = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}
        logger.info("ended; had to be killed: {}", supervisor.stop() or "nothing")
        for number, handler in before.items():
            signal.signal(number, handler)


def through_port(screen: Screen, station: Station, tasks: Tasks, seeds: Sequence[int]) -> Results:
    """Every scene on the arm, in real time; then the arm is released."""
    bar = screen.bar("through the serial port", len(tasks) * len(seeds))
    results: Results = {named(task): [] for task in tasks}
    for task in tasks:
        for seed in seeds:
            row = results[named(task)]
            row.append(station.rollout(task, seed, MAX_S))
            bar.advance(f"{task.text}: {sum(row)}/{len(row)}")
    station.agent.post("/arm/release", {})
    station.until(
        "the release of the arm", 5.0, lambda: not any(station.sim.get("/status")["follower_torque"])
    )
    return results


def check_records(records: Sequence[RolloutRecord], expected: int, adapter: Path | None) -> None:
    """Every rollout was kept, and what acted in it was the policy that is measured.

    Raises:
        ArmfleetError: Not so.
    """
    wanted = digest(read_adapter(adapter)[0]) if adapter else None
    ran = sum(record.digest == wanted or not record.figures.chunks for record in records)
    if ran != expected:
        what = f"only {ran} of {expected} rollouts on the arm ran the policy that is measured"
        raise ArmfleetError(what, do="read the log of the agent")


def in_lockstep(
    screen: Screen, adapter: Path | None, tasks: Tasks, seeds: Sequence[int], delays: list[int]
) -> dict[int, Results]:
    """The same scenes without a clock, for each delay in policy ticks."""
    from coordinator.evaluation.lockstep import Evaluator

    bar = screen.bar("in lockstep", len(delays) * len(tasks) * len(seeds))
    evaluator = Evaluator(BASE)
    evaluator.chunker.load_version(adapter)
    found: dict[int, Results] = {delay: {named(task): [] for task in tasks} for delay in delays}
    for delay in delays:
        for task in tasks:
            name = named(task)
            row = found[delay][name]
            for scenes in batched(seeds, BATCH):
                for result in evaluator.evaluate_loaded([Task(task.verb, task.color)], scenes, delay)[name]:
                    row.append(bool(result))
                    bar.advance(f"{task.text}, delay {delay}: {sum(row)}/{len(row)}")
    return found


def table(port: Results, lockstep: dict[int, Results]) -> Table:
    """For a person: successes with their 95 % intervals, and scenes that only one of the clocks solved."""
    shown = Table(Column("task", no_wrap=True), "port")
    for delay in lockstep:
        shown.add_column(f"lockstep, delay {delay}")
        shown.add_column("apart")
    for name, results in port.items():
        row = [name, described(results)]
        for other in lockstep.values():
            apart = sum(a != b for a, b in zip(results, other[name], strict=True))
            row += [described(other[name]), str(apart)]
        shown.add_row(*row)
    return shown


def measure(options: argparse.Namespace, screen: Screen, layout: Layout) -> tuple[bool, dict[str, Any]]:
    """Both clocks and the table; whether the target was met, and the figures."""
    tasks, seeds = options.tasks, range(SEED0, SEED0 + options.rollouts)
    with screen.running():
        with workstation(layout, options.adapter) as station:
            port = through_port(screen, station, tasks, seeds)
        records = RolloutStore(layout.stations[0].state / "rollouts").records()
        check_records(records, len(tasks) * len(seeds), options.adapter)
        delay = ticks_of(latency := latency_ms(records))
        delays = sorted({delay, load(layout.coordinator_config).evaluation.delay_ticks})
        lockstep = in_lockstep(screen, options.adapter, tasks, seeds, delays)
    screen.console.print(table(port, lockstep))
    seen = [record.figures for record in records]
    screen.say(
        f"At the port: latency {latency:.0f} ms, at most {max(each.latency_ms_max for each in seen):.0f} ms;"
        f" {sum(each.starved for each in seen)} of {sum(each.ticks for each in seen)} ticks had no action;"
        f" the rollouts ended with {dict(Counter(record.reason for record in records))}."
    )
    found = figures(port, lockstep[delay], delay, latency)
    return found["largest_difference_points"] <= MAX_POINTS, found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, whatever happens ends everything it started, and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rollouts", type=int, default=60, choices=range(1, 1001), metavar="PER_TASK")
    parser.add_argument("--tasks", type=parse_tasks, default=parse_tasks("touch:red,hover:green"))
    parser.add_argument("--adapter", type=Path, help="PEFT folder of a version; without it the base alone")
    parser.add_argument("--out", type=Path, default=ROOT / "bench-clocks.json", help="the result as JSON")
    options = parser.parse_args(arguments)
    os.environ.update(QUIET)
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler)  # KeyboardInterrupt
    return measured("clocks", options.out, lambda: in_folder(options, Screen()))


def in_folder(options: argparse.Namespace, screen: Screen) -> tuple[bool, dict[str, Any]]:
    """As `measure`, in a folder of its own that stays only after a failure."""
    folder = Path(tempfile.mkdtemp(prefix="armfleet-clocks-"))
    try:
        layout = make_layout(Plan(stations=(StationPlan("arm"),)), folder)
        logger.remove()
        logger.add(layout.logs / "bench.log", level="INFO")
        found = measure(options, screen, layout)
    except BaseException:
        screen.say(f"[red]It failed.[/red] The logs are in {folder}.")
        raise
    shutil.rmtree(folder, ignore_errors=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
