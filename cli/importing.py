"""`armfleet episodes import`: shows how it goes, in the agent or, where none runs, in a child process."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from agent.lock import only_one
from cli.episodes import agent_client
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.uds import UdsClient

if TYPE_CHECKING:
    from agent.config import AgentConfig

POLL_S = 0.5
JUDGING_S = 30.0
"""Longest wait for the agent's gate, for each imported episode, before the summary."""


def run(config: "AgentConfig", datasets: list[Path], as_json: bool) -> int:
    """Import and say what came of it; the exit status."""
    events: list[dict[str, Any]] = []
    with _progress(as_json) as progress:
        bar = progress.add_task("", total=None)
        for event in _events(config, datasets):
            events.append(event)
            if as_json:
                typer.echo(json.dumps(event))
            elif "episodes" in event:
                progress.update(bar, description=event["dataset"], completed=0, total=event["episodes"])
            elif "outcome" in event:
                progress.advance(bar)
    return _summary(config, events, as_json)


def _events(config: "AgentConfig", datasets: list[Path]) -> Iterator[dict[str, Any]]:
    """What the import reports, from the agent if one answers."""
    client = agent_client(config)
    if client is not None:
        try:
            client.post("/episodes/import", {"datasets": [str(path) for path in datasets]})
        except ArmfleetError as error:
            if error.code != ExitCode.COORDINATOR_AWAY:
                raise
        else:
            yield from _follow(client)
            return
    with only_one(config.node.state_dir):
        yield from _here(config, datasets)


def _follow(client: UdsClient) -> Iterator[dict[str, Any]]:
    """Events of the agent's import until it ends; Ctrl-C leaves it running."""
    position, running = 0, True
    while running:
        answer = client.get(f"/episodes/import?since={position}", timeout_s=30)
        position, running = answer["next"], answer["running"]
        yield from answer["events"]
        if running:
            time.sleep(POLL_S)
    deadline = time.monotonic() + JUDGING_S * (1 + position)
    while client.get("/status", timeout_s=30)["gate"]["waiting"] and time.monotonic() < deadline:
        time.sleep(POLL_S)


def _here(config: "AgentConfig", datasets: list[Path]) -> Iterator[dict[str, Any]]:
    from agent.episodes.desk import import_command
    from agent.episodes.store import EpisodeStore

    argv = import_command(config.episodes_dir, config.recording.min_free_mb, [str(path) for path in datasets])
    with subprocess.Popen([sys.executable, *argv], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield json.loads(line)
    yield {"ended": process.returncode}
    store = EpisodeStore(config.episodes_dir, config.split)
    for record in store.records():
        if record.verdict == "unjudged":  # also what an import that was killed left unjudged
            store.judge(record.id)


def _summary(config: "AgentConfig", events: list[dict[str, Any]], as_json: bool) -> int:
    from agent.episodes.store import EpisodeStore

    code = next((int(event["ended"]) for event in events if "ended" in event), int(ExitCode.UNEXPECTED))
    outcomes: dict[str, list[dict[str, Any]]] = {"imported": [], "known": [], "failed": []}
    for event in events:
        if "outcome" in event:
            outcomes[event["outcome"]].append(event)
    if not as_json:
        store = EpisodeStore(config.episodes_dir, config.split)
        verdicts = [store.read(event["episode"]).verdict for event in outcomes["imported"]]
        counts = ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts))
        typer.echo(f"imported: {len(verdicts)} episodes{f' ({counts})' if counts else ''}")
        if outcomes["known"]:
            typer.echo(f"already there: {len(outcomes['known'])} ({outcomes['known'][0]['why']})")
        for event in outcomes["failed"]:
            typer.echo(f"not imported: {event['why']}")
    for event in events:
        if "error" in event:
            raise ArmfleetError.from_dict(event["error"])
    return code


def _progress(quiet: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet)
