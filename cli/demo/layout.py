"""The folder a demo runs in, its free ports, and the configuration files made from `configs/demo/`.

demo-run/
  demo.json                  sockets, for `armfleet status --demo demo-run`
  log/                       one file per process
  coordinator/               coordinator.toml, the coordinator's state and socket
  tap/                       tap.toml, the bytes that left the workstations
  a/ b/ c/                   agent.toml, workstation.toml, agent.sock, state/, desk/ (the virtual arm)
  report/                    the table, the plot and the videos
"""

import json
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from string import Template

from cli.demo.plan import UNSEEN, Plan, StationPlan, TaskPlan
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.files import write_atomic

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = ROOT / "configs" / "demo"
SOCKET_PATH_MAX = 107  # unix(7): sun_path holds 108 bytes, one of them the final zero
STAMP = "demo.json"


@dataclass(frozen=True)
class StationLayout:
    """Files and ports of one virtual workstation."""

    plan: StationPlan
    folder: Path
    camera_port: int
    supernode_port: int

    @property
    def config(self) -> Path:
        """agent.toml."""
        return self.folder / "agent.toml"

    @property
    def sim_config(self) -> Path:
        """workstation.toml."""
        return self.folder / "workstation.toml"

    @property
    def state(self) -> Path:
        """The agent's state."""
        return self.folder / "state"

    @property
    def socket(self) -> Path:
        """The agent's socket."""
        return self.folder / "agent.sock"

    @property
    def desk(self) -> Path:
        """Serial ports and control socket of the virtual arm."""
        return self.folder / "desk"

    @property
    def follower_port(self) -> Path:
        """The follower's serial port."""
        return self.desk / "ttyFOLLOWER"

    @property
    def control(self) -> Path:
        """The simulator's control socket."""
        return self.desk / "control.sock"

    @property
    def bundle(self) -> Path:
        """The join bundle."""
        return self.folder / f"{self.plan.name}.join.json"


@dataclass(frozen=True)
class Layout:
    """Files and ports of a demo."""

    folder: Path
    stations: tuple[StationLayout, ...]
    superlink_port: int
    public_port: int
    fleet_tap_port: int

    @property
    def coordinator(self) -> Path:
        """The coordinator's folder."""
        return self.folder / "coordinator"

    @property
    def coordinator_config(self) -> Path:
        """coordinator.toml."""
        return self.coordinator / "coordinator.toml"

    @property
    def coordinator_socket(self) -> Path:
        """The coordinator's socket."""
        return self.coordinator / "coordinator.sock"

    @property
    def enrol_socket(self) -> Path:
        """Where the coordinator takes enrolments."""
        return self.coordinator / "enrol.sock"

    @property
    def enrol_tap(self) -> Path:
        """Where the tap takes what nginx passes on to `enrol_socket`."""
        return self.coordinator / "tap.sock"

    @property
    def tap(self) -> Path:
        """What the tap wrote."""
        return self.folder / "tap"

    @property
    def logs(self) -> Path:
        """One file per process."""
        return self.folder / "log"

    @property
    def report(self) -> Path:
        """Table, plot, videos."""
        return self.folder / "report"


def free_ports(count: int) -> list[int]:
    """`count` different ports that nobody uses on 127.0.0.1 at the moment."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def make_layout(plan: Plan, folder: Path) -> Layout:
    """Empty `folder` (only if an earlier demo made it) and fill it with the demo's configuration.

    Raises:
        ArmfleetError: `folder` holds something else, or its path is too long for Unix sockets.
    """
    folder = folder.absolute()
    _empty(folder)
    ports = free_ports(3 + 2 * len(plan.stations))
    stations = tuple(
        StationLayout(each, folder / each.name, ports.pop(), ports.pop()) for each in plan.stations
    )
    layout = Layout(folder, stations, *ports)
    longest = max(len(str(path)) for each in stations for path in (each.socket, each.control))
    if max(longest, len(str(layout.coordinator_socket))) > SOCKET_PATH_MAX:
        raise ArmfleetError(
            f"{folder} is too long a path for the sockets in it (they end at {SOCKET_PATH_MAX} bytes)",
            do="give a shorter one with --folder",
            code=ExitCode.CONFIG_INVALID,
        )
    for path in (layout.coordinator, layout.tap, layout.logs, layout.report):
        path.mkdir(parents=True)
    _write_configs(plan, layout)
    _write_stamp(layout)
    return layout


def _empty(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()):
        if not (folder / STAMP).exists():
            raise ArmfleetError(
                f"{folder} is not empty and no demo made it",
                kept="everything in it",
                do="give another folder with --folder",
                code=ExitCode.CONFIG_INVALID,
            )
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / STAMP, "{}\n")


def _write_stamp(layout: Layout) -> None:
    sockets = {each.plan.name: str(each.socket) for each in layout.stations}
    stamp = {"coordinator": str(layout.coordinator_socket), "agents": sockets}
    write_atomic(layout.folder / STAMP, json.dumps(stamp, indent=1) + "\n")


def fill(template: str, values: dict[str, object]) -> str:
    """A template of `configs/demo/` with its $NAMES replaced; an unknown or missing name is an error."""
    return Template((TEMPLATES / template).read_text()).substitute({k: str(v) for k, v in values.items()})


def _write_configs(plan: Plan, layout: Layout) -> None:
    write_atomic(layout.coordinator_config, fill("coordinator.toml", coordinator_values(plan, layout)))
    for station in layout.stations:
        station.desk.mkdir(parents=True)
        write_atomic(station.config, fill("agent.toml", agent_values(plan, station)))
        write_atomic(station.sim_config, fill("workstation.toml", sim_values(plan, station)))
    routes = {
        "folder": layout.tap,
        "fleet_port": layout.fleet_tap_port,
        "enrol_tap": layout.enrol_tap,
        "superlink_port": layout.superlink_port,
        "ca": layout.coordinator / "state" / "ca" / "ca.crt",
        "enrol_socket": layout.enrol_socket,
    }
    write_atomic(layout.tap / "tap.toml", fill("tap.toml", routes))


def coordinator_values(plan: Plan, layout: Layout) -> dict[str, object]:
    """What `configs/demo/coordinator.toml` leaves open."""

    return {
        "folder": layout.coordinator,
        "base": plan.base,
        "superlink_port": layout.superlink_port,
        "public_port": layout.public_port,
        "rounds": plan.rounds,
        "buffer_size": plan.buffer_size,
        "max_wait_s": plan.max_wait_s,
        "every": plan.evaluate_every,
        "rollouts": plan.evaluation_rollouts,
        "seed0": plan.evaluation_seed0,
        "tasks": _inline(plan.tasks),
        "unseen": _inline((UNSEEN,)),
        "unseen_text": UNSEEN.text,
    }


def _inline(tasks: tuple[TaskPlan, ...]) -> str:
    return ", ".join(f'{{ verb = "{task.verb}", color = "{task.color}" }}' for task in tasks)


def agent_values(plan: Plan, station: StationLayout) -> dict[str, object]:
    """What `configs/demo/agent.toml` leaves open."""
    return {
        "name": station.plan.name,
        "folder": station.folder,
        "desk": station.desk,
        "base": plan.base,
        "camera_port": station.camera_port,
        "supernode_port": station.supernode_port,
        "training": str(station.plan.task is not None).lower(),
        "duty_cycle": station.plan.duty_cycle,
    }


def sim_values(plan: Plan, station: StationLayout) -> dict[str, object]:
    """What `configs/demo/workstation.toml` leaves open."""
    return {
        "desk": station.desk,
        "camera_port": station.camera_port,
        "seed": plan.demonstration_seed(station.plan.name, 0),
        "canary_seed": plan.canary_seed(station.plan.name),
    }
