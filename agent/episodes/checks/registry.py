"""The fixed list of checks: each is a function with an id, a threshold and advice; its docstring says why.

    @rule("values.not_finite", 0, do="record it again")
    def not_finite(e: Evidence, limit: float) -> Iterator[Finding]: ...

Ids are fixed: records keep them. docs/gate.md is the same list for people; a test keeps both in step.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from agent.episodes.record import Reason

if TYPE_CHECKING:
    from agent.episodes.checks.evidence import Evidence

SHOWN = 8
"""Frames listed with a finding, at most."""

Outcome = Literal["quarantined", "noted", "undecidable"]
Check = Callable[["Evidence", float], Iterable["Finding"]]


@dataclass(frozen=True)
class Finding:
    """What a check saw: the value it measured, a sentence, the frames concerned."""

    message: str
    value: float | None = None
    frames: object = ()


@dataclass(frozen=True)
class Rule:
    """One check.

    Attributes:
        threshold: Default; None where there is nothing to compare with.
        what, why: First sentence and rest of the check's docstring.
        do: What a person does about it.
        outcome: What a finding makes of the episode.
        check: The function; None for what reading finds out.
    """

    id: str
    threshold: float | None
    what: str
    why: str
    do: str
    outcome: Outcome
    check: Check | None = None

    def reasons(self, evidence: "Evidence", limits: Mapping[str, float]) -> list[Reason]:
        """Run it, with the threshold of `limits` where that has one for it."""
        limit = limits.get(self.id, self.threshold)
        found = self.check(evidence, 0.0 if limit is None else limit) if self.check else ()
        return [self.reason(finding, limit) for finding in found]

    def reason(self, finding: Finding, limit: float | None = None) -> Reason:
        """The finding as it is kept and printed."""
        frames = [int(i) for i in np.asarray(finding.frames, dtype=np.int64).ravel()]
        if len(frames) > SHOWN:
            frames = [frames[i] for i in np.linspace(0, len(frames) - 1, SHOWN).round().astype(int)]
        value = None if finding.value is None else round(float(finding.value), 4)
        return Reason(check=self.id, value=value, threshold=limit, frames=frames, message=finding.message)


RULES: dict[str, Rule] = {}
"""All checks by id, in the order in which they run."""


def rule(
    name: str, threshold: float | None, *, do: str, outcome: Outcome = "quarantined"
) -> Callable[[Check], Check]:
    """Register a check under its id."""

    def register(check: Check) -> Check:
        what, _, why = inspect.cleandoc(check.__doc__ or "").partition("\n\n")
        _add(Rule(name, threshold, " ".join(what.split()), " ".join(why.split()), do, outcome, check))
        return check

    return register


def found_by_reading(name: str, what: str, why: str, *, do: str, outcome: Outcome = "quarantined") -> None:
    """Register an id that `agent.episodes.dataset` reports by itself."""
    _add(Rule(name, None, what, why, do, outcome))


def _add(new: Rule) -> None:
    if new.id in RULES:
        raise ValueError(f"two checks are called {new.id}")
    RULES[new.id] = new
