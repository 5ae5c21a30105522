"""`armfleet versions`: what the coordinator has made, whether it is right, and out of it for other tools."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

COORDINATOR_SOCKET = Path("/run/armfleet-coordinator/coordinator.sock")
AGENT_SOCKET = Path("/run/armfleet/agent.sock")
COORDINATOR_TOML = Path("/etc/armfleet/coordinator.toml")
CoordinatorConfigOption = Annotated[Path, typer.Option("--config", help="coordinator.toml")]
CoordinatorSocketOption = Annotated[Path, typer.Option("--socket", help="the coordinator's socket")]

app = typer.Typer(
    invoke_without_command=True,
    help="List the versions at the coordinator, with their success rates; on a workstation those it holds.",
)


@app.callback()
def versions(
    context: typer.Context,
    socket: CoordinatorSocketOption = COORDINATOR_SOCKET,
    agent_socket: Annotated[
        Path, typer.Option(help="the agent's socket, asked where there is no coordinator")
    ] = AGENT_SOCKET,
) -> None:
    """List the versions at the coordinator, with their success rates; on a workstation those it holds."""
    from cli.status import show_versions

    if context.invoked_subcommand is None:
        show_versions(socket, agent_socket)


@app.command()
def verify(
    number: Annotated[int, typer.Argument(help="the version to compute again")],
    socket: CoordinatorSocketOption = COORDINATOR_SOCKET,
) -> None:
    """Compute a version again from its parent and its stored updates, and compare every byte."""
    from cli.status import verify_version

    verify_version(socket, number)


@app.command()
def export(
    number: Annotated[int, typer.Argument(help="the version to export")],
    policy: Annotated[Path, typer.Option(help="the new folder; it must not exist")],
    config: CoordinatorConfigOption = COORDINATOR_TOML,
) -> None:
    """Write a version, merged into the base, as a policy folder that stock LeRobot loads.

    The coordinator need not run. Its own folder of a version is a PEFT adapter, if that is wanted instead.
    """
    argv = [sys.executable, "-m", "coordinator.registry.exporting", str(number), str(policy)]
    # Offline as the services are: the base is what was put here.
    os.execve(argv[0], [*argv, "--config", str(config)], {**os.environ, "HF_HUB_OFFLINE": "1"})
