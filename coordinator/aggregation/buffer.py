"""When a round happens: the buffer of updates is flushed when it holds K, or when its oldest has waited T.

Buffered asynchronous aggregation (FedBuff, Nguyen et al., arXiv 2106.06639); T keeps a fleet moving in which
only one workstation is awake. Pure: the clock is handed in.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Waiting:
    """An update in the buffer; `received` is in seconds since the epoch."""

    update_id: str
    node: str
    base_version: int
    received: float


@dataclass(frozen=True)
class Flush:
    """The updates of the next round in the order in which they are added up, and why now."""

    updates: tuple[Waiting, ...]
    reason: str


def due(
    waiting: Sequence[Waiting], now: float, size: int, max_wait_s: float, stations: int = 1
) -> Flush | None:
    """Decide whether to flush.

    The updates come back in the order of their ids, so that a round does not depend on the order of arrival.

    Args:
        waiting: All updates that no version contains yet.
        now: Seconds since the epoch.
        size: K, at least 1.
        max_wait_s: T. A clock that was set back only delays a flush by T again at most, never for ever, since
            K still counts.
        stations: Fewest stations of a round, at least 1. It holds after T too: a robust rule decides nothing
            for fewer, and a poisoned update must not come through by being alone.
    """
    if _stations(waiting) < stations:
        return None
    oldest = now - min(update.received for update in waiting)
    if len(waiting) >= size:
        reason = f"{len(waiting)} updates are in (K = {size})"
    elif oldest >= max_wait_s:
        reason = f"the oldest of {len(waiting)} updates has waited {oldest:.0f} s (T = {max_wait_s:g} s)"
    else:
        return None
    return Flush(tuple(sorted(waiting, key=lambda update: update.update_id)), reason)


def outlook(waiting: Sequence[Waiting], now: float, size: int, max_wait_s: float, stations: int = 1) -> str:
    """What the buffer waits for, as a sentence for people."""
    if not waiting:
        return f"no update is waiting; a round starts when {size} are in or one has waited {max_wait_s:g} s"
    if (present := _stations(waiting)) < stations:
        return f"updates of {present} stations are in; the rule of the rounds needs those of {stations}"
    left = max(0.0, max_wait_s - (now - min(update.received for update in waiting)))
    return f"{len(waiting)} of {size} updates are in; the next round starts in {left:.0f} s at the latest"


def _stations(waiting: Sequence[Waiting]) -> int:
    return len({update.node for update in waiting})
