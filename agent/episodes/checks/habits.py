"""Does the arm work where it always did: poses compared with the history. Certain only where nothing
overlaps."""

from collections.abc import Iterator
from itertools import permutations

import numpy as np

from agent.episodes.checks.evidence import Evidence
from agent.episodes.checks.registry import Finding, rule
from agent.episodes.history import Signature

FEWEST = 2
"""Episodes of history needed."""
REST_SHARE = 0.35
"""Share of what all joints together are outside that may remain in the order that fits."""
FITS = 15.0
"""Units by which a joint may leave the history's range and still fit it."""


@rule("coupling.mirrored", 40.0, do="Look at drive_mode in the calibration; record it again.")
def mirrored(e: Evidence, limit: float) -> Iterator[Finding]:
    """State and action of a joint have both changed sign, compared with the history.

    The joint works far outside the range of all episodes, and inside it once the sign is turned. Threshold:
    units outside.
    """
    known = _known(e)
    if known is None:
        return
    low, high = known
    mine = _range(e)
    for joint in e.joints:
        centre = 100.0 if joint.gripper else 0.0
        here = (mine[0][joint.index], mine[1][joint.index])
        turned = (centre - here[1], centre - here[0])
        span = (low[joint.index], high[joint.index])
        outside = _outside(here, span)
        if outside > limit and _outside(turned, span) < FITS / 2:
            yield Finding(f"{joint.name} is turned: it works {outside:.0f} outside its usual range", outside)


@rule("coupling.reordered", 25.0, do="Bring the joints into LeRobot's order; record it again.")
def reordered(e: Evidence, limit: float) -> Iterator[Finding]:
    """State and action have both exchanged joints, compared with the history.

    Joints work far outside the range of all episodes, and inside it in another order. Threshold: units
    outside, of the worst joint, and twice that of all together.
    """
    known = _known(e)
    count = e.state.shape[1]
    if known is None or count > 7:
        return
    mine = _range(e)
    outside = np.array(
        [
            [_outside((mine[0][i], mine[1][i]), (known[0][j], known[1][j])) for j in range(count)]
            for i in range(count)
        ]
    )
    if float(np.diag(outside).max()) <= limit or float(np.trace(outside)) <= 2 * limit:
        return
    orders = np.array(list(permutations(range(count))))
    totals = outside[np.arange(count), orders]
    best = orders[np.argmin(totals.sum(axis=1))]
    changed = [i for i in range(count) if best[i] != i]
    rest = float(totals.sum(axis=1).min())
    if len(changed) >= 2 and rest < REST_SHARE * float(np.trace(outside)):
        names = ", ".join(e.joints[i].name for i in changed)
        yield Finding(f"{names} have exchanged places", float(np.diag(outside).max()))


@rule("values.pose", 40.0, do="Look at the calibration; nothing, if the task is a new one.", outcome="noted")
def pose(e: Evidence, limit: float) -> Iterator[Finding]:
    """A joint works far outside the range of all episodes of the history.

    A new task may need it. Threshold: units.
    """
    known = _known(e)
    if known is None:
        return
    mine = _range(e)
    for joint in e.joints:
        outside = _outside(
            (mine[0][joint.index], mine[1][joint.index]), (known[0][joint.index], known[1][joint.index])
        )
        if outside > limit:
            yield Finding(f"{joint.name} works {outside:.0f} outside its usual range", outside)


def _known(e: Evidence) -> tuple[np.ndarray, np.ndarray] | None:
    like: list[Signature] = e.history.like(e.state.shape[1]) if e.history else []
    if len(like) < FEWEST or not e.rows:
        return None
    return np.min([s.low for s in like], axis=0), np.max([s.high for s in like], axis=0)


def _range(e: Evidence) -> tuple[np.ndarray, np.ndarray]:
    return np.percentile(e.state, 1, axis=0), np.percentile(e.state, 99, axis=0)


def _outside(mine: tuple[float, float], span: tuple[float, float]) -> float:
    """Units by which `mine` leaves `span`, at its worse end."""
    return max(0.0, span[0] - mine[0], mine[1] - span[1])
