"""Is a joint held, or hanging, where its action does not want it."""

from collections.abc import Iterator

import numpy as np

from agent.episodes.checks.coupling import usual_frames
from agent.episodes.checks.evidence import Evidence
from agent.episodes.checks.registry import Finding, rule
from agent.episodes.following import longest_run, runs

GRIPPER_HOLDS = 2.0
"""Times the threshold that the gripper may stay away: it holds things."""


@rule("motion.joint_stuck", 7.0, do="Look at that servo (`armfleet doctor`): cable, overload, gear.")
def joint_stuck(e: Evidence, limit: float) -> Iterator[Finding]:
    """A joint stands still for 0.6 s and more though it is commanded to move.

    Play and friction hold a real joint while its action moves by up to 3.6 units, and at the end of its range
    a little more. Threshold: units of action in such a stretch, by the lag earlier and not; a gripper may
    close on something: there only opening counts, or twice the threshold when it stands for the whole
    episode.
    """
    if e.state.shape != e.action.shape or e.rows < round(0.7 * e.fps):
        return
    lagging = usual_frames(e)
    for joint in e.joints:
        state, action = e.state[:, joint.index], e.action[:, joint.index]
        found = _stuck(state, action, e.idle, lagging, max(4, round(0.6 * e.fps)), joint.gripper)
        whole = float(np.ptp(action)) if np.ptp(state) < 1.0 else 0.0
        needed = limit * GRIPPER_HOLDS if joint.gripper else limit
        if found[2] > needed or whole > needed:
            start, stop, travel = found if found[2] > needed else (0, e.rows, whole)
            seconds = (stop - start) / e.fps
            text = f"{joint.name} stands still for {seconds:.1f} s, commanded to move by {travel:.0f}"
            yield Finding(text, travel, range(start, stop))


@rule("motion.overload", 11.0, do="Look at that servo's load and temperature (`armfleet doctor`).")
def overload(e: Evidence, limit: float) -> Iterator[Finding]:
    """A joint is held away from its goal for a second and more: it pushes against something, or is blocked.

    Servos cut their torque in such a stall. Gravity keeps real joints up to 6 units from goals at rest. Rows
    in which neither state nor action moves are left out. Threshold: units; the gripper holds real objects
    with 10 and gets twice the threshold.
    """
    if e.state.shape != e.action.shape or e.rows < 2:
        return
    step = max(1, round(e.fps / 10))
    resting = np.zeros_like(e.state, dtype=bool)
    resting[step:] = np.abs(e.state[step:] - e.state[:-step]) < 0.7
    apart = e.action - e.state
    for joint in e.joints:
        needed = limit * (GRIPPER_HOLDS if joint.gripper else 1.0)
        held = (np.abs(apart[:, joint.index]) > needed) & resting[:, joint.index]
        held &= ~e.idle
        start, length = longest_run(held)
        if length / e.fps > 0.8:
            worst = float(np.abs(apart[start : start + length, joint.index]).max())
            text = f"{joint.name} is held {worst:.0f} from its goal for {length / e.fps:.1f} s"
            yield Finding(text, worst, range(start, start + length))


@rule("motion.saturated", 0.7, do="Calibrate again over the whole range (`armfleet calibrate`).")
def saturated(e: Evidence, limit: float) -> Iterator[Finding]:
    """A joint stands at exactly 100 while the arm moves on: its true position is beyond what is recorded.

    LeRobot clamps to +-100 what lies outside of the calibrated range. A follower at the end of its range
    stands at 98 to 99.9: in real motion it never reads 100 while the arm moves, though its leader does for up
    to 2.1 s. Threshold: seconds, in which another joint of the arm moves, all together.
    """
    step = max(1, round(e.fps / 10))
    moving = np.zeros(e.state.shape, bool)
    moving[step:] = np.abs(e.state[step:] - e.state[:-step]) > 1.0
    arm = [joint for joint in e.joints if joint.known and not joint.gripper]
    for joint in arm:
        others = [other.index for other in arm if other is not joint]
        clamped = (np.abs(np.abs(e.state[:, joint.index]) - 100.0) < 1e-3) & moving[:, others].any(axis=1)
        seconds = float(clamped.sum()) / e.fps
        if seconds > limit:
            text = f"{joint.name} is clamped at 100 for {seconds:.1f} s while the arm moves"
            yield Finding(text, seconds, np.flatnonzero(clamped))


def _stuck(
    state: np.ndarray, action: np.ndarray, idle: np.ndarray, lagging: int, least: int, gripper: bool
) -> tuple[int, int, float]:
    """(start, stop, units of action) of the stretch of standing still in which most was commanded."""
    worst = (0, 0, 0.0)
    window, resting = (np.lib.stride_tricks.sliding_window_view(array, least) for array in (state, idle))
    still = (np.ptp(window, axis=1) < 0.5) & ~resting.any(axis=1)
    for start, length in runs(still):
        stop = start + length + least - 1
        while stop < len(state) and not idle[stop] and abs(state[stop] - state[start]) < 0.5:
            stop += 1
        late = action[max(0, start - lagging + least // 3) : max(1, stop - lagging)]
        parts = [part for part in (late, action[start + least // 3 : stop]) if len(part)]
        travel = min(float(part.max() - state[start]) if gripper else float(np.ptp(part)) for part in parts)
        if travel > worst[2]:
            worst = (start, stop, travel)
    return worst
