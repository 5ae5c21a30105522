"""The installed Flower apps with many virtual nodes on this machine, by Flower's simulation engine.

    make simulate NODES=12     # ROUNDS=n versions, STATIONS=n in the pool, SEED=n

Demonstrations of the scripted person are pooled into one data set and dealt to the nodes (`pool`). The
coordinator is its real daemon with its evaluation, in a process of its own; the nodes live in another one
(`nodes`). There is no SuperLink, no TLS and no workstation. The recipe is in
`benchmarks/simulate/coordinator.toml`; what came out stays in `simulate-run/`: the coordinator's state with
all versions, and the logs. docs/simulate.md.

    versions, updates                  made in ROUNDS rounds
    staleness_histogram                staleness -> updates
    success_before, success_after      by task, of the base and of the promoted version

Exits with 1 when no version was promoted that does better than the base beyond chance.
"""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from string import Template
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from agent.supervision import DIES_WITH_DAEMON, ENVIRONMENT
from benchmarks.outcome import Figures, measured
from benchmarks.simulate.engine import check_ray
from benchmarks.simulate.pool import TASKS, check_sizes, record
from coordinator.config import load
from coordinator.enrolment.setup import init
from coordinator.layout import RUN_FILE
from shared.errors import ArmfleetError
from shared.files import write_atomic
from shared.logging import setup_logging
from shared.metrics import wilson
from shared.uds import UdsClient

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "sim" / "base"
RUN = ROOT / "simulate-run"
TEMPLATE = Path(__file__).with_name("coordinator.toml")
DEMONSTRATIONS = 6
"""Of each station."""
EVALUATIONS = 4
"""Of versions, spread over the rounds; the base is evaluated besides."""
ROLLOUTS = 20
"""Per task and evaluation."""
START_S, END_S, LOOK_S = 300.0, 120.0, 0.5
SILENT_S = 900.0
"""Given up when nothing has changed for so long."""


def fill(sockets: Path, nodes: int, rounds: int, seed: int) -> str:
    """coordinator.toml, with rounds of a third of the nodes."""
    tasks = ", ".join(f'{{ verb = "{task.verb}", color = "{task.color}" }}' for task in TASKS)
    values = {
        "state": RUN / "state",
        "sockets": sockets,
        "base": BASE,
        "buffer_size": max(1, nodes // 3),
        "rounds": rounds,
        "seed": seed,
        "every": max(1, rounds // EVALUATIONS),
        "tasks": tasks,
        "rollouts": ROLLOUTS,
    }
    return Template(TEMPLATE.read_text()).substitute({name: str(value) for name, value in values.items()})


@contextlib.contextmanager
def process(name: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of this interpreter that logs to a file of its own and does not outlive the block."""
    with (RUN / f"{name}.log").open("wb") as log:
        running = subprocess.Popen(
            [*DIES_WITH_DAEMON, sys.executable, *arguments],
            cwd=ROOT,
            env={**os.environ, **ENVIRONMENT},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C reaches this process alone, which ends the others in order
        )
    try:
        yield running
    finally:
        running.terminate()
        try:
            running.wait(END_S)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


class Run:
    """Both processes, looked after until the last round is evaluated."""

    def __init__(self, nodes: subprocess.Popen[bytes]) -> None:
        self._processes = {"nodes": nodes}

    def wait_for(self, path: Path) -> None:
        """Until a file or socket is there."""
        deadline = time.monotonic() + START_S
        while not path.exists():
            self._check()
            if time.monotonic() > deadline:
                raise _failed(f"{path.name} did not come within {START_S:g} s")
            time.sleep(LOOK_S)

    def add(self, name: str, running: subprocess.Popen[bytes]) -> None:
        """Look after another process."""
        self._processes[name] = running

    def watch(self, client: UdsClient, every: int, bars: Progress) -> dict[str, Any]:
        """Until all rounds are done and no evaluation is due; the coordinator's status then, with its
        versions.

        Args:
            every: Each version whose number is a multiple of it is evaluated.
        """
        bar, seen, since = bars.add_task("rounds"), None, time.monotonic()
        while True:
            self._check()
            status = client.get("/status") | client.get("/versions")
            newest, rounds, evaluating = status["newest"], status["rounds"], status["evaluation"]["version"]
            text = f"rounds ({status['evaluation']['now']})"
            bars.update(bar, completed=min(newest, rounds), total=rounds, description=text)
            due = any(v["state"] == "candidate" and v["version"] % every == 0 for v in status["versions"])
            if newest >= rounds and not due and evaluating is None:
                return status
            now = (newest, status["aggregation"]["waiting"], evaluating)
            if now != seen:
                seen, since = now, time.monotonic()
            if time.monotonic() - since > SILENT_S:
                raise _failed(f"nothing has happened for {SILENT_S:g} s")
            time.sleep(LOOK_S)

    def _check(self) -> None:
        for name, running in self._processes.items():
            if running.poll() is not None:
                raise _failed(f"the process of the {name} ended with status {running.returncode}")


def _failed(what: str) -> ArmfleetError:
    return ArmfleetError(f"the simulation failed: {what}", kept=str(RUN), do=f"see the logs in {RUN}")


def run(toml: Path, pool: Path, work: Path, nodes: int, bars: Progress) -> dict[str, Any]:
    """Run the fleet to its end; what its coordinator says then."""
    config = load(toml)
    init(config)
    sizes = ("--pool", str(pool), "--work", str(work), "--nodes", str(nodes))
    with process("nodes", "-m", "benchmarks.simulate.nodes", "--config", str(toml), *sizes) as hosting:
        both = Run(hosting)
        both.wait_for(config.state / RUN_FILE)
        with process("coordinator", "-m", "cli.main", "coordinator", "--config", str(toml)) as daemon:
            both.add("coordinator", daemon)
            both.wait_for(config.coordinator.socket)
            client = UdsClient(config.coordinator.socket, 30.0)
            status = both.watch(client, config.evaluation.every, bars)
            client.post("/exchange/stop")
            client.close()
            if hosting.wait(END_S):
                raise _failed(f"the process of the nodes ended with status {hosting.returncode}")
    return status


def figures(status: dict[str, Any]) -> Figures:
    """What the coordinator knows in the end."""
    versions = {version["version"]: version for version in status["versions"]}
    promoted = versions[status["promoted"]["version"]]
    return {
        "nodes": len(status["nodes"]),
        "rounds": status["rounds"],
        "versions": status["newest"],
        "updates": sum(node["updates"] for node in status["nodes"]),
        "staleness_histogram": status["aggregation"]["staleness_histogram"],
        "promoted": promoted["version"],
        "success_before": _counts(versions[0]),
        "success_after": _counts(promoted),
    }


def _counts(version: dict[str, Any]) -> dict[str, list[int]]:
    """Task: [successes, rollouts]."""
    known = version["evaluation"]["known"] if version["evaluation"] else {}
    return {task: [counts["successes"], counts["rollouts"]] for task, counts in known.items()}


def better(found: Figures) -> bool:
    """Whether the promoted version does better than the base beyond chance: the Wilson 95 % intervals of
    their successes over all tasks don't overlap."""
    before, after = (_interval(found[key].values()) for key in ("success_before", "success_after"))
    return after[0] > before[1]


def _interval(counts: Iterable[list[int]]) -> tuple[float, float]:
    won, tried = (sum(column) for column in zip(*counts, strict=True))
    return wilson(won, tried)


def table(versions: Sequence[dict[str, Any]]) -> Table:
    """Successes of every evaluated version, with Wilson's 95 % interval."""
    shown = Table(title="Rollouts in simulation (95 % Wilson)")
    names = sorted(_counts(versions[0]))
    for heading in ("version", *names, "state"):
        shown.add_column(heading)
    for version in versions:
        counts = _counts(version)
        if counts:
            cells = [_described(*counts[name]) for name in names]
            shown.add_row(str(version["version"]), *cells, version["state"])
    return shown


def _described(won: int, tried: int) -> str:
    low, high = wilson(won, tried)
    return f"{won}/{tried} [{low:.0%}-{high:.0%}]"


def measure(nodes: int, stations: int, rounds: int, seed: int) -> tuple[bool, Figures]:
    """Whether a better version than the base came out, and the figures."""
    setup_logging("simulate", "WARNING")
    check_ray()
    check_sizes(stations, nodes)
    began = time.monotonic()
    shutil.rmtree(RUN, ignore_errors=True)
    RUN.mkdir()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with tempfile.TemporaryDirectory(prefix="armfleet-") as folder, Progress(*columns) as bars:
        work, toml = Path(folder), RUN / "coordinator.toml"
        bar = bars.add_task("demonstrations", total=stations * DEMONSTRATIONS)
        record(work / "pool", stations, DEMONSTRATIONS, seed, lambda: bars.advance(bar))
        write_atomic(toml, fill(work, nodes, rounds, seed))
        status = run(toml, work / "pool", work, nodes, bars)
        bars.console.print(table(status["versions"]))
    found = figures(status)
    found["wall_s"] = round(time.monotonic() - began, 1)
    return better(found), found


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs, and returns the exit status; the last line is JSON."""
    parser = argparse.ArgumentParser(description="Many virtual nodes under Flower's simulation engine.")
    parser.add_argument("--nodes", type=int, default=12)
    parser.add_argument("--stations", type=int, help="of the pool; default: as many as nodes")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "simulate.json", help="the result as JSON")
    options = parser.parse_args(arguments)
    stations = options.stations if options.stations is not None else options.nodes
    return measured(
        "simulate", options.out, lambda: measure(options.nodes, stations, options.rounds, options.seed)
    )


if __name__ == "__main__":
    sys.exit(main())
