"""When to tick, so that every tick finds a new frame of each camera: as far as can be from their arrivals.

A tick that falls together with an arrival finds the old frame or the new one, as jitter will have it, and an
episode has repeated and missing frames. Cameras have clocks of their own: one that sends 29.97 frames a
second to a loop of 30 passes through the loop's whole period in half a minute. So the deadlines follow.
"""

from collections.abc import Iterable, Sequence

SAME_RATE = 0.02
"""Relative difference up to which a camera's rate counts as the loop's; the others have no phase to keep."""
JITTER_S = 0.02
"""How late a single frame may come: it tilts the rate of the few frames that are there at first."""
MIN_ARRIVALS = 4


def quietest(cameras: Iterable[Sequence[float]], period: float) -> float | None:
    """A time in the middle of the longest stretch without arrivals; times that differ by periods are equal.

    Args:
        cameras: Of each camera the times at which its last frames came, s, oldest first.
        period: Of the loop, s.

    Returns:
        A time in 0..`period`, or None where no camera has the loop's rate.
    """
    phases = sorted(_phase(times, period) for times in cameras if _same_rate(times, period))
    if not phases:
        return None
    after = [*phases[1:], phases[0] + period]
    gap, begin = max((end - begin, begin) for begin, end in zip(phases, after, strict=True))
    return (begin + gap / 2) % period


def _same_rate(times: Sequence[float], period: float) -> bool:
    if len(times) < MIN_ARRIVALS:
        return False
    mean = (times[-1] - times[0]) / (len(times) - 1)
    return abs(mean / period - 1) <= SAME_RATE + JITTER_S / (times[-1] - times[0])


def _phase(times: Sequence[float], period: float) -> float:
    """The median: a frame that waited for the processor arrives late, none arrives early."""
    newest = times[-1]
    offsets = sorted((time - newest + period / 2) % period for time in times)
    return (newest + offsets[len(offsets) // 2] - period / 2) % period
