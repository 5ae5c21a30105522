"""Do the pictures show what the joints did: moving when they move, and at that time."""

from collections.abc import Iterator

import numpy as np

from agent.episodes.checks.evidence import Evidence
from agent.episodes.checks.registry import Finding, rule
from agent.episodes.following import longest_run, runs
from agent.episodes.sight import Fit, Sight, still_runs

STILL_LEVELS = 3.0
"""Largest change of any thumbnail pixel over two frames, grey levels: encoders reproduce a repeated picture
to within 3; so does a plain table under little noise."""
UNSEEN = 4.0
"""Units of travel of an arm's joint in a still picture: 4 degrees move the gripper 2 cm."""
UNSEEN_NOISELESS = 12.0
"""The same for a camera without noise, whose picture of a plain table does not change when all is well: wrist
cameras lifted off a table saw nothing of 6 units."""
QUIET_SHARE = 0.6
"""Of the change from picture to picture at rest: a repeated picture has no sensor noise. Frozen stretches
have under 0.55 of it, encoded again and again; a plain table under the moving camera 0.8 to 1.2."""
LEAST_NOISE = 0.1
"""Grey levels of change at rest under which a camera has no noise to miss: it is virtual, or strongly
compressed (0.00 to 0.03; else 0.2 to 0.8)."""
USUAL, INTRUSION = 95, 2.0
"""Percentile of the changes from frame to frame, and times that: a picture freezes at what it showed last,
but an even hand before the lens comes with a leap."""
LEAST_REST = 10
"""Frames at rest needed."""
EXACT_SHARE = 0.5
"""Of the frames of a still stretch that must repeat exactly where noise can't tell: real ones have 0.64 to 1
once the encoder has settled."""
UNSEEN_JOINT = "wrist_roll"
"""A camera need not see it moving, nor the gripper."""
BLIND = 8.0
"""Grey levels: a camera that shows less than this when the arm moves as fast elsewhere does not see it."""
NEW_SHARE = 0.35
"""Of the largest change in the half second about it: a smaller one is no new picture in brisk motion."""
LEAST_NEW = 0.05
"""The same of the second before and after: the encoder still refines a picture that is repeated."""
GOOD_FIT, GOOD_GAIN = 0.4, 0.15
"""Share of the pictures' change that joint speeds must explain at the shift, and how much more than without.
Sound cameras reach 0.45 to 0.95 without a shift; a hand that crosses the picture reaches 0.3 anywhere."""
LATER_FIT, LATER_GAIN = 0.6, 0.4
"""The same for a part of an episode: fewer frames fit by chance more easily."""
HALF_GAIN = 0.03
"""By how much more a half must explain at the whole's shift than without: halves of sound motion fit
elsewhere by chance, but then as well at home."""
AGREED_S = 0.1
"""Seconds by which two cameras may differ that say the same."""
ROOM_S = 1.5
"""Seconds of rest before and after the motion that are looked at: pictures may come late or early."""


@rule("video.frozen", 0.4, do="Look at the camera's cable and hub; record it again.")
def frozen(e: Evidence, limit: float) -> Iterator[Finding]:
    """A camera shows a still picture while the arm moves.

    Told by the sensor's noise, which is gone as well: a plain table under a moving wrist camera is still too,
    and alive. A camera without noise must repeat exactly while the arm makes a motion that it shows at other
    times. Threshold: seconds in which the arm travels by 4 units, 12 without noise; gripper and wrist roll do
    not count.
    """
    arm = _seen_joints(e)
    least = max(4, round(limit * e.fps))
    for name, sight in e.sights.items():
        total, worst, frames = 0, 0.0, []
        stretches = _dead(sight, e.state, arm, least) or _repeated(sight, e.state, arm, least)
        for start, length, moved in stretches:
            total += length
            worst = max(worst, moved)
            frames += [start, start + length - 1]
        if total:
            text = f"camera {name} stands still for {total / e.fps:.1f} s while the arm moves by {worst:.0f}"
            yield Finding(text, total / e.fps, frames)


@rule("video.rate", 7.5, do="Look at the camera's exposure and hub; record it again.")
def rate(e: Evidence, limit: float) -> Iterator[Finding]:
    """A camera gives new pictures far more rarely than there are rows.

    Seen while the arm moves by a unit a row and more. A camera of half the rate repeats every other picture,
    in low light it may give 10 a second. Threshold: new pictures per second.
    """
    for name, sight in e.sights.items():
        steps = sight.step[: e.rows - 1]
        arm = _seen_joints(e)
        brisk = np.abs(np.diff(e.state[: len(steps) + 1, arm], axis=0)).max(axis=1, initial=0) > 1.0
        if brisk.sum() < 1.5 * e.fps or len(steps) < e.fps:
            continue
        near, wide = _largest_within(steps, round(e.fps / 4)), _largest_within(steps, round(e.fps))
        new = float((steps > np.maximum(NEW_SHARE * near, LEAST_NEW * wide))[brisk].mean())
        if new * e.fps < limit and wide[brisk].min() > 0.5:
            text = (
                f"camera {name} gives {new * e.fps:.1f} new pictures a second, the rows come at {e.fps:g} Hz"
            )
            yield Finding(text, new * e.fps)


def _largest_within(steps: np.ndarray, reach: int) -> np.ndarray:
    """Of each frame the largest step at most `reach` frames away."""
    padded = np.pad(steps, reach, mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1).max(axis=1)


@rule(
    "video.shifted", 0.15, do="Look at the camera's delay and the encoder's dropped frames; record it again."
)
def shifted(e: Evidence, limit: float) -> Iterator[Finding]:
    """A camera shows each motion earlier or later than the joints have it.

    The change from picture to picture is explained by the joints' speeds best at no shift; cameras are late
    by 30 to 100 ms, and sound ones never fit better by a tenth elsewhere. Threshold: seconds; the fit must be
    good there, far better than without a shift, and both halves of the motion must say so where they say
    anything; else two cameras must.
    """
    half, room = (e.acted.start + e.acted.stop) // 2, round(ROOM_S * e.fps)
    start, stop = max(0, e.acted.start - room), e.acted.stop + room
    fits = {name: sight.fit() for name, sight in e.sights.items()}
    late = {
        name: fit
        for name, fit in fits.items()
        if fit is not None and abs(fit.shift_s) > limit and _good(fit, GOOD_FIT, GOOD_GAIN)
    }
    for name, sight in e.sights.items():
        first, last = sight.fit(start, half), sight.fit(half, stop)
        if name in late:
            fit = late[name]
            told = [_supports(part, fit) for part in (first, last) if part is not None and _tells(part, fit)]
            others = [other.shift_s for key, other in late.items() if key != name]
            agreed = any(abs(other - fit.shift_s) <= AGREED_S for other in others)
            if all(told) and (told or agreed):
                when = "late" if fit.shift_s > 0 else "early"
                text = f"the pictures of camera {name} come {abs(fit.shift_s):.2f} s {when}"
                yield Finding(text, fit.shift_s)
                continue
        if first is None or last is None or first.explained < LATER_FIT or abs(first.shift_s) > limit / 2:
            continue
        if abs(last.shift_s) > limit and _good(last, LATER_FIT, LATER_GAIN):
            text = f"the pictures of camera {name} are off by {last.shift_s:+.2f} s from the middle on"
            yield Finding(text, last.shift_s, [half, e.rows - 1])


def _tells(part: Fit, whole: Fit) -> bool:
    """Whether a half can say anything of the whole's shift."""
    return part.explained > GOOD_FIT and part.reach_s >= abs(whole.shift_s)


def _supports(part: Fit, whole: Fit) -> bool:
    """Whether a half fits better at the whole's shift than without one."""
    return part.at(whole.shift_s) > part.at(0.0) + HALF_GAIN


def _good(fit: Fit, explained: float, gain: float) -> bool:
    return fit.explained > explained and fit.gain > gain


def _seen_joints(e: Evidence) -> list[int]:
    return [joint.index for joint in e.joints if not (joint.gripper or UNSEEN_JOINT in joint.name)]


def _dead(sight: Sight, state: np.ndarray, arm: list[int], least: int) -> list[tuple[int, int, float]]:
    """(start, frames, units) of stretches without the noise that the camera has at rest, while the arm
    moves."""
    count = min(len(sight.change), len(sight.speed))
    change = (sight.change * sight.contrast[2:] / max(float(np.median(sight.contrast)), 1.0))[:count]
    rest = sight.speed[:count].max(axis=1, initial=0) < 0.2
    if rest.sum() < LEAST_REST or np.median(change[rest]) < LEAST_NOISE:
        return []
    quiet = change < QUIET_SHARE * float(np.median(change[rest]))
    if longest_run(quiet & rest)[1] >= least:  # its noise comes and goes by itself
        return []
    usual = float(np.percentile(sight.step, USUAL))
    return [
        (start, length, moved)
        for start, length, moved in _moving(quiet, state, arm, least, UNSEEN)
        if start == 0 or sight.step[start - 1 : start + 1].max() <= INTRUSION * usual
    ]


def _repeated(sight: Sight, state: np.ndarray, arm: list[int], least: int) -> list[tuple[int, int, float]]:
    """The same for a camera without noise: exact repeats during a motion that it can be expected to show."""
    still = np.zeros(len(sight.largest), bool)
    for start, length in still_runs(sight, STILL_LEVELS, least):
        still[start : start + length - 2] = True
    return [
        (start, length, moved)
        for start, length, moved in _moving(still, state, arm, least, UNSEEN_NOISELESS)
        if (sight.largest[start : start + length - 2] == 0).mean() > EXACT_SHARE
        and _sees(sight, arm, still, start, length)
    ]


def _moving(
    quiet: np.ndarray, state: np.ndarray, arm: list[int], least: int, units: float
) -> list[tuple[int, int, float]]:
    """Runs of quiet changes (over two frames each) of `least` frames in which a joint of the arm travels more
    than `units`."""
    found = []
    for start, changes in runs(quiet):
        part = state[start : start + changes + 2, arm]
        moved = float(np.ptp(part, axis=0).max(initial=0)) if len(part) else 0.0
        if changes + 2 >= least and moved > units:
            found.append((start, changes + 2, moved))
    return found


def _sees(sight: Sight, arm: list[int], still: np.ndarray, start: int, length: int) -> bool:
    """Whether the camera shows motion when the arm moves as fast as in this stretch, elsewhere or ever."""
    count = min(len(still), len(sight.speed))
    speed = sight.speed[:count, arm].max(axis=1, initial=0)
    here = float(np.median(speed[start : start + length])) if start < count else 0.0
    elsewhere = ~still[:count] & (speed >= max(here, 0.3))
    if elsewhere.sum() >= 10:
        return float(np.median(sight.largest[:count][elsewhere])) > BLIND
    return still.mean() > 0.8
