"""Does the state follow the action, as an arm follows its leader.

Measured on real SO-101 motion and in simulation, lag taken out: the lag is 100 to 170 ms (up to 330 ms when
the motion is played at half speed); the median of action minus state is under 0.5 units on joints that carry
no weight, up to 4.4 on those that do; a gripper that holds something stays 10 away.
"""

from collections.abc import Iterator
from itertools import permutations

import numpy as np

from agent.episodes.checks.evidence import Evidence, Joint
from agent.episodes.checks.registry import Finding, rule
from agent.episodes.following import MOVING, Following

EXACT = 0.25
"""Three encoder counts, in all joints at once: only a copy agrees so well while it moves, noise on it or not.
Lag, play and weight keep moving joints 0.4 (simulation) to 3 units (real arms) from any shifted action."""
COPY_SHIFTS = 16
"""Frames of shift at which an exact copy is looked for."""
COPY_SHARE = 0.9
LEAST_MOVING = 10
"""Moving frames needed before anything can be said."""
LOADED = 2.0
"""Times the threshold that joints under the arm's weight may be off."""
WEIGHTS = 2
"""Other loaded joints whose pose may explain a joint's sag: more would explain the clock as well."""
DRIFT_S = 6.0
"""Seconds of motion needed before a drift can be told from a pose."""
FAR_OFF, NEAR = 12.0, 5.0
"""Units: where each joint is so far from its own action and so near to another's, it follows that one."""
UNUSUAL = 1.5
"""Times the threshold beyond the history's median from which on the history makes an offset certain."""
BRISK = 90.0
"""Units per second of the fastest joint: ordinary motion has 120 to 150. In slower motion a lag looks longer
and harms less."""
BRISK_SHARE = 0.78
"""Share of the usual lag limit in brisk motion, where the lag can be told well."""
SLOW, SLOW_SHARE = 75.0, 1.25
"""The same in slow motion."""
USUAL_LAG_S = 0.15
"""Of real SO-101 arms: 0.13 to 0.17 s (`agent.episodes.following`)."""
LAG_MARGIN_S = 0.1
"""A lag longer by so much than the history's is certain: that spreads by 0.02 s."""


@rule(
    "coupling.action_copied", 0.04, do="Record the leader's goal as the action; see the recorder's settings."
)
def action_copied(e: Evidence, limit: float) -> Iterator[Finding]:
    """Action and state are copies of each other: a policy would learn to stand still.

    Found where they agree within 0.25 units in all joints at any shift, or where the state answers sooner
    than any servo can: real lags are 100 ms and more, the bus alone takes a frame. Threshold: seconds of lag.
    """
    if e.state.shape != e.action.shape:
        return
    for shift in range(COPY_SHIFTS):
        share = _equal_share(e.action[: e.rows - shift], e.state[shift:])
        if share > COPY_SHARE:
            yield Finding(
                f"action and state are equal in {share:.0%} of the moving frames, {shift} frames apart",
                shift / e.fps,
            )
            return
    following = e.following
    if following is None or not _coherent(following) or _interrupted(e):
        return
    if abs(following.lag_s) < limit:
        text = (
            f"the state follows the action within {following.lag_s * 1000:.0f} ms: one is made from the other"
        )
        yield Finding(text, following.lag_s)


@rule("coupling.state_leads", 0.04, do="Find out which column was shifted; record it again.")
def state_leads(e: Evidence, limit: float) -> Iterator[Finding]:
    """The state moves before the action that commands it.

    Rows of one column are shifted, or state and action have changed places. Threshold: seconds.
    """
    following = e.following
    if following is not None and _coherent(following) and -following.lag_s > limit:
        yield Finding(f"the state moves {-following.lag_s:.2f} s before the action", following.lag_s)


@rule("coupling.lag", 0.34, do="Look at the servo bus and the power of the arm; record it again.")
def lag(e: Evidence, limit: float) -> Iterator[Finding]:
    """The state trails the action by more than an arm does.

    Normal are 100 to 170 ms. In brisk motion four fifths of the threshold count, in slow motion five quarters
    (played at half speed it seems to lag by up to 0.35 s), and with a history of brisk motion 0.1 s more than
    it shows. Threshold: seconds.
    """
    following = e.following
    if following is None or not _coherent(following) or _interrupted(e) or e.signature is None:
        return
    speed = e.signature.speed
    allowed = limit * (BRISK_SHARE if speed >= BRISK else SLOW_SHARE if speed < SLOW else 1.0)
    known = [s for s in e.history.like(e.state.shape[1])] if e.history else []
    known = [s for s in known if np.isfinite(s.lag_s) and s.speed <= 1.4 * e.signature.speed]
    if len(known) >= 2:
        usual = float(np.median([s.lag_s for s in known]))
        allowed = min(allowed, max(usual, 0.13) + LAG_MARGIN_S)
    if following.lag_s > allowed:
        yield Finding(f"the state trails the action by {following.lag_s:.2f} s", following.lag_s)


@rule("coupling.not_following", 0.35, do="Look at the bus of leader and follower; record it again.")
def not_following(e: Evidence, limit: float) -> Iterator[Finding]:
    """The state does not follow the action at any lag.

    They come from different recordings, or the arm was not driven by this leader. In sound motion the mean
    distance is 1 to 10 % of the travel. Threshold: share, median of the joints.
    """
    following = e.following
    if following is None or following.moving.sum() < 2:
        return
    misfit = float(np.median((following.misfit)[following.moving]))
    correlation = float(np.median(following.correlation[following.moving]))
    if misfit > limit / 2 and correlation < limit:
        yield Finding(
            f"the state does not follow the action: they differ by {misfit:.0%} of its travel", misfit
        )


@rule("coupling.sign", -0.6, do="Look at drive_mode in both calibrations; record it again.")
def sign(e: Evidence, limit: float) -> Iterator[Finding]:
    """A joint moves against its action.

    Sound joints have correlations above 0.9 (0.5 for a gripper). Threshold: correlation of positions; that of
    speeds must say the same.
    """
    for joint in e.joints:
        state, action = e.state, e.action
        if state.shape != action.shape or _travel(state, joint) < 3.0 or _travel(action, joint) < 3.0:
            continue
        lagging = usual_frames(e)
        position = _correlation(action[: e.rows - lagging, joint.index], state[lagging:, joint.index])
        moved = _correlation(
            _steps(action[: e.rows - lagging, joint.index]), _steps(state[lagging:, joint.index])
        )
        if position < limit and moved < limit / 2:
            yield Finding(f"{joint.name} moves against its action (correlation {position:.2f})", position)


@rule("coupling.permuted", 3.0, do="Bring the joints into LeRobot's order; record it again.")
def permuted(e: Evidence, limit: float) -> Iterator[Finding]:
    """Joints of the state follow other joints' actions: the order is permuted on one side.

    Sound joints are nearest to their own action, 1 to 6 units away. Threshold: how many times nearer another
    order must be, for each joint that changes places.
    """
    count = e.state.shape[1]
    if e.state.shape != e.action.shape or count > 7 or e.rows < 10:
        return
    lagging = usual_frames(e)
    earlier, later = e.action[: e.rows - lagging], e.state[lagging:]
    apart = np.median(
        np.abs(earlier[:, :, None] - later[:, None, :]), axis=0
    )  # action's joint, state's joint
    speed = _speeds(earlier, later)
    cost = apart / 10.0 + (1.0 - speed)
    orders = np.array(list(permutations(range(count))))
    totals = cost[orders, np.arange(count)].sum(axis=1)
    best = orders[np.argmin(totals)]
    changed = [j for j in range(count) if best[j] != j]
    if not changed:
        return
    own, other = apart[changed, changed], apart[best[changed], changed]
    own_speed, other_speed = speed[changed, changed], speed[best[changed], changed]
    nearer = (own > limit * other + 4.0) & (other_speed > own_speed - 0.2)
    faster = (other_speed > 0.6) & (own_speed < other_speed - 0.4)
    gain = float(cost[np.arange(count), np.arange(count)].sum() - totals.min())
    apart_all = bool((nearer & (own > FAR_OFF) & (other < NEAR)).all())
    if ((nearer | faster).mean() > 0.6 and faster.any() and gain > 1.0) or apart_all:
        names = ", ".join(e.joints[j].name for j in changed)
        yield Finding(
            f"the state of {names} follows other joints' actions", float((own / other.clip(0.1)).min())
        )


@rule("coupling.offset", 4.0, do="Calibrate leader and follower again (`armfleet calibrate`).")
def offset(e: Evidence, limit: float) -> Iterator[Finding]:
    """State and action differ by a constant: leader and follower are calibrated differently.

    The smallest distance that 80 % of the frames keep on one side is 0 in whole real episodes and up to 2
    units in a stretch of one. Threshold: units, for joints that carry no weight; those that sag may be off by
    twice that, unless the history shows that theirs are not (by half as much again, its spread taken off);
    the gripper, which holds things, by three times that in closing. In steady motion one way
    an offset looks like a lag: what the usual lag of these arms explains is none.
    """
    following = e.following
    if following is None or len(following.residual) < 2 * LEAST_MOVING:
        return
    usual = min(round(USUAL_LAG_S * e.fps), e.rows // 3)
    sides = [_one_side(following.residual), _one_side(e.action[: e.rows - usual] - e.state[usual:])]
    apart = np.where(np.prod(np.sign(sides), axis=0) > 0, np.sign(sides[0]) * np.abs(sides).min(axis=0), 0.0)
    unusual = _beyond_history(e, following)
    for joint in e.joints:
        value = float(apart[joint.index])
        if joint.gripper:
            value = _gripper_offset(e, following, joint)
        allowed = limit if joint.level else LOADED * limit
        if unusual is not None and not joint.gripper and unusual[joint.index] > UNUSUAL * limit:
            allowed = limit
        if abs(value) > allowed and following.correlation[joint.index] > -0.5:
            yield Finding(f"the action of {joint.name} stays {value:+.1f} from its state", value)


@rule(
    "coupling.offset_history",
    4.0,
    do="Compare the calibration of leader and follower (`armfleet doctor`).",
    outcome="noted",
)
def offset_history(e: Evidence, limit: float) -> Iterator[Finding]:
    """A joint stays further from its action than this workstation's episodes show.

    Loads differ, so it is only said. Threshold: units beyond the history's median and its spread.
    """
    unusual = _beyond_history(e, e.following) if e.following else None
    for joint in e.joints if unusual is not None else ():
        off = float(unusual[joint.index])  # type: ignore[index]
        if not joint.gripper and off > limit:
            yield Finding(
                f"the action of {joint.name} stays {off:.1f} further from its state than usual", off
            )


@rule("coupling.drift", 3.0, do="Look for a slipping horn or a lost calibration; record it again.")
def drift(e: Evidence, limit: float) -> Iterator[Finding]:
    """The distance of state and action grows steadily: a horn slips, or an encoder loses its zero.

    Weight and speed explain the distance in sound motion; they are taken out first. Time then seems to add up
    to 12 units in five seconds of sound motion in which pose and clock go together, so the slope counts by
    the share of time that the pose leaves (its square root): 500 stretches of real motion stay under 1.1 on
    joints that carry no weight, 2 on the wrist, 3.9 on shoulder and elbow, 9.2 on the gripper. Threshold:
    units over the episode for joints that carry no weight, twice that for the others, four times for the
    gripper; time must explain two fifths of what is left, three quarters for the gripper. Rows that stand
    still are left out.
    """
    following = e.following
    if following is None:
        return
    shown = ~e.idle[following.frames :] & ~e.idle[: len(following.residual)]
    goals, residual = e.action[: len(shown)][shown], following.residual[shown]
    if len(residual) < DRIFT_S * e.fps:
        return
    time = np.linspace(-0.5, 0.5, len(goals))
    loaded = [
        j.index for j in e.joints if not j.level and not j.gripper and np.ptp(goals[:, j.index]) > MOVING
    ]
    for joint in e.joints:
        speed = np.gradient(goals[:, joint.index])
        pulling = [] if joint.level or joint.gripper else [k for k in loaded if k != joint.index][:WEIGHTS]
        poses = goals[:, [joint.index, *pulling]]
        known = np.column_stack([np.ones(len(goals)), poses, speed])
        rest, rise = _left(known, residual[:, joint.index]), _left(known, time)
        unique = float(rise @ rise)
        if unique < 1e-3 * len(time):  # the pose says as much as the clock: nothing can be told apart
            continue
        slope = float(rise @ rest) / unique
        explained = slope**2 * unique / max(float(rest @ rest), 1e-9)
        told = abs(slope) * (unique / max(float(time @ time), 1e-9)) ** 0.5
        factor = 1.0 if joint.level else LOADED * (2.0 if joint.gripper else 1.0)
        needed = 0.75 if joint.gripper else 0.4
        if abs(slope) > factor * limit and explained > needed and told > _least_told(joint) * limit:
            yield Finding(f"the action of {joint.name} drifts from its state by {slope:+.1f}", slope)


def _least_told(joint: Joint) -> float:
    """Of drift's threshold: what the slope must reach by the clock alone; a third above sound motion."""
    if joint.gripper:
        return 4.0
    return 0.5 if joint.level else 0.85 if "wrist" in joint.name else 1.7


def _beyond_history(e: Evidence, following: Following) -> np.ndarray | None:
    """(joints,) units by which the median of action minus state leaves the history's, its spread taken
    off."""
    known = [s.offset for s in (e.history.like(e.state.shape[1]) if e.history else ())]
    known = [offset for offset in known if np.isfinite(offset).all()]
    if len(known) < 2:
        return None
    away = np.abs(np.median(following.residual, axis=0) - np.median(known, axis=0))
    return np.maximum(0.0, away - np.ptp(known, axis=0))


def _left(known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """What a linear function of `known`'s columns leaves of `values`."""
    weights, *_ = np.linalg.lstsq(known, values, rcond=1e-9)
    return values - known @ weights


def _one_side(residual: np.ndarray) -> np.ndarray:
    """(joints,) the distance from 0 that 80 % of the rows of (rows, joints) keep on one side; else 0."""
    low, high = np.percentile(residual, [10, 90], axis=0)
    return np.where(low > 0, low, np.minimum(0.0, high))


def _gripper_offset(e: Evidence, following: Following, joint: Joint) -> float:
    """Judged while it opens or closes freely; in closing on something its action runs ahead by what it
    presses."""
    residual = following.residual[:, joint.index]
    state = e.state[following.frames :, joint.index]
    step = max(1, round(e.fps / 10))
    moving = np.zeros(len(state), bool)
    moving[step:] = np.abs(state[step:] - state[:-step]) > 1.0
    part = residual[moving] if moving.sum() >= LEAST_MOVING else residual
    low, high = np.percentile(part, [10, 90])
    return float(low) if low > 0 else min(0.0, float(high) / 1.5)


def _coherent(following: Following) -> bool:
    """Whether the lag means something: most moving joints go with their action."""
    correlation = following.correlation[following.moving]
    speed = np.diag(following.velocity)[following.moving]
    return bool(np.median(correlation) > 0.8 and np.median(speed) > 0.4)


def _interrupted(e: Evidence) -> bool:
    """Whether a fifth of the rows stands still and under 5 s move: the lag of so little can't be told, as the
    goal that a pause holds back weighs too much (it made 0.04 to 0.58 s of 0.13)."""
    return bool(e.idle.mean() > 0.2 and (~e.idle).sum() < 5.0 * e.fps)


def usual_frames(e: Evidence) -> int:
    """Frames of lag, the usual ones where the measured lag can't be believed."""
    following = e.following
    believable = following is not None and _coherent(following) and 0 <= following.lag_s < 0.7
    return following.frames if following and believable else round(0.13 * e.fps)


def _equal_share(action: np.ndarray, state: np.ndarray) -> float:
    """Share of moving frames in which all joints agree exactly; 0 where too few move."""
    moving = np.abs(np.diff(state, axis=0, prepend=state[:1])).max(axis=1, initial=0) > EXACT
    if moving.sum() < LEAST_MOVING:
        return 0.0
    return float((np.abs(action - state).max(axis=1) < EXACT)[moving].mean())


def _speeds(earlier: np.ndarray, later: np.ndarray) -> np.ndarray:
    """(action's joint, state's joint) correlation of speeds; joints that rest go with all others alike."""
    count = earlier.shape[1]
    result = np.zeros((count, count))
    for i in range(count):
        for j in range(count):
            result[i, j] = _correlation(_steps(earlier[:, i]), _steps(later[:, j]))
    return result


def _steps(column: np.ndarray) -> np.ndarray:
    return column[3:] - column[:-3]


def _correlation(left: np.ndarray, right: np.ndarray) -> float:
    if len(left) < 3 or left.std() < 1e-6 or right.std() < 1e-6:
        return 0.0
    return float(np.corrcoef(left, right)[0, 1])


def _travel(array: np.ndarray, joint: Joint) -> float:
    return float(np.ptp(array[:, joint.index]))
