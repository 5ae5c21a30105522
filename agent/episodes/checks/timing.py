"""Did the recording keep time: stamps against the rate, and real time (the sidecar) against stamps."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from agent.episodes.checks.evidence import Evidence
from agent.episodes.checks.registry import Finding, rule

UNSEEN_UNITS = 12.0
"""Motion in a gap that quarantines: the dataset would call it one frame's step, and the largest step of a
joint in one frame of real teleoperation is 12 units."""
MOSTLY_OLD = 0.75
"""Share of the threshold of age: even a camera of 10 Hz in low light has a median of 110 ms."""
HOPELESS_GAP_S = 1.0
"""Whatever the arm did: the scene went on without the camera."""


@rule("timing.stamps", 1e-3, do="Record it again; imported: stamp it again from frame_index.")
def stamps(e: Evidence, limit: float) -> Iterator[Finding]:
    """Time stamps don't advance by one period: jitter, a gap, another rate, or an episode that begins late.

    LeRobot writes frame / fps in single precision, off by 1e-5 s after ten minutes, and looks for pictures at
    these times with a tolerance of 1e-4 s. Threshold: seconds.
    """
    times = e.episode.timestamps
    period = 1 / e.fps
    if not np.isfinite(times).all():
        bad = np.flatnonzero(~np.isfinite(times))
        yield Finding(f"{len(bad)} time stamps are no numbers", len(bad), bad)
        return
    steps = np.diff(times)
    bad = np.flatnonzero(np.abs(steps - period) > limit)
    if len(bad) and (steps > 0).all():
        worst = float(steps[bad][np.argmax(np.abs(steps[bad] - period))])
        rate = 1 / float(np.median(steps))
        text = f"{len(bad)} time stamps don't follow the rate of {e.fps:g} Hz (they say {rate:.1f} Hz)"
        yield Finding(text, worst, bad + 1)
    elif not len(bad) and len(times) and abs(times[0]) > period / 2:
        yield Finding(f"the first time stamp is {times[0]:.3f} s, not 0", float(times[0]), [0])


@rule("timing.order", 0, do="Record it again; imported: stamp it again from frame_index.")
def order(e: Evidence, limit: float) -> Iterator[Finding]:
    """Time stamps repeat or run backwards.

    Rows were doubled, or written in the wrong order.
    """
    steps = np.diff(e.episode.timestamps)
    bad = np.flatnonzero(steps <= 0)
    if len(bad) > limit:
        yield Finding(f"{len(bad)} time stamps repeat or run backwards", float(steps.min()), bad + 1)


@rule("timing.no_sidecar", None, do="Nothing: imported episodes have none.", outcome="noted")
def no_sidecar(e: Evidence, limit: float) -> Iterator[Finding]:
    """Real timing, camera age and bus errors could not be checked: there is no sidecar.

    Stamps in a dataset are made from frame numbers; only the sidecar has the real time.
    """
    if e.episode.sidecar is None and not e.episode.sidecar_fault:
        yield Finding("no sidecar: real timing and camera age could not be checked")


@rule("timing.sidecar", 0, do="Record it again.")
def sidecar(e: Evidence, limit: float) -> Iterator[Finding]:
    """The sidecar is damaged or has another number of rows than the table.

    Both are written by the same loop in the same tick.
    """
    if e.episode.sidecar_fault:
        yield Finding(f"the sidecar can't be read: {e.episode.sidecar_fault}")
    elif e.episode.sidecar is not None and abs(len(e.episode.sidecar) - e.rows) > limit:
        text = f"the sidecar has {len(e.episode.sidecar)} rows, the table {e.rows}"
        yield Finding(text, len(e.episode.sidecar))


@rule("timing.stalled", 0.25, do="Find out what held the computer up; record it again.")
def stalled(e: Evidence, limit: float) -> Iterator[Finding]:
    """The loop stood still while the arm moved on, by the wall clock.

    A sound loop's worst period is 40 ms. A longer gap harms by what moved unseen in it: 12 units, the largest
    step in one frame of real motion; or it lasts over a second. Threshold: seconds.
    """
    gaps = real_gaps(e)
    moved = np.abs(np.diff(e.state, axis=0)).max(axis=1, initial=0)[: len(gaps)]
    bad = np.flatnonzero(((gaps > limit) & (moved > UNSEEN_UNITS)) | (gaps > HOPELESS_GAP_S))
    if len(bad):
        worst = float(gaps[bad].max())
        text = f"the recording stood still for {worst:.2f} s while the arm moved by {moved[bad].max():.0f}"
        yield Finding(text, worst, bad + 1)


@rule("timing.gap", 0.25, do="Nothing, if it is rare.", outcome="noted")
def gap(e: Evidence, limit: float) -> Iterator[Finding]:
    """The loop stood still for a moment, and so did the arm, nearly.

    See timing.stalled.
    """
    gaps = real_gaps(e)
    bad = np.flatnonzero(gaps > limit)
    if len(bad):
        yield Finding(f"the recording stood still for up to {gaps.max():.2f} s", float(gaps.max()), bad + 1)


@rule("timing.rate", 0.06, do="Lower the rate or the load of the computer; record it again.")
def rate(e: Evidence, limit: float) -> Iterator[Finding]:
    """The loop really ran at another rate than the stamps say, by the wall clock.

    The policy would move faster or slower than was shown. A sound loop is off by 0.1 %, on a busy machine by
    4 %. Threshold: share.
    """
    gaps = real_gaps(e)
    if len(gaps) < 10:
        return
    real = len(gaps) / float(gaps.sum()) if gaps.sum() > 0 else float("inf")
    off = abs(real / e.fps - 1)
    if off > limit:
        yield Finding(f"the loop ran at {real:.1f} Hz, the stamps say {e.fps:g} Hz", off)


@rule("timing.jitter", 0.27, do="Find out what else loads the computer; record it again.")
def jitter(e: Evidence, limit: float) -> Iterator[Finding]:
    """Real periods scatter: rows that the dataset spaces evenly were not.

    Velocities learnt from it are wrong by this share. A sound loop scatters by 1 to 10 % (standard deviation
    of a robust kind, of a period), a virtual one on a loaded machine by 20 %. Threshold: share of a period.
    """
    gaps = real_gaps(e)
    if len(gaps) < 10:
        return
    low, high = np.percentile(gaps, [10, 90])
    scatter = float(high - low) / 2.563 * e.fps
    late = np.flatnonzero(np.abs(gaps - 1 / e.fps) > 0.75 / e.fps)
    share = len(late) / len(gaps)
    if scatter > limit or share > limit / 2:
        text = f"periods scatter by {scatter:.0%}, {share:.0%} of them are off by more than 3/4 of a period"
        yield Finding(text, max(scatter, share), late + 1)


@rule("timing.camera_age", 0.2, do="Look at the camera's cable, rate and exposure; record it again.")
def camera_age(e: Evidence, limit: float) -> Iterator[Finding]:
    """Pictures were old when their row was written, for a tenth of the episode or more.

    A camera of 30 Hz is 10 to 60 ms old, one of 15 Hz up to 100 ms, and training can't know of more.
    Threshold: seconds; three quarters of it count where half of the pictures are as old.
    """
    for name in e.episode.videos:
        ages = _camera(e, name, "age")
        old = np.flatnonzero(ages > limit)
        if len(old) <= 0.1 * len(ages):
            old = np.flatnonzero(ages > MOSTLY_OLD * limit)
            old = old if len(old) > 0.5 * len(ages) else old[:0]
        if len(old):
            text = f"pictures of camera {name} are up to {ages.max():.2f} s old in {len(old)} frames"
            yield Finding(text, float(np.percentile(ages, 95)), old)


@rule("timing.camera_stale", 0.5, do="Look at the camera's cable and hub; record it again.")
def camera_stale(e: Evidence, limit: float) -> Iterator[Finding]:
    """A camera gave no new picture for a time while the arm moved.

    By the publisher's own stamps. Threshold: seconds.
    """
    for name in e.episode.videos:
        stamps = _camera(e, name, "stamp")
        ages = _camera(e, name, "age")
        if len(stamps) != e.rows or len(stamps) < 2:
            continue
        for start, length in _standing(stamps):
            moved = float(np.ptp(e.state[start : start + length], axis=0).max())
            worst = max(length / e.fps, float(ages[start : start + length].max(initial=0)))
            if length / e.fps > limit and moved > UNSEEN_UNITS:
                text = f"camera {name} stood still for {worst:.2f} s while the arm moved by {moved:.0f}"
                yield Finding(text, worst, [start, start + length - 1])
                break


@rule("timing.camera_rate", 0.62, do="Look at the camera's exposure, rate and hub; record it again.")
def camera_rate(e: Evidence, limit: float) -> Iterator[Finding]:
    """A camera gave new pictures for a third of the rows only, by the publisher's own stamps.

    A camera of half the rate repeats 50 %, one of 12 Hz 60 %. Threshold: share of repeated frames.
    """
    for name in e.episode.videos:
        flags = _camera(e, name, "repeat")
        if len(flags) and flags.mean() > limit:
            yield Finding(f"{flags.mean():.0%} of camera {name}'s frames are repeated", float(flags.mean()))


@rule(
    "video.repeats",
    0.05,
    do="Look at the camera's rate; nothing, if it is slower than the loop.",
    outcome="noted",
)
def repeats(e: Evidence, limit: float) -> Iterator[Finding]:
    """The newest picture was an old one, by the publisher's own stamp.

    A camera slower than the loop repeats regularly. Threshold: share of frames.
    """
    for name in e.episode.videos:
        flags = _camera(e, name, "repeat")
        if len(flags) and flags.mean() > limit:
            text = f"{flags.mean():.0%} of camera {name}'s frames are repeated"
            yield Finding(text, float(flags.mean()), np.flatnonzero(flags))


@rule("timing.retries", 0.1, do="Look at the cables of the arm; `armfleet doctor`.", outcome="noted")
def retries(e: Evidence, limit: float) -> Iterator[Finding]:
    """The servo bus had to be asked again, often.

    Each retry delays a reading by some milliseconds. Threshold: share of rows.
    """
    counts = np.array([_number(row.get("retries")) for row in e.episode.sidecar or []])
    share = float((counts > 0).mean()) if len(counts) else 0.0
    if share > limit:
        yield Finding(f"{share:.0%} of the rows needed more than one try", share, np.flatnonzero(counts > 0))


def real_gaps(e: Evidence) -> np.ndarray:
    """Seconds between rows by the wall clock, (T - 1,); empty without a sidecar."""
    wall = np.array([_number(row.get("wall")) for row in (e.episode.sidecar or [])[: e.rows]])
    return np.diff(wall) if len(wall) and np.isfinite(wall).all() else np.zeros(0)


def _camera(e: Evidence, name: str, key: str) -> np.ndarray:
    """(T,) a camera's stamps, ages or repeats; empty where the sidecar has none."""
    rows = [(row.get("cameras") or {}).get(name) or {} for row in e.episode.sidecar or []]
    values = np.array([_number(row.get(key)) for row in rows])
    return np.nan_to_num(values) if len(values) and np.isfinite(values).any() else np.zeros(0)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


def _standing(stamps: np.ndarray) -> list[tuple[int, int]]:
    """(start, rows) of stretches with one and the same stamp."""
    edges = np.concatenate(([0], np.flatnonzero(np.diff(stamps) != 0) + 1, [len(stamps)]))
    return [(int(a), int(b - a)) for a, b in pairwise(edges) if b - a > 1]
