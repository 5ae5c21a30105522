"""Is this an episode at all, and is it a new one."""

import re
from collections.abc import Iterator

import numpy as np

from agent.episodes.checks.evidence import Evidence
from agent.episodes.checks.registry import Finding, rule
from agent.episodes.twins import Twin
from shared.tasks import why_unusable

FILLERS = frozenset(
    # As a text: a list of ninety strings would fill a page.
    """
    my your the a an some new single default dummy sample example placeholder unnamed untitled empty enter
    insert fill describe write type in here goes go task tasks test testing tests todo tbd fixme demo episode
    label instruction description name string text prompt none null nil nan undefined unknown n na foo bar baz
    asdf qwerty abc xyz lorem ipsum something anything nothing stuff do it this that
    """.split()  # noqa: SIM905
)
"""Texts made of nothing but such words, numbers and single letters say nothing of what is to be done."""
DUPLICATE = 0.05
"""Units up to which identity.duplicate speaks."""
SAME_TIMING_S = 0.05
"""Scatter of matching times about a straight line; a copy has under 0.02 s, a person 0.1 s and more."""
CLOSE, CLOSE_TIMING_S = 0.4, 0.1
"""Share of the threshold of paths so near to each other that noise may have blurred the timing, and the
scatter allowed then."""
HABIT_LEAST = 3
"""Episodes of history needed before anything is called unusual."""


@rule("identity.task_empty", None, do="Say what was shown (`armfleet episodes`), or record it again.")
def task_empty(e: Evidence, limit: float) -> Iterator[Finding]:
    """No instruction, so the policy could not tell what was shown."""
    if not e.episode.task.strip():
        yield Finding("the episode has no task")


@rule("identity.task_placeholder", None, do="Say what was shown, or record it again.")
def task_placeholder(e: Evidence, limit: float) -> Iterator[Finding]:
    """The instruction is a placeholder such as "task", "test 1" or "TODO".

    The policy is conditioned on this text. A text in any script with one word that is none of a list of
    fillers passes.
    """
    text = e.episode.task.strip()
    words = re.findall(r"[^\W_]+", text.lower())
    if text and all(_says_nothing(word) for word in words):
        yield Finding(f"the task is a placeholder: {text!r}")


@rule("identity.task_unusable", None, do="Correct it in the dataset, or record it again.")
def task_unusable(e: Evidence, limit: float) -> Iterator[Finding]:
    """The instruction has a line break or another control character, or over 300 characters.

    It is shown on terminals and in journals, where such characters do harm. Punctuation does none.
    """
    if why := why_unusable(e.episode.task):
        yield Finding(why)


@rule("identity.several_tasks", 1, do="Nothing, if it was meant so.", outcome="noted")
def several_tasks(e: Evidence, limit: float) -> Iterator[Finding]:
    """The rows of the episode carry different instructions.

    LeRobot allows it for subtasks; armfleet trains with the first.
    """
    if len(e.episode.tasks) > limit:
        yield Finding(f"the episode carries {len(e.episode.tasks)} different tasks", len(e.episode.tasks))


@rule("identity.too_short", 1.05, do="Record it again.")
def too_short(e: Evidence, limit: float) -> Iterator[Finding]:
    """It lasts under a second.

    A demonstration of anything takes longer: the shortest in simulation takes 1.1 s, a chunk of actions alone
    0.8 s.
    """
    seconds = e.rows / e.fps
    if seconds < limit:
        yield Finding(f"the episode lasts {seconds:.1f} s", seconds)


@rule("identity.duplicate", 0.05, do="Delete one of the two.")
def duplicate(e: Evidence, limit: float) -> Iterator[Finding]:
    """The same demonstration is there already, row for row, or cut out of a longer one.

    Copies weigh twice in training, and on both sides of the split they make the evaluation worthless.
    Compared with the other episodes of the call and with the history. Threshold: units between the paths.
    """
    twin = e.nearest
    if twin is not None and twin.timing_s < SAME_TIMING_S and twin.units <= limit:
        yield Finding(_of(twin), twin.units)


@rule("identity.near_duplicate", 0.75, do="Delete one of the two.")
def near_duplicate(e: Evidence, limit: float) -> Iterator[Finding]:
    """The same demonstration is there already, with noise on it, shifted, trimmed or slowed down.

    Two demonstrations of one task by one person lie 6 units apart, two of a script with other scenes 1.3, and
    nobody repeats the timing of a motion within 50 ms. Threshold: units between the paths of the joints, root
    mean square, time taken out.
    """
    twin = e.nearest
    if twin is not None and _same_timing(twin, limit) and DUPLICATE < twin.units <= limit:
        yield Finding(_of(twin), twin.units)


@rule("identity.similar", 0.75, do="Nothing, if both were really shown.", outcome="noted")
def similar(e: Evidence, limit: float) -> Iterator[Finding]:
    """Another demonstration has nearly the same path, but not the same timing.

    A careful person may do that. Threshold: as identity.near_duplicate.
    """
    twin = e.nearest
    if twin is not None and not _same_timing(twin, limit) and twin.units <= limit:
        yield Finding(_of(twin), twin.units)


@rule("identity.habit", 3.0, do="Look at it; nothing is wrong if it was meant so.", outcome="noted")
def habit(e: Evidence, limit: float) -> Iterator[Finding]:
    """Much longer, shorter, faster or slower than what this workstation records.

    Operators differ, so it is only said. Threshold: a factor of the history's median.
    """
    like = e.history.like(e.state.shape[1]) if e.history else []
    mine = e.signature
    if len(like) < HABIT_LEAST or mine is None:
        return
    measures = {"length": (lambda s: s.rows / s.fps, "s"), "speed": (lambda s: s.speed, "units/s")}
    for name, (measure, what) in measures.items():
        usual = float(np.median([measure(s) for s in like]))
        value = measure(mine)
        if min(usual, value) > 0 and max(usual / value, value / usual) > limit:
            yield Finding(f"its {name} is {value:.1f} {what}, usual are {usual:.1f}", value)


def _says_nothing(word: str) -> bool:
    stem = word.rstrip("0123456789")
    return not stem or stem in FILLERS or (stem.isascii() and len(set(stem)) == 1)


def _same_timing(twin: Twin, limit: float) -> bool:
    return twin.timing_s < (CLOSE_TIMING_S if twin.units < CLOSE * limit else SAME_TIMING_S)


def _of(twin: Twin) -> str:
    return f"it is {twin.units:.2f} units from episode {twin.other.index} of {twin.other.path}"
