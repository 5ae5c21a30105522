"""Rollouts for people: a table, one in words, and a self-contained page."""

import base64
import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup
from rich.markup import escape
from rich.table import Table

from agent.evaluation.rollouts import LATENCY_EDGES_MS, TRACE, VIDEO, RolloutRecord
from agent.robot.joints import JOINTS
from cli.rollout_view import REASONS
from shared.policy.rtc import CONTROL_HZ

WIDEST = 40
"""Characters of the longest bar."""
TEMPLATE = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string("""\
<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'">
<title>Rollout {{ record.id }}</title>
<style>
body { font: 15px/1.45 sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse } td, th { text-align: left; padding: .15em 1em .15em 0 }
svg { width: 100%; height: auto } video { max-width: 680px }
</style></head><body>
<h1>Rollout {{ record.id }}: {{ label }}</h1>
<p>{{ record.task }}</p>
<table>
{% for name, value in facts %}
<tr><th>{{ name }}</th><td>{{ value }}</td></tr>
{% endfor %}
</table>
{% if video %}
<h2>Video</h2>
<p><video controls muted preload="metadata" src="data:video/mp4;base64,{{ video }}"></video></p>
{% else %}
<p>There is no video.</p>
{% endif %}
<h2>Latency of chunks</h2>
<pre>{{ histogram }}</pre>
{% if joints %}
<h2>Joints: state over goal</h2>
{{ joints }}
{% else %}
<p>There is no trace of the joints.</p>
{% endif %}
</body></html>
""")


def label_of(record: RolloutRecord) -> str:
    """The label in a word."""
    if record.discarded:
        return "discarded"
    return {True: "success", False: "failure", None: "no label"}[record.success]


def version_of(record: RolloutRecord) -> str:
    """What ran, as far as it may be known."""
    if record.blinded:
        return "hidden: a comparison goes on"
    return "the base alone" if record.version is None else str(record.version)


def table(records: Sequence[RolloutRecord]) -> Table:
    """One line for each."""
    made = Table(box=None, header_style="bold")
    for column in ("rollout", "day", "s", "version", "label", "ended", "latency", "starved", "task"):
        made.add_column(
            column, overflow="fold", justify="right" if column in ("s", "latency", "starved") else "left"
        )
    for record in records:
        figures = record.figures
        made.add_row(
            record.id,
            f"{_local(record):%Y-%m-%d %H:%M}",
            f"{figures.ticks / CONTROL_HZ:.1f}",
            version_of(record),
            label_of(record),
            escape(record.reason),
            f"{figures.latency_ms_mean:.0f} ms",
            str(figures.starved),
            escape(record.task),
        )
    return made


def facts(record: RolloutRecord) -> list[tuple[str, str]]:
    """What is known of a rollout: (name, value)."""
    figures, place = record.figures, record.place
    found = [
        ("label", label_of(record)),
        ("version", version_of(record)),
        ("digest", record.digest or "not known"),
        ("when", f"{_local(record):%Y-%m-%d %H:%M:%S}"),
        ("ended", REASONS.get(record.reason, record.reason)),
        ("length", f"{figures.ticks} ticks, {figures.ticks / CONTROL_HZ:.1f} s"),
        ("starved", f"{figures.starved} ticks without an action; the arm held"),
        ("chunks", f"{figures.chunks}, latency {figures.latency_ms_mean:.0f} ms, at most "
                   f"{figures.latency_ms_max:.0f} ms"),
        ("loop", f"{figures.period_ms_mean:.1f} ms, at most {figures.period_ms_max:.1f} ms"),
    ]  # fmt: skip
    if figures.bounded:
        found.append(("bounded", f"{figures.bounded} ticks of the first chunk, to what it was trained on"))
    if record.interventions is not None:
        found.append(("taken over", f"{record.interventions} times"))
    if record.why:
        found.append(("why", record.why))
    if place is not None:
        pair = f", pair {place.place // 2 + 1}" if place.paired else ""
        found.append(("series", f"{place.series}, place {place.place + 1}{pair}"))
    return found


def histogram(counts: Sequence[int]) -> str:
    """Latencies as bars of text; the empty bins at both ends are left out."""
    if not any(counts):
        return "no latencies are known"
    used = [index for index, count in enumerate(counts) if count]
    edges = [0, *LATENCY_EDGES_MS]
    lines = []
    for index in range(used[0], used[-1] + 1):
        end = f"{edges[index + 1]:>4}" if index < len(LATENCY_EDGES_MS) else "   …"
        bar = "█" * round(WIDEST * counts[index] / max(counts)) or ("▏" if counts[index] else "")
        lines.append(f"{edges[index]:>4} to {end} ms {counts[index]:>5} {bar}".rstrip())
    return "\n".join(lines)


def text(record: RolloutRecord, folder: Path) -> str:
    """One rollout in words."""
    video = folder / VIDEO
    lines = [f"Rollout {record.id}", record.task]
    for name, value in [*facts(record), ("video", str(video) if video.exists() else "none")]:
        lines.append(f"  {name:<10} {value}")
    return "\n".join([*lines, "Latency of chunks", histogram(record.figures.latency_counts)])


def write_page(folder: Path, record: RolloutRecord, target: Path) -> None:
    """Write the page of the rollout in `folder`. What isn't there is said on the page."""
    from agent.episodes import plots

    video, joints = folder / VIDEO, ""
    state, goal = _trace(folder / TRACE)
    if len(state):
        joints = plots.joints(state, goal, CONTROL_HZ, JOINTS, [])
    page = TEMPLATE.render(
        record=record,
        label=label_of(record),
        facts=facts(record),
        video=base64.b64encode(video.read_bytes()).decode() if video.exists() else "",
        histogram=histogram(record.figures.latency_counts),
        joints=Markup(joints),  # drawn here, from numbers
    )
    target.write_text(page, encoding="utf-8")


def _trace(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """State and goal, (ticks, 6) units each; empty where there is no trace."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return np.array([row["state"] for row in rows]), np.array([row["goal"] for row in rows])


def _local(record: RolloutRecord) -> datetime:
    return datetime.fromisoformat(record.created).astimezone()
