"""`armfleet rollout`, `evaluate` and `rollouts`: let the policy act, and look at what came of it.

Reading goes straight to the rollouts' folders. A label goes through the agent while one runs.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.episodes import AGENT_TOML, Config, JsonOption, TaskOption, load, not_in_the_group, write_through
from cli.versions import AGENT_SOCKET
from shared.errors import ArmfleetError

if TYPE_CHECKING:
    from agent.config import AgentConfig
    from agent.evaluation.rollouts import RolloutRecord

app = typer.Typer(no_args_is_help=True, help="The rollouts of this workstation.")

SocketOption = Annotated[Path, typer.Option("--socket", help="the agent's socket")]
SeriesTask = Annotated[
    str | None, typer.Option("--task", help="the instruction; without it: go on with the series that runs")
]
VersionOption = Annotated[str, typer.Option(help="promoted, candidate or previous")]
LengthOption = Annotated[
    float | None, typer.Option(min=1, help="seconds of each; at most, and by default, what agent.toml says")
]
WatchOption = Annotated[bool, typer.Option("--watch", help="only look at the series that runs")]
SummaryOption = Annotated[bool, typer.Option("--json", help="print the summary as one JSON object")]
Id = Annotated[str, typer.Argument(help="a rollout, as `list` names it")]


def rollout(
    task: SeriesTask = None,
    rollouts: Annotated[int, typer.Option(min=1, help="how many")] = 1,
    version: VersionOption = "promoted",
    length: LengthOption = None,
    watch: WatchOption = False,
    as_json: SummaryOption = False,
    socket: SocketOption = AGENT_SOCKET,
) -> None:
    """Let the policy act on the arm; each rollout starts by a key, and stops when nobody is there."""
    from cli.rollout import run, wanted

    new = wanted(task, watch, rollouts=rollouts, version=version, max_s=length)
    raise typer.Exit(run(socket, new, watch, as_json))


def evaluate(
    task: SeriesTask = None,
    rollouts: Annotated[int, typer.Option(min=1, help="of each version")] = 20,
    version: VersionOption = "promoted",
    against: Annotated[
        str | None, typer.Option(help="compare with this one, in pairs and blinded: previous, …")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="of the lots that order the pairs")] = None,
    length: LengthOption = None,
    watch: WatchOption = False,
    as_json: SummaryOption = False,
    socket: SocketOption = AGENT_SOCKET,
) -> None:
    """Measure a version on the arm, alone or against another one, blinded; ends as soon as it is decided."""
    from cli.rollout import run, wanted

    fields = {"version": version, "against": against, "seed": seed, "evaluation": True, "max_s": length}
    raise typer.Exit(run(socket, wanted(task, watch, rollouts=rollouts, **fields), watch, as_json))


@app.command("list")
def list_(
    config: Config = AGENT_TOML,
    task: TaskOption = "",
    version: Annotated[int | None, typer.Option(help="only of this version")] = None,
    label: Annotated[str, typer.Option(help="success, failure, none or discarded")] = "",
    as_json: JsonOption = False,
) -> None:
    """List rollouts, oldest first."""
    from rich.console import Console

    from cli.rollout_report import table

    found = _select(load(config), task, version, label)
    if as_json:
        for record in found:
            typer.echo(record.model_dump_json())
        return
    Console(width=None if sys.stdout.isatty() else 200).print(table(found))
    labelled = [record for record in found if record.success is not None]
    won = sum(record.success is True for record in labelled)
    typer.echo(f"{len(found)} rollouts, {len(labelled)} of them labelled, {won} successes")


@app.command()
def show(
    rollout: Id,
    config: Config = AGENT_TOML,
    html: Annotated[Path | None, typer.Option("--html", help="write a self-contained page")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show one rollout: figures, latencies, where its video lies; with --html also curves and the video."""
    from cli import rollout_report

    loaded = load(config)
    store = _store(loaded)
    record, folder = store.read(rollout).shown, store.folder(rollout)
    if html is not None:
        rollout_report.write_page(folder, record, html)
        typer.echo(f"{html} is written.")
    elif as_json:
        typer.echo(record.model_dump_json(indent=1))
    else:
        typer.echo(rollout_report.text(record, folder))


@app.command("label")
def label_(
    rollout: Id,
    success: Annotated[bool, typer.Option("--success/--failure", help="how the attempt went")],
    config: Config = AGENT_TOML,
) -> None:
    """Say whether a rollout succeeded; a later label replaces an earlier one."""
    loaded = load(config)
    path = f"/rollouts/{_store(loaded).read(rollout).id}/label"
    write_through(
        loaded,
        lambda client: client.post(path, {"success": success}),
        lambda: _store(loaded).label(rollout, success).model_dump(mode="json"),
    )
    typer.echo(f"{rollout} is labelled a {'success' if success else 'failure'}.")


@app.command()
def export(
    target: Annotated[Path, typer.Argument(help="a new file, or with --videos a new folder")],
    config: Config = AGENT_TOML,
    task: TaskOption = "",
    version: Annotated[int | None, typer.Option(help="only of this version")] = None,
    label: Annotated[str, typer.Option(help="success, failure, none or discarded")] = "",
    videos: Annotated[bool, typer.Option("--videos", help="copy whole folders, pictures included")] = False,
) -> None:
    """Write figures and labels as JSON lines, without pictures; with --videos everything there is."""
    from shared.files import durable_folder, write_atomic

    loaded = load(config)
    found = _select(loaded, task, version, label)
    if target.exists():
        raise ArmfleetError(f"{target} is there already", kept="it", do="name another one")
    if any(record.blinded for record in found):
        raise ArmfleetError("two versions are being compared, blinded", do="export when the series is over")
    if videos:
        with durable_folder(target.absolute()) as work:
            for record in found:
                shutil.copytree(_store(loaded).folder(record.id), work / record.id)
    else:
        write_atomic(target, "".join(json.dumps(record.model_dump(mode="json")) + "\n" for record in found))
    typer.echo(f"{target} holds {len(found)} rollouts.")


def _store(config: "AgentConfig") -> Any:
    from agent.evaluation.rollouts import RolloutStore

    try:
        return RolloutStore(config.rollouts_dir)
    except PermissionError as error:
        raise not_in_the_group(config.rollouts_dir) from error


def _select(config: "AgentConfig", task: str, version: int | None, label: str) -> list["RolloutRecord"]:
    """As they may be shown, oldest first.

    Raises:
        ArmfleetError: `label` is none that there is.
    """
    labels = {"success": True, "failure": False, "none": None}
    if label not in ("", "discarded", *labels):
        raise ArmfleetError(f"--label {label}", do="say success, failure, none or discarded")

    def fits(record: "RolloutRecord") -> bool:
        of_label = record.discarded if label == "discarded" else record.success is labels.get(label)
        return (
            task.casefold() in record.task.casefold()
            and version in (None, record.version)
            and (not label or (of_label and record.discarded == (label == "discarded")))
        )

    records = [record.shown for record in _store(config).records()]
    return sorted(filter(fits, records), key=lambda record: (record.created, record.id))
