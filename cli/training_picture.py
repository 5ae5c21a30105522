"""The history of training as a picture, a page, or rows of a table. Matplotlib, no display."""

from collections.abc import Sequence
from pathlib import Path

import jinja2
import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from agent.episodes.plots import STYLE, svg
from agent.training.history import UpdateRecord, megabytes

COLUMNS = (
    "finished",
    "from version",
    "steps",
    "train loss",
    "eval loss",
    "action MSE",
    "gradient norm",
    "largest",
    "steps/s",
    "memory, MB",
    "GPU energy, J",
    "recipe",
)
ROWS = 30
"""Updates in the page's table."""
SHORT = 8
"""Digits of a recipe's digest: enough to see where it changed."""
MARKERS = 60
"""More updates than these are drawn as lines alone."""
DARK, LIGHT = "#333333", "#d95f02"
PER_TASK = {
    "train_loss": "train loss",
    "eval_loss": "eval loss",
    "action_mse": "action MSE, normalised units",
}
TEMPLATE = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string("""\
<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Training on {{ node }}</title>
<style>
body { font: 15px/1.45 sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse } td, th { text-align: right; padding: .15em 1em .15em 0 }
svg { width: 100%; height: auto }
</style></head><body>
<h1>Training on {{ node }}</h1>
{{ picture }}
<h2>The last {{ rows | length }} of {{ count }} updates</h2>
<table>
<tr>{% for column in columns %}<th>{{ column }}</th>{% endfor %}</tr>
{% for row in rows %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</table>
</body></html>
""")


def row(record: UpdateRecord) -> tuple[str, ...]:
    """What `COLUMNS` name; of a metric per task the mean over tasks."""
    values = record.scalars
    shown = {name: f"{value:.4g}" for name, value in values.items()}
    return (
        f"{record.finished.astimezone():%Y-%m-%d %H:%M}",
        str(record.version),
        str(record.steps),
        *(shown.get(name, "") for name in ("train_loss", "eval_loss", "action_mse")),
        shown["gradient_norm"],
        shown["gradient_norm_max"],
        shown.get("steps_per_second", ""),
        str(megabytes(record.peak_gpu_memory_bytes or record.peak_memory_bytes)),
        shown.get("energy_joules", ""),
        record.recipe[:SHORT],
    )


def write_page(node: str, records: Sequence[UpdateRecord], target: Path) -> None:
    """One page that asks no network for anything."""
    with mpl.rc_context(STYLE):
        picture = svg(draw(node, records))
    rows = [row(record) for record in reversed(records[-ROWS:])]
    page = TEMPLATE.render(
        node=node,
        picture=Markup(picture),  # drawn here; Matplotlib escapes the names of tasks
        columns=COLUMNS,
        rows=rows,
        count=len(records),
    )
    target.write_text(page, encoding="utf-8")


def write_picture(node: str, records: Sequence[UpdateRecord], target: Path) -> None:
    """A PNG, whatever the name's ending."""
    with mpl.rc_context(STYLE):
        draw(node, records).savefig(target, format="png", dpi=130)


def draw(node: str, records: Sequence[UpdateRecord]) -> Figure:
    """Six plots over the updates, which are numbered from 1, and two of energy where any is known; below
    stands the version each began from.

    A task has one colour everywhere. What was not measured leaves a gap.
    """
    energy = [record.energy_joules for record in records]
    rows = 3 if all(joules is None for joules in energy) else 4
    figure = Figure(figsize=(11, 2.5 * rows), layout="constrained")
    axes = figure.subplots(rows, 2, sharex=True)
    tasks = sorted({task for record in records for values in record.per_task.values() for task in values})
    for place, (metric, title) in zip(axes[:3, 0], PER_TASK.items(), strict=True):
        place.set_title(title, loc="left")
        for index, task in enumerate(tasks):
            values = [record.per_task.get(metric, {}).get(task) for record in records]
            _line(place, values, f"C{index % 10}", task)
    norm, speed, memory = axes[:3, 1]
    norm.set_title("gradient norm before clipping", loc="left")
    _line(norm, [record.gradient_norm for record in records], DARK, "mean")
    _line(norm, [record.gradient_norm_max for record in records], LIGHT, "largest")
    _beside_title(norm)
    speed.set_title("steps per second of computing", loc="left")
    _line(speed, [record.scalars.get("steps_per_second") for record in records], DARK)
    memory.set_title("peak memory, MB", loc="left")
    _line(memory, [record.peak_memory_bytes / 1e6 for record in records], DARK, "process")
    if any(record.peak_gpu_memory_bytes for record in records):
        _line(memory, [(record.peak_gpu_memory_bytes or np.nan) / 1e6 for record in records], LIGHT, "GPU")
        _beside_title(memory)
    if rows == 4:
        axes[3, 0].set_title("energy of the GPU, J", loc="left")
        _line(axes[3, 0], energy, DARK)
        axes[3, 1].set_title("energy of the GPU per step, J", loc="left")
        steps = [record.steps for record in records]
        _line(axes[3, 1], [j if j is None else j / n for j, n in zip(energy, steps, strict=True)], DARK)
    for place in axes.flat:
        _scale(place, len(records))
    for place in axes[-1]:
        place.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))
        place.xaxis.set_major_formatter(lambda x, _: _tick(round(x), records))
        place.set_xlabel("update, and the version it began from")
    figure.suptitle(f"Training on {node}", x=0.01, ha="left", fontsize=12)
    lines = axes[0, 0].get_legend_handles_labels()
    for name in figure.legend(*lines, loc="outside lower left", ncols=3, frameon=False).get_texts():
        name.set_parse_math(False)  # two $ in a task begin no formula
    return figure


def _line(axes: Axes, values: Sequence[float | None], colour: str, label: str | None = None) -> None:
    points = np.array([np.nan if value is None else value for value in values])
    marker = "o" if len(points) <= MARKERS else None
    axes.plot(np.arange(1, len(points) + 1), points, color=colour, label=label, marker=marker, markersize=2.5)


def _scale(axes: Axes, count: int) -> None:
    """From zero, so that a small change does not look like a large one."""
    axes.grid(axis="y", color="#e6e6e6")
    axes.set_xlim(0.5, count + 0.5)
    if np.isfinite(axes.dataLim.y1):
        axes.set_ylim(0, 1.1 * axes.dataLim.y1 or 1)
    else:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "not measured: no evaluation episodes", transform=axes.transAxes, ha="center")


def _beside_title(axes: Axes) -> None:
    axes.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 0.97))


def _tick(number: int, records: Sequence[UpdateRecord]) -> str:
    return f"{number}\nv{records[number - 1].version}" if 1 <= number <= len(records) else ""
