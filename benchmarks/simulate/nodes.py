"""The process with all virtual nodes: stations on their sockets, their trainer, the engine with both apps.

    python -m benchmarks.simulate.nodes --config coordinator.toml --pool DIR --work DIR --nodes 12

It enrols the nodes at the coordinator, whose daemon must not run yet: they are in the registry, and the run
is in `run.json`, when that file appears. It ends when the coordinator ends the exchange.
"""

import argparse
import asyncio
import json
import os
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from loguru import logger

from agent.config import AgentConfig
from benchmarks.simulate.client_app import make_app, socket_of
from benchmarks.simulate.engine import Engine
from benchmarks.simulate.pool import deal, episodes_of
from benchmarks.simulate.station import Station, agent_config, enrol
from benchmarks.simulate.turns import Turns
from coordinator.config import CoordinatorConfig, load
from coordinator.enrolment import fleet as fleets
from coordinator.exchange import app_bundle
from coordinator.exchange.server_app import app as server_app
from coordinator.layout import RUN_FILE
from coordinator.registry.nodes import Node, NodeStore
from coordinator.registry.targets import Publisher
from shared.exit_codes import ExitCode
from shared.files import write_atomic
from shared.logging import setup_logging

LOOK_S = 0.2
"""Pause between two looks whether the run has ended."""


def enrolled(config: CoordinatorConfig, engine: Engine, work: Path, nodes: int) -> list[AgentConfig]:
    """Make the nodes known to the engine and to the coordinator; the configurations of their agents, in the
    order of their partition ids."""
    fleet, root = fleets.read(config.state), Publisher(config.state / "tuf").root
    store = NodeStore(config.state / "nodes")
    agents = []
    for partition in range(nodes):
        name = f"node-{partition:03d}"
        agent = agent_config(name, work / name, socket_of(work, partition), config.policy.base)
        public_key = enrol(agent, config, fleet, root)
        node_id = engine.register(name, public_key)
        store.write(Node(name=name, node_id=node_id, public_key=public_key, enrolled=datetime.now(UTC)))
        agents.append(agent)
    return agents


async def host(stations: Sequence[Station], stop: threading.Event) -> None:
    """Run stations until `stop` is set; one that fails ends them all."""
    ended = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for station in stations:
            group.create_task(station.run(ended))
        while not stop.is_set():  # a thread that waits for it would outlive a station's failure
            await asyncio.sleep(LOOK_S)
        ended.set()


def simulate(config: CoordinatorConfig, pool: Path, work: Path, nodes: int) -> None:
    """Run all nodes until the coordinator ends the exchange."""
    engine, stop = Engine(), threading.Event()
    agents = enrolled(config, engine, work, nodes)
    parts = [episodes_of(rows, pool) for rows in deal(pool, nodes)]
    turns = Turns()
    stations = [Station(agent, part, turns) for agent, part in zip(agents, parts, strict=True)]
    hosting = threading.Thread(target=or_die, args=(lambda: asyncio.run(host(stations, stop)),))
    hosting.start()
    write_atomic(config.state / RUN_FILE, json.dumps({"run_id": engine.run_id}) + "\n")
    engine.run(server_app, make_app(work), app_bundle.run_config(config))
    stop.set()
    hosting.join()
    turns.close()


def or_die(work: Callable[[], None]) -> None:
    """Do `work`; a failure ends the process, whatever its other threads do: the ServerApp would go on asking
    for ever."""
    try:
        work()
    except Exception:
        logger.exception("the nodes can't go on")
        os._exit(ExitCode.UNEXPECTED)


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulate.nodes")
    parser.add_argument("--config", type=Path, required=True, help="coordinator.toml")
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="for the nodes' state and sockets")
    parser.add_argument("--nodes", type=int, required=True)
    options = parser.parse_args()
    setup_logging("simulate")
    config = load(options.config)
    or_die(lambda: simulate(config, options.pool, options.work, options.nodes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
