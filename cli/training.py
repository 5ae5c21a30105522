"""`armfleet training`: what was measured of the updates trained here. Reads the history; asks no daemon."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode

if TYPE_CHECKING:
    from agent.training.history import UpdateRecord

app = typer.Typer(no_args_is_help=True, help="What this workstation trained.")

Config = Annotated[Path, typer.Option("--config", help="agent.toml")]
AGENT_TOML = Path("/etc/armfleet/agent.toml")
PICTURE = Path("training.png")


@app.command()
def history(
    config: Config = AGENT_TOML,
    last: Annotated[int, typer.Option("--last", min=1, help="how many")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object per line")] = False,
) -> None:
    """List the last updates, oldest first: losses, action error, gradient norm, speed, memory."""
    from rich.console import Console
    from rich.table import Table

    from cli.training_picture import COLUMNS, row

    _, records = _read(config)
    if as_json:
        for record in records[-last:]:
            typer.echo(record.model_dump_json())
        return
    table = Table(box=None, header_style="bold")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "finished" else "right")
    for record in records[-last:]:
        table.add_row(*row(record))
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    typer.echo(f"{len(records)} updates are in the history")


@app.command()
def plot(
    config: Config = AGENT_TOML,
    png: Annotated[Path | None, typer.Option("--png", help=f"a picture; default {PICTURE}")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="a self-contained page")] = None,
) -> None:
    """Draw losses, action error, gradient norm, speed and memory over the updates."""
    from cli.training_picture import write_page, write_picture

    node, records = _read(config)
    if html is not None:
        write_page(node, records, html)
        typer.echo(f"{html} is written.")
    if png is not None or html is None:
        write_picture(node, records, png or PICTURE)
        typer.echo(f"{png or PICTURE} is written.")


def _read(config: Path) -> tuple[str, list["UpdateRecord"]]:
    """The node's name and its updates.

    Raises:
        ArmfleetError: CONFIG_UNREADABLE, CONFIG_INVALID; there is no update, or this user may not read them.
    """
    from agent.config import load_agent_config
    from agent.training.history import History
    from cli.doctor.finding import JOIN_GROUP

    loaded = load_agent_config(config)
    try:
        records = History(loaded.training_dir).records()
    except PermissionError as error:
        raise ArmfleetError(
            f"this user may not read {loaded.training_dir}", do=JOIN_GROUP, code=ExitCode.CONFIG_UNREADABLE
        ) from error
    if not records:
        raise ArmfleetError(
            f"no update was trained here yet: {loaded.training_dir} holds no history",
            do="armfleet status says what training waits for",
        )
    return loaded.node.name, records
