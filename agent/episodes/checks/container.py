"""Does the folder agree with itself: tables, counters, metadata, statistics."""

from collections.abc import Iterator

import numpy as np

from agent.episodes.checks.evidence import Evidence
from agent.episodes.checks.registry import Finding, found_by_reading, rule
from agent.episodes.dataset import Layout

SPAN_FRAMES = 1.5
"""Frames by which a video's span may differ from the rows': the last frame has no successor."""

found_by_reading(
    "container.missing",
    "There is no such folder.",
    "Nothing can be said of what is not there.",
    do="Check the path.",
    outcome="undecidable",
)
found_by_reading(
    "container.version",
    "The dataset is of another format than LeRobot v3.",
    "That is no defect, but it can't be read here.",
    do="Convert it with LeRobot (`armfleet episodes import` does).",
    outcome="undecidable",
)
found_by_reading(
    "container.unreadable",
    "A table or a metadata file is damaged or truncated.",
    "A parquet file without its footer, as a power loss leaves it, can't be read by anything.",
    do="Import another copy; the episode is lost if there is none.",
)
found_by_reading(
    "container.file_missing",
    "A file that the dataset needs or its metadata names is missing.",
    "The dataset can't be loaded.",
    do="Import another copy.",
)


@rule("container.empty", 1, do="Delete it.")
def empty(e: Evidence, limit: float) -> Iterator[Finding]:
    """The episode has no rows.

    There is nothing to learn from, and LeRobot fails on it.
    """
    if e.rows < limit:
        yield Finding("the episode has no rows", e.rows)


@rule("container.length", 0, do="Import another copy, or record it again.")
def length(e: Evidence, limit: float) -> Iterator[Finding]:
    """The metadata names another number of frames than the table has.

    LeRobot then cuts episodes in the wrong places.
    """
    said = [("meta/episodes", e.episode.declared_frames)]
    layout = e.episode.layout or Layout()
    if layout.from_index is not None and layout.to_index is not None:
        said.append(("its span in meta/episodes", layout.to_index - layout.from_index))
    for where, frames in said:
        if abs(frames - e.rows) > limit:
            yield Finding(f"{where} says {frames} frames, the table has {e.rows}", frames)
            return


@rule("container.frame_index", 0, do="Import another copy, or record it again.")
def frame_index(e: Evidence, limit: float) -> Iterator[Finding]:
    """frame_index or index does not count rows one by one.

    Rows were lost, doubled or mixed.
    """
    counters = (e.episode.layout or Layout()).counters
    if "frame_index" in counters:
        wrong = np.flatnonzero(counters["frame_index"] != np.arange(e.rows))
        if len(wrong) > limit:
            yield Finding(f"frame_index does not count the rows, from row {wrong[0]} on", len(wrong), wrong)
    if "index" in counters:
        wrong = np.flatnonzero(np.diff(counters["index"]) != 1) + 1
        if len(wrong) > limit:
            yield Finding(f"index does not count the rows, at row {wrong[0]}", len(wrong), wrong)


@rule("container.episode_index", 0, do="Import another copy, or record it again.")
def episode_index(e: Evidence, limit: float) -> Iterator[Finding]:
    """Rows carry another episode's number, or the metadata's span does not begin where they do.

    LeRobot would give them to the wrong episode.
    """
    layout = e.episode.layout or Layout()
    if "episode_index" in layout.counters:
        wrong = np.flatnonzero(layout.counters["episode_index"] != e.episode.index)
        if len(wrong) > limit:
            other = layout.counters["episode_index"][wrong[0]]
            yield Finding(f"rows of episode {e.episode.index} carry the number {other}", len(wrong), wrong)
    index = layout.counters.get("index", np.zeros(0))
    if layout.from_index is not None and len(index) and index[0] != layout.from_index:
        yield Finding(f"the metadata lets it begin at row {layout.from_index}, its index at {index[0]}")


@rule("container.features", 0, do="Import another copy, or mend meta/info.json.")
def features(e: Evidence, limit: float) -> Iterator[Finding]:
    """info.json declares another width or number of names than the table has.

    LeRobot refuses such a dataset, or builds a policy that does not fit.
    """
    shapes = (e.episode.layout or Layout()).shapes
    columns = {
        "observation.state": (e.episode.state, e.episode.names),
        "action": (e.episode.action, e.episode.action_names),
    }
    for column, (values, names) in columns.items():
        width = values.shape[1]
        if e.rows and column in shapes and abs(shapes[column] - width) > limit:
            yield Finding(f"{column} is declared with {shapes[column]} values, the table has {width}", width)
        elif e.rows and names and abs(len(names) - width) > limit:
            yield Finding(f"{column} has {width} values and {len(names)} names", width)


@rule("container.task_index", 0, do="Import another copy, or mend meta/tasks.parquet.")
def task_index(e: Evidence, limit: float) -> Iterator[Finding]:
    """A row names a task that tasks.parquet does not have.

    LeRobot fails when it loads that row.
    """
    layout = e.episode.layout or Layout()
    named = layout.counters.get("task_index")
    if named is None or not layout.known_tasks:
        return
    wrong = np.flatnonzero(~np.isin(named, sorted(layout.known_tasks)))
    if len(wrong) > limit:
        yield Finding(f"task {named[wrong[0]]} is not listed in meta/tasks.parquet", len(wrong), wrong)


@rule("container.totals", 0, do="Import another copy, or mend meta/info.json.")
def totals(e: Evidence, limit: float) -> Iterator[Finding]:
    """info.json counts other episodes or frames than there are.

    LeRobot's samplers go by these numbers. Of a folder with several episodes nothing says which one is
    concerned: each of them is named.
    """
    for name, (said, true) in (e.episode.layout or Layout()).totals.items():
        if abs(said - true) > limit:
            yield Finding(f"info.json says {name} {said}, there are {true}", said)


@rule("container.video_span", SPAN_FRAMES, do="Import another copy, or record it again.")
def video_span(e: Evidence, limit: float) -> Iterator[Finding]:
    """The metadata gives a video's part another length than the rows have.

    In a file of several episodes it would show a neighbour's pictures. Threshold: frames.
    """
    for name, seconds in (e.episode.layout or Layout()).spans.items():
        off = abs(seconds * e.fps - e.rows)
        if off > limit:
            yield Finding(
                f"the metadata gives camera {name} {seconds:.2f} s, the rows last {e.rows / e.fps:.2f} s", off
            )


@rule("container.stats", 0.15, do="Compute the statistics again with LeRobot's tools.")
def stats(e: Evidence, limit: float) -> Iterator[Finding]:
    """The statistics in the metadata are not those of the data.

    Training normalises by them. They are computed from the very same numbers: any difference beyond rounding
    is noted (`container.stats_off`); this one says that they belong to other data. Threshold: a share of the
    column's travel, at least 5 units.
    """
    worst, column = _stats_off(e)
    if worst > limit:
        yield Finding(f"the statistics of {column} are off by {worst:.0%} of its travel", worst)


@rule("container.stats_off", 0.01, do="Compute the statistics again with LeRobot's tools.", outcome="noted")
def stats_off(e: Evidence, limit: float) -> Iterator[Finding]:
    """The statistics in the metadata differ a little from the data.

    Rounding differs by a millionth.
    """
    worst, column = _stats_off(e)
    if worst > limit:
        yield Finding(f"the statistics of {column} are off by {worst:.1%} of its travel", worst)


def _stats_off(e: Evidence) -> tuple[float, str]:
    """Largest difference of min, max and mean as a share of travel, and the column it is in."""
    found = [(0.0, "")]
    for (column, kind), said in (e.episode.layout or Layout()).stats.items():
        data = (e.episode.state if column.endswith("state") else e.episode.action).astype(np.float64)
        if not len(data) or said.shape != data.shape[1:] or not np.isfinite(data).all():
            continue
        true = (
            data.mean(axis=0) if kind == "mean" else data.min(axis=0) if kind == "min" else data.max(axis=0)
        )
        scale = np.maximum(np.ptp(data, axis=0), 5.0)
        off = float(np.max(np.nan_to_num(np.abs(said - true), nan=1e9) / scale, initial=0.0))
        found.append((off, f"{column} ({kind})"))
    return max(found)
