"""The `armfleet` command. Every command imports what it needs when it runs: `--help` needs no torch."""

import json
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import click
import typer
from typer.core import TyperGroup

from cli.episodes import app as episodes_app
from cli.rollouts import app as rollouts_app
from cli.rollouts import evaluate, rollout
from cli.training import app as training_app
from cli.versions import (
    AGENT_SOCKET,
    COORDINATOR_SOCKET,
    COORDINATOR_TOML,
    CoordinatorConfigOption,
    CoordinatorSocketOption,
)
from cli.versions import app as versions_app
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode

AGENT_TOML = Path("/etc/armfleet/agent.toml")


class _Group(TyperGroup):
    """Turns an ArmfleetError into its sentence on stderr and its numbered exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ArmfleetError as error:
            print(f"armfleet: {error}", file=sys.stderr)
            if error.code != ExitCode.UNEXPECTED:
                print(f"Exit code {int(error.code)} is explained in docs/exit-codes.md.", file=sys.stderr)
            raise typer.Exit(int(error.code)) from error


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A federation of SO-100/SO-101 robot arms that teach each other.",
)
node_app = typer.Typer(no_args_is_help=True, help="Workstations, as the coordinator knows them.")
arm_app = typer.Typer(no_args_is_help=True, help="The arm of this workstation.")
sim_app = typer.Typer(no_args_is_help=True, help="The simulator (needs the `sim` extra).")
app.add_typer(node_app, name="node")
app.add_typer(versions_app, name="versions")
app.add_typer(arm_app, name="arm")
app.add_typer(sim_app, name="sim")
app.add_typer(episodes_app, name="episodes")
app.add_typer(rollouts_app, name="rollouts")
app.command()(rollout)
app.command()(evaluate)
app.add_typer(training_app, name="training")

AgentConfigOption = Annotated[Path, typer.Option("--config", help="agent.toml")]
AgentSocketOption = Annotated[Path, typer.Option("--socket", help="the agent's socket")]


@app.command()
def agent(config: AgentConfigOption = AGENT_TOML) -> None:
    """Run the agent of this workstation (what armfleet-agent.service starts)."""
    from agent.daemon import main

    raise typer.Exit(main(config))


@app.command()
def coordinator(config: CoordinatorConfigOption = COORDINATOR_TOML) -> None:
    """Run the coordinator (what armfleet-coordinator.service starts)."""
    from coordinator.daemon import main

    raise typer.Exit(main(config))


@app.command("coordinator-init")
def coordinator_init(config: CoordinatorConfigOption = COORDINATOR_TOML) -> None:
    """Make the fleet's CA, keys and trust root, once."""
    from coordinator.config import load
    from coordinator.enrolment.setup import init

    init(load(config))
    typer.echo("The fleet's keys are made. Next: start the services, then `armfleet node invite NAME`.")


@app.command("coordinator-nginx")
def coordinator_nginx(
    config: CoordinatorConfigOption = COORDINATOR_TOML,
    listen: Annotated[str, typer.Option(help="address and port of the public side")] = "0.0.0.0:443",
    user: Annotated[str, typer.Option(help="user of nginx's workers")] = "www-data",
) -> None:
    """Print nginx's configuration for the public port: only the Fleet API and the enrolment call."""
    from coordinator.config import load
    from coordinator.enrolment.nginx import Front, render

    loaded = load(config)
    front = Front(listen, f"https://{loaded.superlink.address}", Path("/run"), user)
    typer.echo(render(loaded, front), nl=False)


@app.command()
def superlink(config: CoordinatorConfigOption = COORDINATOR_TOML) -> None:
    """Become Flower's SuperLink (what armfleet-superlink.service starts)."""
    loaded, processes = _flower(config)
    _become(processes.superlink_argv(loaded), processes.environment(loaded))


@app.command()
def superexec(config: CoordinatorConfigOption = COORDINATOR_TOML) -> None:
    """Become Flower's superexec (what armfleet-superexec.service starts)."""
    loaded, processes = _flower(config)
    _become(processes.superexec_argv(loaded), processes.environment(loaded))


@app.command()
def supernode(config: AgentConfigOption = AGENT_TOML) -> None:
    """Become this workstation's SuperNode (what armfleet-supernode.service starts)."""
    from agent.config import load_agent_config
    from agent.exchange.processes import supernode_argv, supernode_environment

    loaded = load_agent_config(config)
    _become(supernode_argv(loaded), {**os.environ, **supernode_environment(loaded)})


def _flower(config: Path) -> Any:
    """The coordinator's configuration and the command lines of its Flower processes."""
    from coordinator.config import load
    from coordinator.exchange import processes

    return load(config), processes


def _become(argv: list[str], environment: dict[str, str]) -> None:
    """Replace this process, so that the service manager supervises the real one."""
    sys.stdout.flush()
    os.execve(argv[0], argv, environment)


@node_app.command("invite")
def node_invite(
    name: Annotated[str, typer.Argument(help="name of the new workstation")],
    socket: CoordinatorSocketOption = COORDINATOR_SOCKET,
    out: Annotated[Path | None, typer.Option(help="file to write; default NAME.join.json")] = None,
) -> None:
    """Make a join bundle for a workstation. It holds a one-time secret: hand it over privately."""
    from shared.files import write_atomic
    from shared.uds import UdsClient

    path = out or Path(f"{name}.join.json")
    if not os.access(path.absolute().parent, os.W_OK | os.X_OK):  # asked now: a secret is given only once
        raise ArmfleetError(
            f"{path.absolute().parent} is no folder that this user may write to",
            kept="nothing was asked of the coordinator",
            do="name another file with --out",
            code=ExitCode.CONFIG_INVALID,
        )
    bundle = UdsClient(socket, timeout_s=30).post("/nodes/invite", {"name": name})
    write_atomic(path, json.dumps(bundle, indent=1) + "\n")
    path.chmod(0o600)
    typer.echo(f"{path} is written. On the workstation: armfleet join {path.name}")


@app.command()
def join(
    bundle: Annotated[Path, typer.Argument(help="the join bundle")],
    config: AgentConfigOption = AGENT_TOML,
) -> None:
    """Enrol this workstation in a fleet with a join bundle."""
    from agent.config import load_agent_config
    from agent.exchange.join import join as enrol
    from shared.policy.digest import base_digest

    loaded = load_agent_config(config)
    os.environ["HF_HUB_OFFLINE"] = "1"  # as in the services: the base is what was put here
    enrol(bundle, loaded, base_digest(loaded.policy.base))
    typer.echo("This workstation is enrolled. Next: systemctl restart armfleet-agent armfleet-supernode")


@app.command()
def status(
    demo: Annotated[Path | None, typer.Option(help="folder of a demo that was left running")] = None,
    agent_socket: Annotated[Path, typer.Option(help="the agent's socket")] = AGENT_SOCKET,
    coordinator_socket: Annotated[Path, typer.Option(help="the coordinator's socket")] = COORDINATOR_SOCKET,
    as_json: Annotated[bool, typer.Option("--json", help="print the answers as they are")] = False,
) -> None:
    """Say what each agent and the coordinator do now, and why."""
    from cli.status import show

    raise typer.Exit(show(demo, agent_socket, coordinator_socket, as_json))


@app.command()
def promote(
    number: Annotated[int, typer.Argument(help="the version to push to all workstations")],
    reason: Annotated[str, typer.Option(help="kept with the decision")] = "asked for on the command line",
    socket: CoordinatorSocketOption = COORDINATOR_SOCKET,
) -> None:
    """Promote a version by hand (also back to an older one)."""
    from shared.uds import UdsClient

    UdsClient(socket, timeout_s=30).post("/versions/promote", {"version": number, "reason": reason})
    typer.echo(f"Version {number} is promoted; workstations take it at their next check-in.")


@app.command("roll-back")
def roll_back(
    reason: Annotated[str, typer.Option(help="kept with the decision")] = "asked for on the command line",
    socket: CoordinatorSocketOption = COORDINATOR_SOCKET,
) -> None:
    """Go back to the version that was promoted before."""
    from shared.uds import UdsClient

    answer = UdsClient(socket, timeout_s=30).post("/versions/roll-back", {"reason": reason})
    typer.echo(
        f"Version {answer['promoted']} is promoted again; workstations take it at their next check-in."
    )


@arm_app.command("release")
def arm_release(
    socket: AgentSocketOption = AGENT_SOCKET,
    direct: Annotated[
        bool, typer.Option("--direct", help="over the serial port, without asking the agent")
    ] = False,
    config: AgentConfigOption = AGENT_TOML,
) -> None:
    """Switch the follower's torque off. Support the arm: it sinks.

    The agent does it; where none answers, this command does it over the serial port.
    """
    if not direct:
        try:
            return _arm(socket, "release")
        except ArmfleetError as error:
            if error.code is not ExitCode.COORDINATOR_AWAY:
                raise
            print(f"armfleet: {error.what}: going over the serial port", file=sys.stderr)
    from agent.config import load_agent_config
    from agent.robot.release import main

    arm = load_agent_config(config).arm
    raise typer.Exit(main(arm.follower_port) if arm else 0)


@arm_app.command("hold")
def arm_hold(socket: AgentSocketOption = AGENT_SOCKET) -> None:
    """Make the follower hold its present pose."""
    _arm(socket, "hold")


ARM_ANSWERS = {"hold": "The arm holds its pose.", "release": "Torque is off."}


def _arm(socket: Path, what: str) -> None:
    from shared.uds import UdsClient

    answer = UdsClient(socket).post(f"/arm/{what}", {})
    done = str(answer.get("done", what))  # an arm worker that hangs is killed, and the arm let go instead
    typer.echo(f"{ARM_ANSWERS.get(done, done)} (by {answer.get('by', 'the agent')})")


@sim_app.command("workstation")
def sim_workstation(config: Annotated[Path, typer.Option("--config", help="workstation.toml")]) -> None:
    """Run a virtual SO-100 workstation: two serial ports, cameras, a table with cubes."""
    os.environ.setdefault("MUJOCO_GL", "egl")
    from sim.workstation import main

    raise typer.Exit(main(config))


@app.command()
def gate(
    paths: Annotated[list[Path], typer.Argument(help="LeRobot v3 dataset folders, or folders of such")],
    history: Annotated[Path | None, typer.Option(help="sound episodes of the same workstation")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object per episode and line")] = False,
    config: Annotated[Path | None, typer.Option(help="agent.toml, for the thresholds in its [gate]")] = None,
) -> None:
    """Judge recorded episodes: admitted, quarantined or undecidable, and why (docs/gate.md)."""
    from agent.episodes.gate import run

    thresholds = {}
    if config is not None:
        from agent.config import load_agent_config

        thresholds = dict(load_agent_config(config).gate.thresholds)
    raise typer.Exit(run(paths, history, as_json, thresholds))


@app.command()
def doctor(
    config: AgentConfigOption = AGENT_TOML,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object instead of the table")] = False,
    snapshots: Annotated[
        Path | None, typer.Option(help="folder for a picture of each camera; default below ~/.cache/armfleet")
    ] = None,
) -> None:
    """Check what this workstation needs; moves nothing and writes nothing to the arm."""
    from cli.doctor.report import run

    raise typer.Exit(run(config, as_json, snapshots))


class Role(StrEnum):
    """Which of the two arms."""

    FOLLOWER = "follower"
    LEADER = "leader"


@app.command()
def calibrate(
    role: Annotated[Role, typer.Argument(help="which arm")], config: AgentConfigOption = AGENT_TOML
) -> None:
    """Calibrate an arm: middle, then every joint from stop to stop. Hold it: its joints go limp."""
    from cli.calibrate import run

    raise typer.Exit(run(config, role.value))


@app.command()
def record(
    task: Annotated[
        str | None, typer.Option(help="the instruction; without it: go on with the session that runs")
    ] = None,
    episodes: Annotated[int, typer.Option(min=1, help="how many to keep")] = 10,
    reset: Annotated[float, typer.Option(min=0, help="seconds to put things back between two")] = 10.0,
    length: Annotated[
        float | None, typer.Option(min=1, help="seconds of each; default: until a key, or [recording] max_s")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="only look at the session that runs")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the summary as one JSON object")] = False,
    socket: AgentSocketOption = AGENT_SOCKET,
) -> None:
    """Record episodes with the leader; the session lives in the agent and outlives this terminal."""
    from cli.record import run, wanted

    raise typer.Exit(run(socket, wanted(task, episodes, reset, length, watch), watch, as_json))


@app.command()
def demo(
    seed: Annotated[int, typer.Option(help="changes scenes, demonstrations and evaluation seeds")] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="leave everything running at the end")] = False,
    small: Annotated[
        bool, typer.Option("--small", help="small numbers: shows the way, not the result")
    ] = False,
    folder: Annotated[Path, typer.Option(help="where it runs; emptied first")] = Path("demo-run"),
    report: Annotated[Path, typer.Option(help="the report as JSON")] = Path("demo-report.json"),
    base: Annotated[Path | None, typer.Option(help="base policy; default: the one in sim/base")] = None,
    stations: Annotated[int | None, typer.Option(help="virtual workstations, 2 or 3")] = None,
    rounds: Annotated[int | None, typer.Option(help="rounds of the federation")] = None,
    demonstrations: Annotated[int | None, typer.Option(help="per taught workstation")] = None,
    before: Annotated[int | None, typer.Option(help="rollouts per task and workstation before")] = None,
    after: Annotated[int | None, typer.Option(help="rollouts per task and workstation after")] = None,
) -> None:
    """One coordinator and virtual workstations that teach each other, from keys to rollouts."""
    os.environ.setdefault("MUJOCO_GL", "egl")
    from cli.demo.plan import plan
    from cli.demo.story import run

    given = {
        "base": base,
        "stations": stations,
        "rounds": rounds,
        "demonstrations": demonstrations,
        "before": before,
        "after": after,
    }
    chosen: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    raise typer.Exit(run(plan(seed=seed, small=small, **chosen), folder, report, keep))


if __name__ == "__main__":
    app()
