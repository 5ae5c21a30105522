"""The experiment's answers: each a figure with its target, or null where its arms were not run."""

from dataclasses import dataclass, replace
from typing import Any

from benchmarks.learning.arms import CHOSEN_WITH, FOUR, HELD_OUT, TRAINING_SEEDS
from benchmarks.learning.plan import Asked
from benchmarks.learning.results import Result, Results
from benchmarks.learning.statistics import Statistic, estimate, points_lost, ratio, table_of, time_to

TARGET_SUCCESS = 0.7
"""What the time to target is measured to: mean success over the four tasks, fixed before any result."""
SCENES_NEEDED = 100
"""Per task; with fewer, or with fewer training seeds than planned, figures are shown and no target is met."""


@dataclass(frozen=True)
class Question:
    """An arm against another: their success, or with `statistic` None their time to TARGET_SUCCESS.

    at_least, at_most: The target; one of them is given.
    """

    figure: str
    arm: str
    reference: str
    statistic: Statistic | None
    tasks: tuple[Asked, ...] = FOUR
    at_least: float | None = None
    at_most: float | None = None

    def allows(self, value: float) -> bool:
        """Whether a value meets the target."""
        low, high = self.at_least, self.at_most
        return (low is None or value >= low) and (high is None or value <= high)


QUESTIONS = (
    Question("async_over_centralised", "async", "centralised", ratio, at_least=0.95),
    Question("codec_cost_points", "async-int4", "async-no-codec", points_lost, at_most=2.0),
    Question("robust_over_clean", "async-poisoned-norm-limit", "async", ratio, at_least=0.9),
    Question(
        "composition_ratio", "composition-async", "composition-centralised", ratio, HELD_OUT, at_least=0.85
    ),
    Question("async_time_ratio", "time-both-async", "time-both-sync", None, at_most=1 / 3),
)


@dataclass(frozen=True)
class Answer:
    """To a question.

    value: None where its arms were not run, or where there is no ratio: a reference of 0, a training seed
        that did not reach the target success.
    interval: 95 %, over scenes within these training seeds; a time has none.
    over_seeds: 95 %, over training seeds and scenes; a time has none.
    seeds: A value per training seed that both arms were run with, but for those that settings were chosen
        with.
    training_seeds: Which these are.
    """

    value: float | None = None
    interval: tuple[float, float] | None = None
    over_seeds: tuple[float, float] | None = None
    seeds: tuple[float | None, ...] = ()
    training_seeds: tuple[int, ...] = ()
    met: bool = False


def answer(question: Question, results: Results) -> Answer:
    """What the results say."""
    ours, theirs = _same_seeds(results.get(question.arm, []), results.get(question.reference, []))
    if not ours:
        return Answer()
    given = _in_time(ours, theirs) if question.statistic is None else _in_success(question, ours, theirs)
    enough = len(ours) >= len(TRAINING_SEEDS)
    if question.statistic is not None:
        enough = enough and min(map(len, ours[0].outcomes.values())) >= SCENES_NEEDED
    met = enough and given.value is not None and question.allows(given.value)
    return replace(given, met=met, training_seeds=tuple(result.seed for result in ours))


def figures(results: Results) -> tuple[bool, dict[str, Any]]:
    """Whether every target is met, and of each question value, intervals and what each training seed gave."""
    ok, found = True, dict[str, Any]()
    for question in QUESTIONS:
        given = answer(question, results)
        ok = ok and given.met
        found[question.figure] = _rounded(given.value)
        if question.statistic is not None:
            found[f"{question.figure}_interval"] = [_rounded(end) for end in given.interval or ()] or None
            found[f"{question.figure}_over_seeds"] = [_rounded(end) for end in given.over_seeds or ()] or None
        found[f"{question.figure}_training_seeds"] = list(given.training_seeds) or None
        found[f"{question.figure}_seeds"] = [_rounded(each) for each in given.seeds] or None
    return ok, found


def _in_success(question: Question, ours: list[Result], theirs: list[Result]) -> Answer:
    assert question.statistic is not None
    found = estimate(question.statistic, *(table_of(arm, question.tasks) for arm in (ours, theirs)))
    if found is None:
        return Answer()
    return Answer(found.value, found.interval, found.over_seeds, tuple(found.seeds))


def _in_time(ours: list[Result], theirs: list[Result]) -> Answer:
    """The ratio of the mean times to target, and of each training seed's."""
    pairs = [
        (time_to(a, TARGET_SUCCESS), time_to(b, TARGET_SUCCESS)) for a, b in zip(ours, theirs, strict=True)
    ]
    reached = [(a, b) for a, b in pairs if a is not None and b is not None]
    seeds = tuple(None if a is None or b is None else a / b for a, b in pairs)
    if len(reached) < len(pairs):
        return Answer(seeds=seeds)
    value = sum(a for a, _ in reached) / sum(b for _, b in reached)
    return Answer(value, seeds=seeds)


def _same_seeds(ours: list[Result], theirs: list[Result]) -> tuple[list[Result], list[Result]]:
    """The results for training seeds that both arms have and nothing was chosen with."""
    both = {result.seed for result in ours} & {result.seed for result in theirs} - set(CHOSEN_WITH)
    return [each for each in ours if each.seed in both], [each for each in theirs if each.seed in both]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
