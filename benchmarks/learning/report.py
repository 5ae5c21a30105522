"""docs/learning/ from results: results.json, courses.json, the tables of its README, the plots.

python -m benchmarks.learning.report                  # what is in learning-run/, beside what is published
python -m benchmarks.learning.report --published      # tables and plots again, from the JSON files alone
"""

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.learning.arms import ARMS, FOUR, HELD_OUT, TIME, TRAINING_SEEDS
from benchmarks.learning.clock import course
from benchmarks.learning.figures import QUESTIONS, TARGET_SUCCESS, Question, answer
from benchmarks.learning.plan import CHECK_IN_S, Asked, Scale
from benchmarks.learning.plots import APART, plot_all
from benchmarks.learning.published import merged, publish, read_published
from benchmarks.learning.results import Result, Results, read_results
from benchmarks.learning.statistics import estimate, percent, table_of, time_to
from shared.files import write_atomic

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs" / "learning"
README = "README.md"
ORDER = [arm.name for arm in ARMS]
CHECK_INS_S = (1.0, CHECK_IN_S, 10.0, 30.0)
"""Between check-ins; 30 s is the product's default."""


def write_docs(results: Results, docs: Path) -> None:
    """Publish `results` beside what is published, and make everything generated in `docs` again."""
    publish(merged(read_published(docs), results), docs)
    _from_published(docs)


def _from_published(docs: Path) -> None:
    results = read_published(docs)
    plot_all(results, ORDER, docs)
    readme, parts = docs / README, tables(results)
    for name in parts:
        if (docs / f"{name}.svg").exists():
            parts[name] = f"![{name}]({name}.svg)\n\n{parts[name]}"
    write_atomic(readme, filled(readme.read_text(), parts))


def tables(results: Results) -> dict[str, str]:
    """Markdown by the name of its markers."""
    return {
        "answers": answers(results),
        "success": success(results),
        "composition": composition(results),
        "time": times(results),
        "check-ins": check_ins(),
        "courses": courses(results),
        "missing": missing(results),
    }


def filled(text: str, parts: dict[str, str]) -> str:
    """`text` with what stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->` replaced.

    Raises:
        ValueError: a pair of markers is missing.
    """
    for name, part in parts.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        before, opened, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not (opened and closed):
            raise ValueError(f"the markers of {name} are missing")
        text = f"{before}{begin}\n{part}\n{end}{after}"
    return text


def answers(results: Results) -> str:
    """Every figure with its target."""
    rows = []
    for question in QUESTIONS:
        given = answer(question, results)
        rows.append(
            [
                question.figure,
                f"{question.arm} against {question.reference}",
                f"{_number(given.value)} {_interval(given.interval)}".rstrip(),
                _interval(given.over_seeds),
                ", ".join(_number(seed) for seed in given.seeds),
                _target(question),
                "yes" if given.met else "no" if given.seeds else "-",
            ]
        )
    head = ["figure", "arms", "value [95 %, over scenes]", "[95 %, over seeds too]", "training seeds"]
    return _table([*head, "target", "met"], rows)


def success(results: Results) -> str:
    """Arms with the four tasks and the unequal stations' demonstrations."""
    rows = []
    for arm in _present(results, lambda name: not name.startswith(APART)):
        of_arm = results[arm]
        each = table_of(of_arm, FOUR).mean(axis=(0, 2))
        rows.append(
            [
                arm,
                of_arm[0].mode,
                str(of_arm[0].steps),
                _success_of(of_arm, FOUR),
                *(f"{100 * rate:.0f}" for rate in each),
                str(sum(len(row) for result in of_arm for row in result.outcomes.values())),
            ]
        )
    head = ["arm", "mode", "steps", "success %, mean [95 %] (training seeds)"]
    return _table([*head, *(asked.verb for asked in FOUR), "rollouts"], rows)


def composition(results: Results) -> str:
    """Pairs of verb and colour that no station showed, beside pairs that some did."""
    rows = []
    for arm in _present(results, lambda name: name.startswith("composition")):
        of_arm = results[arm]
        rows.append([arm, str(of_arm[0].steps), _success_of(of_arm, HELD_OUT), _success_of(of_arm, FOUR)])
    return _table(["arm", "steps", "held-out pairs, %", "seen pairs, %"], rows)


def times(results: Results) -> str:
    """When the target was reached, and what came of it in the end."""
    rows = []
    for arm in _present(results, lambda name: name.startswith("time-")):
        reached = [time_to(result, TARGET_SUCCESS) for result in results[arm]]
        rows.append(
            [
                arm,
                ", ".join("never" if at is None else f"{at / 60:.0f}" for at in reached),
                f"{results[arm][0].seconds / 60:.0f}",
                _success_of(results[arm], FOUR),
                f"{100 * table_of(results[arm], FOUR[-1:]).mean():.0f}",
            ]
        )
    reach = f"minutes to {100 * TARGET_SUCCESS:.0f} % (training seeds)"
    return _table(["arm", reach, "minutes in all", "success in the end, %", FOUR[-1].verb], rows)


def check_ins() -> str:
    """How long the two arms of `both` take for their steps, by the time between check-ins: clock alone."""
    arms = {arm.name: arm for arm in TIME}
    rows = []
    for check_in_s in CHECK_INS_S:
        ours, theirs = (
            course(arms[name], check_in_s).events[-1].at / 60
            for name in ("time-both-async", "time-both-sync")
        )
        rows.append([f"{check_in_s:.0f}", f"{ours:.0f}", f"{theirs:.0f}", f"{ours / theirs:.2f}"])
    return _table(["s between check-ins", "minutes in all, async", "sync", "ratio"], rows)


def missing(results: Results) -> str:
    """Planned runs that have no result."""
    absent = []
    for arm in ORDER:
        seeds = set(TRAINING_SEEDS) - {result.seed for result in results.get(arm, [])}
        if seeds:
            absent.append(f"`{arm}` ({', '.join(map(str, sorted(seeds)))})")
    if not absent:
        return "Every arm was run with every training seed."
    return f"Not run, with these training seeds: {', '.join(absent)}."


def courses(results: Results) -> str:
    """Rounds, staleness, what the stations weighed, and bytes: the same for every training seed, but for
    the bytes."""
    rows = []
    for arm in _present(results, lambda name: bool(results[name][0].staleness)):
        first = results[arm][0]
        total = sum(first.weights.values())
        count = sum(first.staleness.values())
        mean = sum(stale * part for stale, part in first.staleness.items()) / count
        rows.append(
            [
                arm,
                str(first.versions),
                f"{mean:.1f}, {max(first.staleness)}",
                " ".join(f"{name} {100 * part / total:.0f}" for name, part in sorted(first.weights.items())),
                f"{np.mean([result.bytes_sent for result in results[arm]]) / count / 1e3:.0f}",
                ", ".join(sorted({_short(result.commit) for result in results[arm]})),
            ]
        )
    head = ["arm", "versions", "staleness: mean, most", "weight of stations, %", "kB per update", "commit"]
    return _table(head, rows)


def _present(results: Results, wanted: Callable[[str], bool]) -> list[str]:
    return [arm for arm in ORDER if arm in results and wanted(arm)]


def _success_of(results: Sequence[Result], tasks: Sequence[Asked]) -> str:
    found = estimate(percent, table_of(results, tasks))
    assert found is not None
    seeds = ", ".join(f"{seed:.0f}" for seed in found.seeds)
    low, high = found.interval
    return f"{found.value:.0f} [{low:.0f}-{high:.0f}] ({seeds})"


def _interval(ends: tuple[float, float] | None) -> str:
    return f"[{ends[0]:.2f}, {ends[1]:.2f}]" if ends else ""


def _short(commit: str) -> str:
    """With what says that code differed from it."""
    digest, *dirty = commit.split("-", 1)
    return "-".join([digest[:12], *dirty])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _target(question: Question) -> str:
    if question.at_least is not None:
        return f"at least {question.at_least:.2f}"
    return f"at most {question.at_most:.2f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description="Tables and plots of docs/learning.")
    parser.add_argument("--folder", type=Path, default=ROOT / "learning-run", help="a run's folder")
    parser.add_argument("--published", action="store_true", help="from docs/learning/*.json alone")
    options = parser.parse_args(arguments)
    if options.published:
        _from_published(DOCS)
    else:
        write_docs(read_results(options.folder, ARMS, Scale()), DOCS)


if __name__ == "__main__":
    main()
