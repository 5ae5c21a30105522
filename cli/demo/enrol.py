"""Chapter 1: keys, the coordinator's processes, the virtual workstations, and how they join."""

import json
import os
import socket
import sys
from pathlib import Path

from cli.demo.layout import Layout, StationLayout
from cli.demo.supervisor import Unit, require_running
from cli.demo.world import World
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.files import write_atomic

QUIET = {
    "HF_HUB_OFFLINE": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "OMP_NUM_THREADS": "1",  # two cores for some fifteen processes
    "OMP_WAIT_POLICY": "PASSIVE",
    "PYTHONUNBUFFERED": "1",
    "MUJOCO_GL": "egl",
}
"""Environment of every process of the demo."""
START_S = 300.0
"""Longest start of the coordinator's processes: all stations load torch on the same cores meanwhile."""


def armfleet(*arguments: str | Path) -> list[str]:
    """Command line of an `armfleet` command, with this interpreter."""
    return [sys.executable, "-m", "cli.main", *map(str, arguments)]


def simulator_unit(station: StationLayout) -> Unit:
    """The virtual arm, leader and camera of a station."""
    argv = armfleet("sim", "workstation", "--config", station.sim_config)
    return Unit(f"{station.plan.name}-sim", argv)


def agent_unit(station: StationLayout) -> Unit:
    """The agent of a station; as in armfleet-agent.service, torque is released after it ended."""
    return Unit(
        f"{station.plan.name}-agent",
        armfleet("agent", "--config", station.config),
        stop_s=60.0,
        order=1,  # before the virtual arm: it must still be there to be released
        after_exit=armfleet("arm", "release", "--direct", "--config", station.config),
    )


def supernode_unit(station: StationLayout) -> Unit:
    """The SuperNode of a station; as in its unit it tries again every 5 s."""
    return Unit(
        f"{station.plan.name}-supernode",
        armfleet("supernode", "--config", station.config),
        restart_s=5.0,
        order=1,
    )


def coordinator_units(layout: Layout) -> list[Unit]:
    """The processes on the coordinator's machine, in the order of their start."""
    config = layout.coordinator_config
    nginx = ["nginx", "-p", str(layout.coordinator), "-c", str(nginx_config(layout)), "-g", "daemon off;"]
    return [
        Unit("superlink", armfleet("superlink", "--config", config)),
        Unit("superexec", armfleet("superexec", "--config", config)),
        Unit("tap", [sys.executable, "-m", "cli.demo.tap", str(layout.tap / "tap.toml")]),
        Unit("nginx", nginx),
        Unit("coordinator", armfleet("coordinator", "--config", config), stop_s=30.0),
    ]


def nginx_config(layout: Layout) -> Path:
    """Write the public door's configuration: the Fleet API and the enrolment call, through the tap."""
    from coordinator.config import load
    from coordinator.enrolment.nginx import Front, render

    config = load(layout.coordinator_config)
    relay = config.coordinator.model_copy(update={"enrol_socket": layout.enrol_tap})
    front = Front(
        listen=f"127.0.0.1:{layout.public_port}",
        fleet_upstream=f"http://127.0.0.1:{layout.fleet_tap_port}",
        run_dir=layout.coordinator,
        user="root"
        if os.geteuid() == 0
        else "",  # nginx would become "nobody", who can't open the demo's sockets
    )
    text = render(config.model_copy(update={"coordinator": relay}), front)
    path = layout.coordinator / "nginx.conf"
    write_atomic(path, text)
    return path


def enrol(world: World) -> None:
    """Bring everything up and enrol the workstations."""
    layout, supervisor = world.layout, world.supervisor
    for station in layout.stations:
        supervisor.start(simulator_unit(station))
        supervisor.start(
            agent_unit(station)
        )  # it works alone until it has joined; its workers load meanwhile
    world.screen.say("The coordinator makes its authority, its keys and version 0.")
    supervisor.run_once(
        "coordinator-init", armfleet("coordinator-init", "--config", layout.coordinator_config), 300
    )
    for unit in coordinator_units(layout):
        supervisor.start(unit)
    _wait_for_coordinator(world)
    for each in world.stations:
        bundle = world.coordinator.post("/nodes/invite", {"name": each.name}, timeout_s=30)
        write_atomic(each.layout.bundle, json.dumps(bundle, indent=1) + "\n")
        _join(world, each.layout)
        supervisor.start(supernode_unit(each.layout))
        world.screen.say(f"Workstation {each.name} has joined with its join bundle.")


def _wait_for_coordinator(world: World) -> None:
    def answers() -> bool:
        for name in ("superlink", "superexec", "tap", "nginx", "coordinator"):
            require_running(world.supervisor, name)
        return bool(world.coordinator.get("/status")) and listens(world.layout.superlink_port)

    world.stations[0].until("the coordinator's start", START_S, answers, every=0.2)


def listens(port: int) -> bool:
    """Whether somebody answers at a port of 127.0.0.1."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def _join(world: World, station: StationLayout) -> None:
    from agent.config import load_agent_config
    from agent.exchange.join import join
    from shared.policy.digest import base_digest

    config = load_agent_config(station.config)
    digest = base_digest(config.policy.base)
    world.station(station.plan.name).retry("joining", 90, lambda: join(station.bundle, config, digest), 3.0)


def check_door(world: World) -> None:
    """Knock where a workstation must not get in: Flower's Control API through the public port.

    Raises:
        ArmfleetError: DEMO_FAILED: something but the Fleet API and the enrolment call answered.
    """
    import ssl

    import httpx

    context = ssl.create_default_context(cafile=str(world.layout.coordinator / "state" / "ca" / "ca.crt"))
    with httpx.Client(verify=context, base_url=f"https://127.0.0.1:{world.layout.public_port}") as client:
        answers = {
            path: client.post(path).status_code for path in ("/v1/control/list-runs", "/v1/runtime/x", "/")
        }
    if open_doors := [path for path, status in answers.items() if status not in (403, 404, 405, 444)]:
        raise ArmfleetError(
            f"the public port answers {', '.join(open_doors)} ({answers})",
            do="check the nginx configuration",
            code=ExitCode.DEMO_FAILED,
        )
    world.screen.say("From outside, nothing but the Fleet API and the enrolment call can be reached.")
