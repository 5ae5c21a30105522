"""Did the arm move, and did it move as an arm can.

Real teleoperation (SO-101, 30 Hz) is smooth: the largest step of a joint in one frame is 12 units, but no
step exceeds its neighbours by more than 2.5, and no frame leaves the median of the five about it by more than
0.9. 20 to 60 % of frames repeat the state before exactly, and episodes begin with up to 4.6 s of standing
still. None of that is a defect.
"""

from collections.abc import Iterator

import numpy as np

from agent.episodes.checks.evidence import STILL, Evidence, still_frames
from agent.episodes.checks.registry import Finding, rule
from agent.episodes.checks.timing import real_gaps
from agent.episodes.following import longest_run, runs

TURN = 1.2
"""Units by which a joint must come back for a turn: fourteen encoder counts."""
SHAKEN_S = 1.5
REFERENCE_HZ = 30.0
"""Rate at which the thresholds of steps were measured."""
ACTION_SHARE = 2.0
"""A hand on the leader is quicker than a servo: its steps may be so many times larger."""
SNAP_SHARE = 3.0
"""A finger snaps the leader's jaws from rest in a frame or two: 10 to 17 units, against 2 in calm use."""
STUTTER, COARSE = 0.5, 3.0
"""Units a frame before and after a repeat from which on it is none, and times the smallest steps of the arm:
in real motion it never repeats its state between two frames in which it moves by half a unit, and a coarse
encoder repeats between two of its own steps."""
STUTTER_S = 0.3
"""Longer repeats are another check's business (`motion.state_frozen`)."""


@rule("motion.none", 6.0, do="Delete it.")
def none(e: Evidence, limit: float) -> Iterator[Finding]:
    """The arm does not move, so nothing was shown.

    Hands at rest and encoder noise stay under a unit; six units move the hand 3 cm, real tasks take 60 and
    more of some joint, opening and closing the jaws 20. Threshold: units of the joint that travels most.
    """
    travel = float(np.ptp(e.state, axis=0).max(initial=0)) if e.rows else 0.0
    if travel < limit:
        yield Finding(f"no joint moves by more than {travel:.1f}", travel)


@rule("motion.jump", 30.0, do="Look at the bus and the servo of that joint; record it again.")
def jump(e: Evidence, limit: float) -> Iterator[Finding]:
    """A step between two rows that no arm and no hand can make.

    An STS3215 without load turns at most 360 degrees/s at 12 V, 12 in a frame of 1/30 s; real motion has 12
    as well. Threshold: units in 1/30 s, for actions twice that.
    """
    scale = REFERENCE_HZ / e.fps
    for name, array, share in (("state", e.state, 1.0), ("action", e.action, ACTION_SHARE)):
        steps = np.abs(np.diff(array, axis=0))
        bad = np.flatnonzero((steps > limit * scale * share).any(axis=1))
        if len(bad):
            joint = int(np.argmax(steps.max(axis=0)))
            yield Finding(
                f"{name} of {_label(e, joint)} jumps by {steps.max():.0f} in a frame", steps.max(), bad + 1
            )


@rule("motion.spike", 4.0, do="Look at the bus and the servo of that joint; record it again.")
def spike(e: Evidence, limit: float) -> Iterator[Finding]:
    """One or two rows leave the path and come back: a damaged reading.

    Real motion stays within 0.9 units of the median of the five frames about it; an arm of that mass can't
    do otherwise. Threshold: units, at 30 Hz and more; slower recordings may curve more between rows.
    """
    scale = max(1.0, REFERENCE_HZ / e.fps) ** 2
    for name, array in (("state", e.state), ("action", e.action)):
        if len(array) < 5:
            continue
        away = _away(array, 5)
        if name == "action":
            away = away / _snaps(e)
        bad = np.flatnonzero((away > limit * scale).any(axis=1))
        if len(bad):
            joint = int(np.argmax(away.max(axis=0)))
            text = f"{name} of {_label(e, joint)} leaves its path by {away.max():.1f} for a frame or two"
            yield Finding(text, away.max(), bad)


@rule("motion.teleport", 12.0, do="Look at the bus and the power of the arm; record it again.")
def teleport(e: Evidence, limit: float) -> Iterator[Finding]:
    """A single step that exceeds those before and after it by more than inertia allows: rows are missing.

    The largest such excess in real motion is 2.5 units, in simulation 3, played at twice the pace 8.6, and
    9.2 where a simulator was short of processor time. A row that came late is forgiven where the sidecar says
    so. The leader's jaws may be snapped: three times that. Threshold: units, at 30 Hz and more.
    """
    scale = max(1.0, REFERENCE_HZ / e.fps) ** 2
    for name, array in (("state", e.state), ("action", e.action)):
        excess = _excess(array, e)
        if name == "action":
            excess = excess / _snaps(e)
        bad = np.flatnonzero((excess > limit * scale).any(axis=1))
        if len(bad):
            joint = int(np.argmax(excess.max(axis=0)))
            text = f"{name} of {_label(e, joint)} jumps by {excess.max():.1f} more than before and after"
            yield Finding(text, excess.max(), bad + 2)


@rule("motion.jerk", 4, do="Look at the cables of the arm (`armfleet doctor`); record it again.")
def jerk(e: Evidence, limit: float) -> Iterator[Finding]:
    """The state stops for frames in the midst of motion and then catches up at once, again and again.

    That is what retries on a servo bus leave. In real motion a standing joint starts gently: no catch-up of
    more than 2.5 units; and never do all joints repeat between two frames in which one moves. Threshold:
    catching up, or such repeats, times.
    """
    scale = max(1.0, REFERENCE_HZ / e.fps) ** 2
    excess = _excess(e.state, e)
    same = np.abs(np.diff(e.state, axis=0)[:-2]) < 1e-6
    events = np.flatnonzero(((excess > 3.0 * scale) & same).any(axis=1))
    if len(events) < limit:
        events = _stutters(e) - 2
    if len(events) >= limit:
        yield Finding(f"the state stops and catches up {len(events)} times", len(events), events + 2)


@rule("motion.shaking", 8.0, do="Tighten the horn, look at gains and power of that joint; record it again.")
def shaking(e: Evidence, limit: float) -> Iterator[Finding]:
    """A joint trembles about its path, faster than a hand can.

    A careful operator turns back 4 times a second, a loose horn or a servo that hunts 10 times and more.
    Threshold: turns per second, over 1.5 s, each by 1.2 units at least.
    """
    for joint in e.joints:
        turns = _turns(e.state[:, joint.index], TURN)
        window = round(SHAKEN_S * e.fps)
        if len(turns) < 2:
            continue
        most = max(int(np.searchsorted(turns, turn + window)) - i for i, turn in enumerate(turns))
        if most / SHAKEN_S > limit:
            text = f"{joint.name} turns back {most / SHAKEN_S:.0f} times a second"
            yield Finding(text, most / SHAKEN_S, turns)


@rule("motion.state_frozen", 4.0, do="Look at the servo bus; record it again.")
def state_frozen(e: Evidence, limit: float) -> Iterator[Finding]:
    """All joints repeat exactly for a third of a second and more while the action goes on: a dead stream.

    In real motion the action travels 1.3 units during such a pause; the gripper's does not count, since it
    may close on something. Threshold: units of action, for a pause of 0.35 s in which the action does not
    stand still as well; the lag is taken out.
    """
    lag = e.following.frames if e.following else round(0.13 * e.fps)
    found = _asleep(e, lag, round(0.35 * e.fps))
    if found and found[2] > limit:
        start, length, travel = found
        text = f"the state stands still for {length / e.fps:.1f} s, the action moves by {travel:.0f}"
        yield Finding(text, travel, range(start, start + length))


@rule("motion.action_frozen", 8.0, do="Look at the leader's bus; record it again.")
def action_frozen(e: Evidence, limit: float) -> Iterator[Finding]:
    """The action repeats exactly while the state goes on and away from it: a dead leader.

    A follower that still comes to a goal at rest is no defect: at the start of a session it may have 30 units
    to go. Threshold: units by which the state departs from the action in the pause.
    """
    if e.state.shape != e.action.shape:
        return
    least = round(0.5 * e.fps)
    same = (np.abs(np.diff(e.action, axis=0)) < 1e-6).all(axis=1)
    for start, length in runs(same):
        if length < least:
            continue
        away = np.abs(e.state - e.action)[start + least // 2 : start + length + 1]
        parting = float((away[-1] - away.min(axis=0)).max(initial=0)) if len(away) else 0.0
        if parting > limit:
            text = f"the action stands still for {length / e.fps:.1f} s, the state leaves it by {parting:.0f}"
            yield Finding(text, parting, range(start, start + length))


@rule("motion.lead_in", 1.0, do="Nothing: training trims it.", outcome="noted")
def lead_in(e: Evidence, limit: float) -> Iterator[Finding]:
    """The episode begins with standing still.

    Half of real episodes do, for up to 4.6 s. Threshold: seconds.
    """
    seconds = still_frames(e.state) / e.fps
    if seconds > limit:
        yield Finding(f"the first {seconds:.1f} s stand still", seconds, [0, round(seconds * e.fps)])


@rule("motion.tail", 1.5, do="Nothing: training trims it.", outcome="noted")
def tail(e: Evidence, limit: float) -> Iterator[Finding]:
    """The episode ends with standing still.

    The operator has to reach for the key: real episodes end with up to 1.5 s of it. Threshold: seconds.
    """
    seconds = still_frames(e.state, backwards=True) / e.fps
    if seconds > limit and seconds < e.rows / e.fps:
        yield Finding(
            f"the last {seconds:.1f} s stand still", seconds, [e.rows - round(seconds * e.fps), e.rows - 1]
        )


@rule("motion.pause", 3.0, do="Nothing, if the operator paused; else record it again.", outcome="noted")
def pause(e: Evidence, limit: float) -> Iterator[Finding]:
    """The arm stands still for long in the middle.

    People hesitate; a policy that learns it may stop there. Threshold: seconds.
    """
    first, last = still_frames(e.state), e.rows - still_frames(e.state, backwards=True)
    middle = e.state[first:last]
    if len(middle) < 3:
        return
    step = max(1, round(e.fps / 3))
    still = np.abs(middle[step:] - middle[:-step]).max(axis=1) < STILL
    start, length = longest_run(still)
    if length / e.fps > limit:
        text = f"the arm stands still for {length / e.fps:.1f} s in the middle"
        yield Finding(text, length / e.fps, [first + start, first + start + length])


def _asleep(e: Evidence, lag: int, least: int) -> tuple[int, int, float] | None:
    """The stretch in which the state stands in all columns, not for want of goals, that has most of them:
    (start, rows, travel of the action, `lag` rows before)."""
    if e.state.shape != e.action.shape or e.rows < least + 2:
        return None
    same = (np.abs(np.diff(e.state, axis=0)) <= 1e-6).all(axis=1) & ~e.idle[1:]
    arm = e.action[:, [joint.index for joint in e.joints if not joint.gripper]]
    found = []
    for start, length in runs(same):
        part = arm[max(0, start - lag) : max(0, start - lag) + length + 1]
        if length >= least:
            found.append((start, length + 1, float(np.ptp(part, axis=0).max(initial=0))))
    return max(found, key=lambda stretch: stretch[2], default=None)


def _stutters(e: Evidence) -> np.ndarray:
    """Rows at which all joints begin to repeat exactly in the midst of motion, for a moment."""
    steps = np.abs(np.diff(e.state, axis=0)).max(axis=1, initial=0)
    if not (steps > 1e-6).any():
        return np.zeros(0, np.int64)
    finest = float(np.percentile(steps[steps > 1e-6], 10))
    moving = max(min(1.0, REFERENCE_HZ / e.fps) * STUTTER, COARSE * finest)
    found = [
        start + 1
        for start, length in runs(steps < 1e-6)
        if start > 0
        and start + length < len(steps)
        and length <= STUTTER_S * e.fps
        and min(steps[start - 1], steps[start + length]) > moving
    ]
    return np.array(found, dtype=np.int64)


def _turns(column: np.ndarray, least: float) -> np.ndarray:
    """Frames of the turning points between which the column goes at least `least` one way."""
    turns, low, high, rising = [], 0, 0, 0
    for i, value in enumerate(column.tolist()):
        if value > column[high]:
            high = i
        if value < column[low]:
            low = i
        if rising >= 0 and column[high] - value >= least:
            turns.append(high)
            rising, low = -1, i
        elif rising <= 0 and value - column[low] >= least:
            turns.append(low)
            rising, high = 1, i
    return np.array(turns, dtype=np.int64)


def _away(array: np.ndarray, width: int) -> np.ndarray:
    """(T, joints) distance from the median of the `width` frames about each; 0 at the ends."""
    half = width // 2
    windows = np.stack([array[k : len(array) - width + 1 + k] for k in range(width)])
    away = np.zeros_like(array)
    away[half:-half] = np.abs(array[half:-half] - np.median(windows, axis=0))
    return away


def _snaps(e: Evidence) -> np.ndarray:
    """(columns of action,) SNAP_SHARE for the leader's jaws, else 1."""
    jaws = {joint.index for joint in e.joints if joint.gripper}
    return np.array([SNAP_SHARE if column in jaws else 1.0 for column in range(e.action.shape[1])])


def _excess(array: np.ndarray, e: Evidence) -> np.ndarray:
    """(T - 3, joints) by which each inner step exceeds the larger of its neighbours.

    Where the sidecar knows that a row came late, its step is that of one period: late rows are another
    check's business (`timing.stalled`).
    """
    steps = np.abs(np.diff(array, axis=0))
    gaps = real_gaps(e)
    if len(gaps) == len(steps):
        steps = steps / np.maximum(1.0, gaps * e.fps)[:, None]
    if len(steps) < 3:
        return np.zeros((0, array.shape[1]))
    return steps[1:-1] - np.maximum(steps[:-2], steps[2:])


def _label(e: Evidence, joint: int) -> str:
    return e.joints[joint].name if joint < len(e.joints) else f"column {joint + 1}"
