"""`armfleet status` and `armfleet versions`: what everybody does now, and why."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cli.demo.layout import STAMP
from cli.doctor.finding import JOIN_GROUP
from cli.measured_words import simulation_words, station_words
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.metrics import wilson
from shared.uds import UdsClient


def show(demo: Path | None, agent_socket: Path, coordinator_socket: Path, as_json: bool) -> int:
    """Ask all daemons and print a table; the exit code is that of the worst answer.

    Without a demo, a machine usually has an agent or a coordinator: a socket that isn't there is left out,
    unless neither is.
    """
    sockets = _demo_sockets(demo) if demo else _local_sockets(agent_socket, coordinator_socket)
    answers: dict[str, dict[str, Any] | ArmfleetError] = {}
    for name, path in sockets.items():
        try:
            answers[name] = _ask(path)
        except ArmfleetError as error:
            answers[name] = error
    if as_json:
        print(json.dumps({name: _plain(answer) for name, answer in answers.items()}, indent=1))
    else:
        _print(answers)
    failed = [answer.code for answer in answers.values() if isinstance(answer, ArmfleetError)]
    return int(max(failed, default=ExitCode.OK))


def _demo_sockets(folder: Path) -> dict[str, Path]:
    try:
        stamp = json.loads((folder / STAMP).read_text())
        agents = {f"agent {name}": Path(path) for name, path in stamp["agents"].items()}
        return {"coordinator": Path(stamp["coordinator"]), **agents}
    except (OSError, ValueError, KeyError) as error:
        raise ArmfleetError(
            f"{folder} holds no demo ({error})",
            do="start one with `make demo KEEP=1`",
            code=ExitCode.CONFIG_UNREADABLE,
        ) from error


def _local_sockets(agent: Path, coordinator: Path) -> dict[str, Path]:
    there = {name: path for name, path in (("coordinator", coordinator), ("agent", agent)) if _there(path)}
    return there or {"agent": agent}


def _there(socket: Path) -> bool:
    """Whether the socket is there, or this user may not even look."""
    try:
        return socket.exists()
    except PermissionError:
        return True


def _ask(socket: Path) -> dict[str, Any]:
    """A daemon's status.

    Raises:
        ArmfleetError: COORDINATOR_AWAY: nobody answers, or this user may not ask; or the daemon's sentence.
    """
    if _there(socket) and not os.access(socket, os.R_OK | os.W_OK):
        raise ArmfleetError(
            f"this user may not use {socket}",
            do=f"{JOIN_GROUP} (armfleet-coordinator for the coordinator's)",
            code=ExitCode.COORDINATOR_AWAY,
        )
    return UdsClient(socket).get("/status")


def _plain(answer: dict[str, Any] | ArmfleetError) -> dict[str, Any]:
    return {"error": answer.to_dict()} if isinstance(answer, ArmfleetError) else answer


def _print(answers: dict[str, dict[str, Any] | ArmfleetError]) -> None:
    table = Table(show_lines=True)
    for title in ("who", "now", "why, and what else"):
        table.add_column(title, overflow="fold")
    for name, answer in answers.items():
        if isinstance(answer, ArmfleetError):
            table.add_row(name, "[red]no answer[/red]", str(answer))
        elif name == "coordinator":
            table.add_row(name, *map(escape, coordinator_words(answer)))
        else:
            table.add_row(name, *map(escape, agent_words(answer)))
    Console().print(table)


def coordinator_words(status: dict[str, Any]) -> tuple[str, str]:
    """(now, why) of a coordinator's status."""
    promoted = status["promoted"]
    now = f"version {status['newest']} of {status['rounds']} rounds; {promoted['version']} is promoted"
    lines = [
        f"promoted: {promoted['why']}",
        f"in the field: {status['field']['now']}",
        *(f"version {promoted['version']}, {words}" for words in field_words(promoted["field"])),
        *(f"in simulation, {words}" for words in simulation_words(promoted["evaluation"])),
        *(f"on evaluation episodes, {words}" for words in station_words(promoted["at_stations"])),
        f"rounds: {status['aggregation']['now']}",
        *(f"set aside: {why}" for why in status["aggregation"]["set_aside"]),
        f"evaluation: {status['evaluation']['now']}",
        f"exchange: {status['exchange']['now']}; training is {_wanted(status['exchange']['training'])}",
    ]
    lines += [
        f"{node['name']}: {'online' if node['online'] else 'offline'}, "
        f"{node['activity'] or 'not heard of yet'}, {node['updates']} updates"
        + (f"; {node['trouble']}" if node["trouble"] else "")
        for node in status["nodes"]
    ]
    return now, "\n".join(lines)


def _wanted(sentence: str) -> str:
    return sentence if sentence == "asked for" else f"not asked for: {sentence}"


def agent_words(status: dict[str, Any]) -> tuple[str, str]:
    """(now, why) of an agent's status."""
    lines = [status["why"]]
    lines += [f"{part}: {fault}" for part, fault in status["faults"].items()]
    if recording := status.get("recording"):
        lines.append(
            f"session: {recording['kept']} of {recording['wanted']} episodes kept, {recording['phase']}; "
            + ("a terminal has its keys" if recording["attended"] else "armfleet record goes on with it")
        )
    if series := status.get("series"):
        lines.append(
            f"series: {series['done']} of {series['wanted']} rollouts done, {series['phase']}; "
            + ("a terminal has its keys" if series["attended"] else "armfleet rollout goes on with it")
        )
    if arm := status["arm"]:
        lines += [text for text in (arm["fault"], arm["torque_fault"], *arm.get("warnings", [])) if text]
    counts = status["episodes"]
    lines.append("episodes: " + (", ".join(f"{n} {kind}" for kind, n in counts.items() if n) or "none"))
    lines += _exchange_words(status["exchange"]) if status["exchange"] else ["exchange: no fleet was joined"]
    lines += [
        f"{name}: {worker['state']} ({worker['reason']})"
        for name, worker in status["workers"].items()
        if worker["state"] in ("starting", "failed")
    ]
    return str(status["activity"]), "\n".join(lines)


def _exchange_words(exchange: dict[str, Any]) -> list[str]:
    versions, age = exchange["versions"], exchange["last_check_in_s"]
    running = versions["running"]
    executes = f"version {running['version']}, digest proven" if running else "the base alone"
    lines = [
        f"policy: {'for nobody to know while two are compared' if versions['blinded'] else executes}",
        f"exchange: last check-in {'never' if age is None else f'{age:.0f} s ago'}, "
        f"{exchange['outbox']['updates']} updates wait",
    ]
    progress = exchange["training"]["progress"]
    if versions["why"]:
        lines.append(f"promoted: {versions['why']}")
    lines += [
        f"version {result['version']}, {field_words([_counted(result)])[0]}" for result in versions["field"]
    ]
    if progress:
        lines.append(f"training: {_training_words(progress)}")
    faults = (versions["fault"], exchange["training"]["fault"], exchange["refused"])
    return lines + [fault for fault in faults if fault]


def _training_words(progress: dict[str, Any]) -> str:
    """How far the trainer is."""
    if "tier" in progress:
        of = f"episode {progress['episode']} of {progress['episodes']}"
        return f"building the cache: {of} ({progress['tier']})"
    return f"step {progress['step']} of {progress['steps']}, loss {progress['loss']:.3f}"


def field_words(results: Sequence[dict[str, Any]]) -> list[str]:
    """A line per task: labelled rollouts with the Wilson 95 % interval, and what else happened in them."""
    lines = []
    for result in results:
        successes, rollouts = result["successes"], result["rollouts"]
        low, high = wilson(successes, rollouts)
        words = f"{result['task']}: {successes}/{rollouts} [{low:.0%}-{high:.0%}]"
        if result["interventions"] is not None:
            words += f", {result['interventions']} interventions"
        lines.append(words + (f", {result['unsafe']} ended by an unsafe arm" if result["unsafe"] else ""))
    return lines


def _counted(result: dict[str, Any]) -> dict[str, Any]:
    """A station's own report with its labels counted."""
    return {**result, "successes": result["labels"].count("1"), "rollouts": len(result["labels"])}


def show_versions(coordinator: Path, agent: Path) -> None:
    """Print the coordinator's versions, newest last; where there is none, what the workstation holds."""
    if not _there(coordinator) and _there(agent):
        Console().print(held_versions(UdsClient(agent).get("/versions")))
        return
    table = Table()
    for title in ("version", "state", "why", "success in simulation", "on the arms", "made of (staleness)"):
        table.add_column(title, overflow="fold")
    for version in UdsClient(coordinator).get("/versions")["versions"]:
        measured = simulation_words(version["evaluation"])
        if words := station_words(version["at_stations"]):  # a column more leaves none room in 80 characters
            measured += ["on evaluation episodes:", *words]
        table.add_row(
            str(version["version"]),
            version["state"],
            escape(version["why"]),
            escape("\n".join(measured)),
            escape("\n".join(field_words(version["field"]))),
            _made_of(version),
        )
    Console().print(table)


def _made_of(version: dict[str, Any]) -> str:
    kinds = {"": version["contributions"], "remembered: ": version["remembered"]}
    return "\n".join(
        word + ", ".join(f"{part['node']} ({part['staleness']})" for part in parts)
        for word, parts in kinds.items()
        if parts
    )


def held_versions(status: dict[str, Any]) -> Table:
    """What a workstation holds and runs, why, and what it reported of its own rollouts."""
    told: dict[int, list[dict[str, Any]]] = {}
    for result in status["field"]:
        told.setdefault(result["version"], []).append(_counted(result))
    roles: dict[int, list[str]] = {number: [] for number in told}
    for role in ("promoted", "candidate", "running"):
        if status[role] is not None:
            roles.setdefault(status[role]["version"], []).append(role)
    table = Table()
    for title in ("version", "here", "why", "on this arm"):
        table.add_column(title, overflow="fold")
    for number in sorted(roles):
        why = status["why"] if "promoted" in roles[number] else ""
        words = field_words(told.get(number, []))
        table.add_row(str(number), ", ".join(roles[number]), escape(why), escape("\n".join(words)))
    return table


def verify_version(socket: Path, number: int) -> None:
    """Have the coordinator compute a version again, and say what came out.

    Raises:
        ArmfleetError: REGISTRY_DAMAGED, other bytes came out; or the coordinator's own sentence.
    """
    answer = UdsClient(socket, timeout_s=300).post("/versions/verify", {"version": number})
    made_of = f"version {answer['parent']} and {answer['updates']} updates"
    if not answer["same"]:
        elsewhere = (
            ", or it was made on another kind of processor" if answer["aggregator"] == "refactored" else ""
        )
        raise ArmfleetError(
            f"version {number}, computed again from {made_of}, comes out different: "
            f"its folder or one of theirs was changed{elsewhere}",
            kept="all versions and updates",
            do="compare the folders with a backup",
            code=ExitCode.REGISTRY_DAMAGED,
        )
    print(f"Version {number}, computed again from {made_of}, is the same to the byte.")
