"""`armfleet episodes`: what was recorded, what became of it, and what the operator says of it.

Reading goes straight to the store's folders. Writing goes through the agent while one runs, else this process
takes the agent's place (its lock) for the moment.
"""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode

if TYPE_CHECKING:
    from agent.config import AgentConfig
    from agent.episodes.record import EpisodeRecord
    from shared.uds import UdsClient

app = typer.Typer(no_args_is_help=True, help="The episodes of this workstation.")

Config = Annotated[Path, typer.Option("--config", help="agent.toml")]
AGENT_TOML = Path("/etc/armfleet/agent.toml")
Ids = Annotated[list[str], typer.Argument(help="episodes, as `list` names them")]
TaskOption = Annotated[str, typer.Option("--task", help="only with these words in the task")]
VerdictOption = Annotated[str, typer.Option("--verdict", help="admitted, quarantined, undecidable, unjudged")]
DayOption = Annotated[str, typer.Option("--day", help="only of this day, as 2026-05-31 (local time)")]
SplitOption = Annotated[str, typer.Option("--split", help="train or eval")]
OriginOption = Annotated[str, typer.Option("--origin", help="recorded, intervention or imported")]
JsonOption = Annotated[bool, typer.Option("--json", help="one JSON object per line")]

COLOURS = {"admitted": "green", "quarantined": "red", "undecidable": "yellow", "unjudged": "dim"}
PLAY_HINT = "Rerun is not installed: pip install 'lerobot[viz]'"


@app.command("list")
def list_(
    config: Config = AGENT_TOML,
    task: TaskOption = "",
    verdict: VerdictOption = "",
    day: DayOption = "",
    split: SplitOption = "",
    origin: OriginOption = "",
    as_json: JsonOption = False,
) -> None:
    """List episodes, oldest first."""
    found = _select(load(config), task, verdict, day, split, origin)
    if as_json:
        for record in found:
            typer.echo(record.model_dump_json())
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for column in ("episode", "day", "s", "origin", "verdict", "label", "split", "task", "why"):
        table.add_column(column, overflow="fold", justify="right" if column == "s" else "left")
    for record in found:
        table.add_row(
            record.id,
            f"{_local(record):%Y-%m-%d %H:%M}",
            f"{record.frames / record.fps:.1f}",
            record.kind,
            f"[{COLOURS[record.verdict]}]{record.verdict}[/]",
            record.label or "",
            record.split or "",
            escape(record.task),
            escape(_why(record)),
        )
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    usable = sum(record.usable for record in found)
    typer.echo(f"{len(found)} episodes, {usable} of them for training or evaluation")


@app.command()
def show(
    episode: Annotated[str, typer.Argument(help="an episode, as `list` names it")],
    config: Config = AGENT_TOML,
    html: Annotated[Path | None, typer.Option("--html", help="write a self-contained page")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show one episode: verdict with reasons, label, split, digest; with --html also curves and pictures."""
    loaded = load(config)
    record = _store(loaded).read(episode)
    if html is not None:
        from agent.episodes.page import write_page

        write_page(loaded.episodes_dir / episode, record, html)
        typer.echo(f"{html} is written.")
    elif as_json:
        typer.echo(record.model_dump_json(indent=1))
    else:
        _print(record, loaded.episodes_dir / episode)


@app.command()
def play(
    episode: Annotated[str, typer.Argument(help="an episode, as `list` names it")],
    config: Config = AGENT_TOML,
) -> None:
    """Open an episode in Rerun; where it isn't installed, write its page instead."""
    loaded = load(config)
    record = _store(loaded).read(episode)
    folder = loaded.episodes_dir / episode
    if importlib.util.find_spec("rerun") is None:
        from agent.episodes.page import write_page

        page = Path(f"episode-{episode}.html")
        write_page(folder, record, page)
        typer.echo(f"{PLAY_HINT}\nInstead, {page} is written; open it in a browser.")
        return
    viewer = [sys.executable, "-m", "lerobot.scripts.lerobot_dataset_viz", "--root", str(folder)]
    done = subprocess.run([*viewer, "--repo-id", f"armfleet/{episode}", "--episode-index", "0"], check=False)
    raise typer.Exit(int(ExitCode.UNEXPECTED) if done.returncode else 0)


@app.command()
def label(
    episodes: Ids,
    success: Annotated[bool | None, typer.Option("--success/--failure", help="how the attempt went")] = None,
    clear: Annotated[bool, typer.Option("--clear", help="take the label back")] = False,
    config: Config = AGENT_TOML,
) -> None:
    """Say whether the attempts succeeded; failures are not trained on."""
    if (success is None) != clear:
        raise ArmfleetError("say --success, --failure or --clear", kept="all labels")
    _change(config, "label", episodes, label=None if clear else "success" if success else "failure")


@app.command()
def admit(
    episodes: Ids,
    reason: Annotated[str, typer.Option(help="why; kept with the episode")],
    config: Config = AGENT_TOML,
) -> None:
    """Admit episodes by hand, whatever the gate says."""
    _change(config, "admit", episodes, reason=reason)


@app.command()
def quarantine(
    episodes: Ids,
    reason: Annotated[str, typer.Option(help="why; kept with the episode")],
    config: Config = AGENT_TOML,
) -> None:
    """Keep episodes out of training by hand."""
    _change(config, "quarantine", episodes, reason=reason)


@app.command()
def delete(
    episodes: Ids,
    purge: Annotated[bool, typer.Option("--purge", help="remove for good, also from the trash")] = False,
    config: Config = AGENT_TOML,
) -> None:
    """Move episodes to the store's trash folder, from where they can come back."""
    answer = _change(config, "delete", episodes, for_good=purge)
    for episode, folder in answer["trash"].items():
        typer.echo(
            f"{episode} lies in {folder}; `armfleet episodes delete --purge {episode}` frees the space."
        )


@app.command("import")
def import_(
    datasets: Annotated[list[Path], typer.Argument(help="LeRobot datasets (v3.0, v2.1), or folders of them")],
    config: Config = AGENT_TOML,
    as_json: JsonOption = False,
) -> None:
    """Import datasets, one episode folder each; the gate judges them. The source is only read."""
    from cli.importing import run

    loaded = load(config)
    raise typer.Exit(run(loaded, [path.expanduser().absolute() for path in datasets], as_json))


@app.command()
def export(
    target: Annotated[Path, typer.Argument(help="the new dataset's folder")],
    episodes: Annotated[list[str] | None, typer.Argument(help="episodes; default: all admitted")] = None,
    config: Config = AGENT_TOML,
    task: TaskOption = "",
    day: DayOption = "",
    split: SplitOption = "",
    origin: OriginOption = "",
) -> None:
    """Write episodes as one LeRobotDataset v3.0: all that are admitted and not labelled failures, or those
    named."""
    from agent.episodes.exporting import export as write

    loaded = load(config)
    if episodes:
        chosen = [_store(loaded).read(episode) for episode in dict.fromkeys(episodes)]
    else:
        chosen = [r for r in _select(loaded, task, "admitted", day, split, origin) if r.usable]
    from rich.console import Console

    with Console(stderr=True).status(f"joining {len(chosen)} episodes"):
        done = write(loaded.episodes_dir, chosen, target.absolute())
    typer.echo(f"{target} holds {done['episodes']} episodes, {done['frames']} frames.")
    if "eval" in done["splits"]:
        typer.echo(
            f"Held out for evaluation: its episodes {done['splits']['eval']} (see meta/info.json, splits)."
        )


@app.command()
def catalogue(config: Config = AGENT_TOML) -> None:
    """Write datasets.toml, the catalogue of the store, into the state folder."""
    from agent.episodes.desk import catalogue as offline

    loaded = load(config)
    answer = write_through(
        loaded,
        lambda client: client.post("/episodes/catalogue", {}, timeout_s=60),
        lambda: offline(_store(loaded), loaded),
    )
    typer.echo(f"{answer['path']} is written: {answer['datasets']} entries.")


def write_through(
    config: "AgentConfig", ask: Callable[[Any], dict[str, Any]], do: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Have the agent write, or write here where none runs.

    Raises:
        ArmfleetError: what the agent or the store says; ALREADY_RUNNING: an agent runs and does not answer.
    """
    from agent.lock import only_one

    client = agent_client(config)
    if client is not None:
        try:
            return ask(client)
        except ArmfleetError as error:
            if error.code != ExitCode.COORDINATOR_AWAY:
                raise
        finally:
            client.close()
    with only_one(config.node.state_dir):
        return do()


def agent_client(config: "AgentConfig") -> "UdsClient | None":
    """A client of the agent; None where there is no socket.

    Raises:
        ArmfleetError: this user may not ask it.
    """
    from shared.uds import UdsClient

    try:
        return UdsClient(config.node.socket) if config.node.socket.exists() else None
    except PermissionError as error:
        raise not_in_the_group(config.node.socket) from error


def not_in_the_group(path: Path) -> ArmfleetError:
    """This user may not read the agent's files."""
    return ArmfleetError(
        f"{path} is not open to this user",
        do="sudo usermod -aG armfleet USER, and log in again; then check with `armfleet doctor`",
    )


def _change(config: Path, op: str, episodes: list[str], **fields: Any) -> dict[str, Any]:
    from pydantic import ValidationError

    from agent.episodes.desk import Change, change

    loaded = load(config)
    try:
        wanted = Change.model_validate({"op": op, "episodes": episodes, **fields})
    except ValidationError as error:
        raise ArmfleetError(f"{error.errors()[0]['msg']}: {error.errors()[0]['input']!r}") from error
    answer = write_through(
        loaded,
        lambda client: client.post("/episodes/change", wanted.model_dump(mode="json"), timeout_s=60),
        lambda: change(_store(loaded), wanted),
    )
    done = {"label": "labelled", "admit": "admitted", "quarantine": "quarantined", "delete": "deleted"}[op]
    if answer["done"]:
        typer.echo(f"{done}: {', '.join(answer['done'])}")
    if answer.get("training_interrupted"):
        typer.echo("An update was being trained; it begins again without what changed.")
    if answer["refused"]:
        raise ArmfleetError(" ".join(answer["refused"].values()), code=ExitCode.EPISODE_DAMAGED)
    return answer


def load(config: Path) -> "AgentConfig":
    """agent.toml, with warnings of what is read then on standard error."""
    from loguru import logger

    from agent.config import load_agent_config

    logger.remove()
    logger.add(sys.stderr, level="WARNING", format="{message}")
    return load_agent_config(config)


def _store(config: "AgentConfig") -> Any:
    from agent.episodes.store import EpisodeStore

    try:
        return EpisodeStore(config.episodes_dir, config.split)
    except PermissionError as error:
        raise not_in_the_group(config.episodes_dir) from error


def _select(
    config: "AgentConfig", task: str, verdict: str, day: str, split: str, origin: str
) -> list["EpisodeRecord"]:
    def wanted(record: "EpisodeRecord") -> bool:
        return (
            task.casefold() in record.task.casefold()
            and verdict in ("", record.verdict)
            and split in ("", record.split)
            and origin in ("", record.kind)
            and day in ("", f"{_local(record):%Y-%m-%d}")
        )

    records = [record for record in _store(config).records() if wanted(record)]
    return sorted(records, key=lambda record: (record.created, record.id))


def _local(record: "EpisodeRecord") -> datetime:
    return datetime.fromisoformat(record.created).astimezone()


def _why(record: "EpisodeRecord") -> str:
    if record.decision is not None:
        return f"by hand: {record.decision.reason}"
    return "; ".join(reason.message for reason in record.reasons)


def _print(record: "EpisodeRecord", folder: Path) -> None:
    from agent.episodes.record import facts, findings_of

    typer.echo(f"Episode {record.id}: {record.verdict}\n{record.task or '(no task)'}")
    for name, value in [*facts(record), ("folder", str(folder))]:
        typer.echo(f"  {name:<16} {value}")
    for title, findings in findings_of(record):
        typer.echo(title)
        for finding in findings:
            frames = f" (frames {', '.join(map(str, finding.frames))})" if finding.frames else ""
            typer.echo(f"  {finding.check}: {finding.message}{frames}")
