"""Chapter 7: the table, the plot, the videos, demo-report.json and the last line."""

import json
import shutil
from pathlib import Path
from typing import Any

from rich.table import Table

from cli.demo import evidence
from cli.demo.tally import Tally, described
from cli.demo.train import staleness
from cli.demo.world import World
from shared.files import write_atomic

MAX_UPDATE_BYTES = 500_000


def report(world: World, path: Path) -> bool:
    """Write and show the report; True if every target was met."""
    findings = evidence.search(world)
    figures = collect(world, findings.records)
    misses = judge(world, figures)
    figures["missed"] = misses
    figures["ok"] = not misses
    write_atomic(path, json.dumps(figures, indent=1) + "\n")
    _show(world, figures, findings.bytes_read)
    plot(figures["versions"], world.layout.report / "success.png")
    copy_videos(world)
    world.screen.say(f"Report: {path}; plot and videos: {world.layout.report}")
    for miss in misses:
        world.screen.say(f"[red]Missed: {miss}[/red]")
    return not misses


def collect(world: World, raw_records: int) -> dict[str, Any]:
    """demo-report.json, its targets left out."""
    versions = world.notes.get("versions", [])
    per_station = evidence.station_bytes(world)
    nodes = world.coordinator.get("/nodes")["nodes"]
    updates, update_bytes = sum(n["updates"] for n in nodes), sum(n["bytes"] for n in nodes)
    return {
        "seed": world.plan.seed,
        "tasks": world.tally.to_json(),
        "versions": versions,
        "rounds": max((version["version"] for version in versions), default=0),
        "updates": updates,
        "bytes_per_update": round(update_bytes / updates) if updates else 0,
        "bytes_up": sum(up for up, _ in per_station.values()),
        "bytes_down": sum(down for _, down in per_station.values()),
        "bytes_per_station": {
            name: {"up": up, "down": down} for name, (up, down) in sorted(per_station.items())
        },
        "raw_records_sent": raw_records,
        "canaries": world.notes.get("canaries", 0),
        "staleness_histogram": staleness(versions),
        "interruption": world.notes.get("interruption"),
        "promoted": world.notes.get("promoted"),
        "wall_s": round(world.screen.seconds, 1),
        "phases_s": dict(world.screen.phases),
    }


def judge(world: World, figures: dict[str, Any]) -> list[str]:
    """A sentence per target that was missed."""
    misses = world.tally.misses(world.plan)
    interruption = figures["interruption"]
    if figures["raw_records_sent"]:
        misses.append(f"{figures['raw_records_sent']} recorded things left a workstation")
    if not figures["updates"] or figures["bytes_per_update"] > MAX_UPDATE_BYTES:
        misses.append(f"{figures['bytes_per_update']} bytes per update, {MAX_UPDATE_BYTES} are allowed")
    if not any(int(stale) > 0 for stale in figures["staleness_histogram"]):
        misses.append("no update was stale: the slow station was not slow")
    if figures["rounds"] < world.plan.rounds:
        misses.append(f"{figures['rounds']} of {world.plan.rounds} rounds")
    if not interruption or interruption["seconds"] >= 1.0 or not interruption["resumed_same_update"]:
        misses.append(f"training did not give way within a second and go on: {interruption}")
    if figures["wall_s"] > world.plan.limit_s:
        misses.append(f"{figures['wall_s']:.0f} s, the limit is {world.plan.limit_s:.0f} s")
    return misses


def results_table(tally: Tally, stations: list[str]) -> Table:
    """Task x station, before -> after with the Wilson 95 % interval."""
    table = Table(title="Rollouts on the arms: before -> after (95 % Wilson)")
    table.add_column("task")
    for station in stations:
        table.add_column(f"arm {station}")
    table.add_column("all arms, after")
    for task, cells in tally.cells.items():
        row = [f"{described(cells[name].before)}\n-> {described(cells[name].after)}" for name in stations]
        table.add_row(task, *row, described(tally.pooled(task, "after")))
    return table


def _show(world: World, figures: dict[str, Any], bytes_read: int) -> None:
    console = world.screen.console
    console.print(results_table(world.tally, [each.name for each in world.stations]))
    taught = ", ".join(
        f"{each.name}: {t.text if (t := each.layout.plan.task) else 'nothing'}" for each in world.stations
    )
    console.print(f"Taught: {taught}")
    histogram = ", ".join(f"{stale}: {count}" for stale, count in figures["staleness_histogram"].items())
    console.print(f"Staleness (versions: updates): {histogram}")
    console.print(
        f"{figures['rounds']} rounds, {figures['updates']} updates of "
        f"{figures['bytes_per_update'] / 1000:.0f} kB; "
        f"{figures['bytes_up'] / 1e6:.1f} MB up, {figures['bytes_down'] / 1e6:.1f} MB down"
    )
    phases = ", ".join(f"{name} {seconds:.0f}" for name, seconds in figures["phases_s"].items())
    console.print(f"Seconds: {phases}; in all {figures['wall_s']:.0f}")
    console.print(
        f"Frames, states and actions that left a workstation: {figures['raw_records_sent']} "
        f"({figures['canaries']} canaries searched for in {bytes_read / 1e6:.1f} MB before TLS)"
    )


def plot(versions: list[dict[str, Any]], path: Path) -> None:
    """Success per evaluated version, known and unseen tasks."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from shared.metrics import wilson

    figure, axes = pyplot.subplots(figsize=(7, 4), dpi=120)
    series: dict[str, list[tuple[int, int, int]]] = {}
    for version in versions:
        evaluation = version["evaluation"] or {"known": {}, "unseen": {}}
        for kind in ("known", "unseen"):
            for task, counts in evaluation[kind].items():
                label = task if kind == "known" else f"{task} (never taught)"
                point = (version["version"], counts["successes"], counts["rollouts"])
                series.setdefault(label, []).append(point)
    for label, points in series.items():
        numbers = [number for number, _, _ in points]
        rates = [100 * won / tried for _, won, tried in points]
        spans = [wilson(won, tried) for _, won, tried in points]
        (line,) = axes.plot(numbers, rates, marker="o", label=label)
        low, high = ([100 * span[side] for span in spans] for side in (0, 1))
        axes.fill_between(numbers, low, high, alpha=0.12, color=line.get_color())
    axes.set(xlabel="version", ylabel="success in simulation, %", ylim=(-3, 103))
    if series:
        axes.legend()
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def copy_videos(world: World) -> None:
    """One video per task: if there is one, a success of the last version on an arm that was not taught it."""
    for task in world.plan.tasks:
        found = []
        for each in world.stations:
            taught = each.layout.plan.task == task
            for path in (each.layout.state / "rollouts").glob("*/rollout.json"):
                result, video = json.loads(path.read_text()), path.with_name("video.mp4")
                if result.get("task") == task.text and video.exists():
                    order = (not result.get("success"), taught, -path.stat().st_mtime)
                    found.append((order, each.name, video))
        if found:
            (failed, *_), name, video = min(found)
            outcome = "failure" if failed else "success"
            shutil.copy(video, world.layout.report / f"{task.key}-arm-{name}-{outcome}.mp4")
