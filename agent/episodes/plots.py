"""An episode's curves as inline SVG: joints, loop time, age of the pictures. Matplotlib, no display."""

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from agent.episodes.record import Reason

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, and searchable
    "svg.hashsalt": "armfleet",
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.0,
}
ACTION, STATE, MARK = "#d95f02", "#1b5e9e", "#c0392b"


def joints(
    state: np.ndarray, action: np.ndarray, fps: float, names: Sequence[str], marks: Iterable[int]
) -> str:
    """SVG with one plot per joint, state over action, (T, joints) units; frames of `marks` are marked."""
    seconds = np.arange(len(state)) / fps
    count = max(state.shape[1], action.shape[1])
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 1.35 * count), layout="constrained")
        all_axes = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
        for index, axes in enumerate(all_axes):
            if index < action.shape[1]:
                axes.plot(seconds, action[:, index], color=ACTION, label="action")
            if index < state.shape[1]:
                axes.plot(seconds, state[:, index], color=STATE, label="state")
            axes.set_ylabel(names[index] if index < len(names) else f"joint {index}")
            _mark(axes, marks, fps)
        all_axes[0].legend(loc="upper right", ncols=2, frameon=False)
        all_axes[-1].set_xlabel("s")
        return svg(figure)


def timing(sidecar: Sequence[Mapping[str, Any]], fps: float, marks: Iterable[int]) -> str:
    """SVG of the real loop time and of each camera's age, ms, from the sidecar's rows."""
    seconds = np.array([row.get("frame", i) for i, row in enumerate(sidecar)]) / fps
    cameras = sorted({name for row in sidecar for name in row.get("cameras", {})})
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 3.2), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True)
        above.plot(seconds, _ms([row.get("period") for row in sidecar]), color=STATE)
        above.axhline(1000 / fps, color="#999", linewidth=0.7)
        above.set_ylabel("loop time, ms")
        for name in cameras:
            ages = [row.get("cameras", {}).get(name, {}).get("age") for row in sidecar]
            below.plot(seconds, _ms(ages), label=name)
        below.set_ylabel("age of picture, ms")
        below.set_xlabel("s")
        if cameras:
            below.legend(loc="upper right", ncols=len(cameras), frameon=False)
        for axes in (above, below):
            _mark(axes, marks, fps)
        return svg(figure)


def marked(findings: Iterable[Reason]) -> list[int]:
    """The frames that findings name, each once."""
    return sorted({frame for finding in findings for frame in finding.frames})


def svg(figure: Figure) -> str:
    """`figure` as an element for a page; draw and write it under `STYLE`."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    whole = text.getvalue()
    return whole[whole.index("<svg") :]  # without the XML declaration, which has no place inside a page


def _ms(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value * 1000 for value in values])


def _mark(axes: Any, marks: Iterable[int], fps: float) -> None:
    for frame in marks:
        axes.axvspan((frame - 0.5) / fps, (frame + 0.5) / fps, color=MARK, alpha=0.35, linewidth=0.8)
