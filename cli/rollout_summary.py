"""How a series of rollouts ended: successes with intervals, what the pairs say, and what they can't tell."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from agent.evaluation.pairs import Result, decision, pairs_of
from agent.sessions.series_messages import SeriesTold
from cli.recording_summary import ENDED_EARLY
from shared.comparison import ERROR, upper_bound
from shared.metrics import wilson


def exit_code(series: SeriesTold) -> int:
    """0 when all that was wanted is labelled, or the comparison is decided."""
    return 0 if complete(series) else ENDED_EARLY


def complete(series: SeriesTold) -> bool:
    """Nothing is missing."""
    return len(series.results) >= series.wanted or _decided(series)


def counts(series: SeriesTold) -> dict[str, tuple[int, int]]:
    """(successes, rollouts) of each version."""
    of_each = {name: [r.success for r in series.results if r.version == name] for name in series.versions}
    return {name: (sum(labels), len(labels)) for name, labels in of_each.items()}


def words(series: SeriesTold) -> list[str]:
    """What the labels say, and last what they can't tell."""
    if not series.paired:
        return [
            "What this can't tell: how it does in other scenes, on other tables and days, or beside another "
            "version (that: armfleet evaluate --against previous)."
        ]
    one, other = series.versions
    pairs = pairs_of(series.task, _results(series))
    leads = [pair.lead for pair in pairs]
    state = decision(series.task, _results(series)).state
    said = {
        "better": f"{one} is better than {other}",
        "not_shown": f"It was not shown that {one} is better than {other}",
        "undecided": f"Not decided: {one} may be better than {other} or not; more pairs may tell",
    }[state]
    low, high = -upper_bound([-lead for lead in leads]), upper_bound(leads)
    return [
        f"{said}: of {len(pairs)} pairs only {one} succeeded in {leads.count(1)}, only {other} in "
        f"{leads.count(-1)}.",
        f'"Better" is said wrongly in at most {ERROR:.0%} of such comparisons, however often one looks.',
        f"What this can't tell: how large the difference is. The success of {one} minus that of {other} may "
        f"be anything from {low:+.0%} to {high:+.0%} (each bound holds with {1 - ERROR:.0%}), for this task "
        "and scenes like these.",
    ]


def show(console: Console, series: SeriesTold) -> None:
    """Print the table and what it means."""
    console.print(Text(f"\n{series.task}", "bold"))
    table = Table(header_style="bold")
    for title in ("version", "successes", "rate", "95 % (Wilson)"):
        table.add_column(title, justify="left" if title == "version" else "right")
    for name, (won, tried) in counts(series).items():
        low, high = wilson(won, tried)
        rate = f"{won / tried:.0%}" if tried else "-"
        table.add_row(name, f"{won} of {tried}", rate, f"{low:.0%} to {high:.0%}")
    console.print(table)
    for sentence in words(series):
        console.print(sentence, markup=False, highlight=False)
    if series.discarded or series.lost:
        console.print(f"Done again: {series.discarded}. Lost: {series.lost}.")
    if series.episodes:
        console.print(Text(f"Recorded by taking over: {', '.join(series.episodes)}"))
    if not complete(series):
        console.print(f"Ended early: {len(series.results)} of {series.wanted} rollouts are labelled.")
    console.print("Each with figures and video: armfleet rollouts list")
    if series.notice:
        console.print(Text(series.notice, "yellow"))


def as_json(series: SeriesTold) -> dict[str, Any]:
    """The same for a program."""
    versions = [
        {"version": name, "successes": won, "rollouts": tried, "wilson": list(wilson(won, tried))}
        for name, (won, tried) in counts(series).items()
    ]
    state = decision(series.task, _results(series)).state if series.paired else None
    return {
        "task": series.task,
        "series": series.id,
        "complete": complete(series),
        "versions": versions,
        "comparison": state,
        "said": words(series),
        "results": [result.model_dump(mode="json") for result in series.results],
        "discarded": series.discarded,
        "lost": series.lost,
        "episodes": list(series.episodes),
        "seed": series.seed,
        "notice": series.notice,
    }


def _decided(series: SeriesTold) -> bool:
    return series.paired and decision(series.task, _results(series)).state != "undecided"


def _results(series: SeriesTold) -> list[Result]:
    """Of a series that is over: what ran is told."""
    return [
        Result(result.rollout, series.versions.index(result.version), result.success)
        for result in series.results
        if result.version is not None
    ]
