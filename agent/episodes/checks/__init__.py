"""The gate's checks: pure functions on plain arrays, one module for each kind of defect.

`registry.RULES` is the list of all of them; docs/gate.md is the same list for people. Ids are fixed: records
keep them.
"""

from agent.episodes.checks import (
    cameras,
    container,
    coupling,
    habits,
    identity,
    motion,
    stalls,
    timing,
    values,
    video,
    witness,
)

__all__ = [
    "cameras",
    "container",
    "coupling",
    "habits",
    "identity",
    "motion",
    "stalls",
    "timing",
    "values",
    "video",
    "witness",
]
