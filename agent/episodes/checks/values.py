"""Are the numbers joint positions: finite, of the right shape and unit, and where an SO-100 can be."""

from collections.abc import Iterator

import numpy as np

from agent.episodes.checks.evidence import Evidence, plain_name
from agent.episodes.checks.registry import Finding, rule
from agent.robot.joints import JOINTS

GRIPPER_SLACK = 5.0
"""The gripper runs from 0 to 100, both in degrees and in range units."""
SO_ARMS = ("so100", "so101", "so_follower", "so_arm")
HALF_TURN = 3.3
"""Radians, and a little: no joint of the arm turns further from its middle."""
UNIT_RATIO = 1.3
"""Ratio of travels of state and action (0.9 to 1.16 in real and simulated motion) from which on they can't
be in one unit. Range units of a joint with 270 degrees differ from degrees by 1.35."""
UNIT_TRAVEL = 20.0
"""Units of action's travel from which on the ratio means something."""
COMMON = (0.85, 1.12)
"""Where the median ratio of three joints and more lies in sound motion, with room: 0.93 to 1.01."""
FACTOR_S = 5.0
"""Seconds of motion needed: in a part of a motion the lag alone makes a ratio of 1.17."""
ENCODER_DENSITY = 25.0
"""Different values per unit of travel, at most: 4096 counts a turn are 11 per degree, up to 20 per range
unit."""
FINE = 2.0
"""Times that for a joint in radians or fractions."""
OTHER_COLUMN = 8.0
"""Times the threshold for a column that is never clamped itself."""
LEAP = 30.0
"""Units a row: as `motion.jump`."""
ROUNDED = 100.0
"""Where LeRobot's range units end."""


@rule("values.not_finite", 0, do="Record it again; look at the bus errors of that time.")
def not_finite(e: Evidence, limit: float) -> Iterator[Finding]:
    """NaN or infinity in state or action.

    One such number makes the loss of a whole training run NaN.
    """
    for name, array in (("state", e.episode.state), ("action", e.episode.action)):
        bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
        if len(bad) > limit:
            yield Finding(f"{name} is not a number in {len(bad)} frames", len(bad), bad)


@rule("values.shape", None, do="Record with an SO-100 or SO-101, both columns from the same arm.")
def shape(e: Evidence, limit: float) -> Iterator[Finding]:
    """State and action have different numbers of joints, or an SO-100 has not six.

    The policy's inputs and outputs are fixed.
    """
    state, action = e.episode.state.shape, e.episode.action.shape
    if state != action:
        yield Finding(f"state has the shape {state}, action {action}")
    elif e.episode.robot_type.lower().startswith(SO_ARMS) and state[1] != len(JOINTS):
        yield Finding(f"{e.episode.robot_type} has {len(JOINTS)} joints, the table has {state[1]}", state[1])


@rule("values.joint_names", None, do="Nothing, if the robot is meant to be another one.", outcome="noted")
def joint_names(e: Evidence, limit: float) -> Iterator[Finding]:
    """The joints have other names than those of an SO-100: range and units of each could not be checked.

    Limits are known for the six joints of an SO-100/SO-101 alone.
    """
    strange = [joint.name for joint in e.joints if not joint.known]
    if strange:
        yield Finding(f"range and unit of {', '.join(strange[:8])} could not be checked: unknown joints")


@rule("values.joint_order", None, do="Convert it into LeRobot's order of joints.")
def joint_order(e: Evidence, limit: float) -> Iterator[Finding]:
    """The dataset names the six joints in another order than LeRobot, or state and action differ in it.

    A policy knows joints by their place.
    """
    names = [plain_name(name) for name in e.episode.names]
    actions = [plain_name(name) for name in e.episode.action_names]
    if sorted(names) == sorted(JOINTS) and names != list(JOINTS):
        yield Finding(f"the joints are in the order {', '.join(names)}")
    elif names and sorted(names) == sorted(actions) and names != actions:
        yield Finding(f"the joints of the action are in another order: {', '.join(actions)}")


@rule("values.out_of_range", 185.0, do="Look at calibration and bus errors; record it again.")
def out_of_range(e: Evidence, limit: float) -> Iterator[Finding]:
    """A joint is where no SO-100 can be.

    A joint turns at most +-180 degrees about the middle of its range; the rest is the encoder's noise at the
    seam. Range units end at 100: what leaps beyond that by 30 units in a frame is no angle either. The
    gripper runs from 0 to 100, 5 to spare.
    """
    for name, array in (("state", e.state), ("action", e.action)):
        for joint in e.joints:
            if not joint.known or joint.index >= array.shape[1]:
                continue
            column = array[:, joint.index]
            low, high = (-GRIPPER_SLACK, 100 + GRIPPER_SLACK) if joint.gripper else (-limit, limit)
            if not joint.gripper and _leaps_beyond(column):
                low, high = -ROUNDED, ROUNDED
            bad = np.flatnonzero((column < low) | (column > high))
            if len(bad):
                worst = float(column[bad][np.argmax(np.abs(column[bad]))])
                text = f"{name} of {joint.name} is {worst:.0f}, possible are {low:.0f} to {high:.0f}"
                yield Finding(text, worst, bad)


@rule("values.beyond_clamp", 1.0, do="Find out who changed the numbers after recording; record it again.")
def beyond_clamp(e: Evidence, limit: float) -> Iterator[Finding]:
    """A value lies beyond 100 where its own column was clamped to exactly 100 before.

    LeRobot clamps range units to +-100, all joints of an arm alike. An episode that stands at exactly 100 in
    some rows and lies beyond in others was not written by it. Threshold: units beyond in the same column;
    eight in another one, which somebody may have corrected by a few.
    """
    known = [j for j in e.joints if j.known and not j.gripper]
    arrays = {"state": e.state, "action": e.action}
    if not any((np.abs(array[:, j.index]) == ROUNDED).sum() >= 2 for array in arrays.values() for j in known):
        return
    for name, array in arrays.items():
        for joint in known:
            column = np.abs(array[:, joint.index])
            own = (column == ROUNDED).sum() >= 2
            beyond = np.flatnonzero(column > ROUNDED + limit * (1.0 if own else OTHER_COLUMN))
            if len(beyond):
                text = f"{name} of {joint.name} is {column.max():.1f} where joints are clamped at 100"
                yield Finding(text, float(column.max()), beyond)


@rule("values.unit", UNIT_RATIO, do="Convert it into degrees (gripper 0 to 100), as LeRobot records.")
def unit(e: Evidence, limit: float) -> Iterator[Finding]:
    """Numbers are in another unit: radians, 0..1, encoder counts, or state and action differ by a factor.

    Found by the size of whole episodes, and by the ratio of the travels of state and action, which is 0.9 to
    1.16 in real and simulated motion. Range units of a joint with 270 degrees differ from degrees by 1.35. A
    gripper that holds something travels less than its action: there only a factor of 8 counts.
    """
    for name, array in (("state", e.state), ("action", e.action)):
        yield from _whole(e, name, array)
    if e.state.shape != e.action.shape or e.following is None:
        return
    yield from _common_factor(e)
    yield from _too_fine(e)
    earlier, later = _answered(e, e.following.frames)
    if len(later) < FACTOR_S * e.fps:
        return
    for joint in e.joints:
        state, action = later[:, joint.index], earlier[:, joint.index]
        mine, its = (float(np.ptp(np.percentile(values, [2, 98]))) for values in (state, action))
        if not max(mine, its) > UNIT_TRAVEL or min(mine, its) < 1e-3:
            continue
        ratio = max(mine, its) / min(mine, its)
        if ratio > (8.0 if joint.gripper else limit) and _correlation(state, action) > 0.98:
            text = f"state of {joint.name} travels {mine:.3g}, its action {its:.3g}, in the same manner"
            yield Finding(text, ratio)


def _leaps_beyond(column: np.ndarray) -> bool:
    """Whether a column leaves or enters +-100, by more than a unit, in a step that no arm makes."""
    outside = np.abs(column) > ROUNDED + 1
    return bool(((outside[1:] != outside[:-1]) & (np.abs(np.diff(column)) > LEAP)).any())


def _answered(e: Evidence, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Action and the state that answers it, without the rows that stand still."""
    shown = ~e.idle[frames:] & ~e.idle[: e.rows - frames]
    return e.action[: e.rows - frames][shown], e.state[frames:][shown]


def _common_factor(e: Evidence) -> Iterator[Finding]:
    """One factor between the travels of state and action, the same for all joints of the arm."""
    following = e.following
    assert following is not None
    earlier, later = _answered(e, following.frames)
    slopes = []
    for joint in e.joints:
        state, action = later[:, joint.index], earlier[:, joint.index]
        if not joint.gripper and np.ptp(action) > UNIT_TRAVEL and _correlation(state, action) > 0.98:
            slopes.append(float(state.std() / action.std()))
    if len(slopes) < 3 or len(later) < FACTOR_S * e.fps:
        return
    middle = float(np.median(slopes))
    scatter = float(np.ptp(slopes)) / middle
    if not COMMON[0] < middle < COMMON[1] and scatter < 0.2:
        yield Finding(f"the state of all joints travels {middle:.2f} times as far as the action", middle)


def _too_fine(e: Evidence) -> Iterator[Finding]:
    """One joint, in state and action, has steps finer than the encoder's while the others show it."""
    following = e.following
    assert following is not None
    earlier, later = e.action[: e.rows - following.frames], e.state[following.frames :]
    values = [len(np.unique(np.round(column, 5))) for column in later.T]
    density = np.array(
        [n / max(float(np.ptp(c)), 1e-6) if n > 25 else 0.0 for n, c in zip(values, later.T, strict=True)]
    )
    for joint in e.joints:
        state, action = later[:, joint.index], earlier[:, joint.index]
        others = np.delete(density, joint.index)
        small = max(np.abs(state).max(), np.abs(action).max()) <= HALF_TURN and np.ptp(state) > 0.05
        coarse = others.max(initial=0) > 0 and others.max() < ENCODER_DENSITY
        if (
            small
            and coarse
            and density[joint.index] > FINE * ENCODER_DENSITY
            and _correlation(state, action) > 0.8
        ):
            text = f"{joint.name} moves by {np.ptp(state):.2f} in steps finer than an encoder's: another unit"
            yield Finding(text, float(np.ptp(state)))


def _whole(e: Evidence, name: str, array: np.ndarray) -> Iterator[Finding]:
    known = [joint.index for joint in e.joints if joint.known and joint.index < array.shape[1]]
    if len(known) < len(JOINTS):
        return
    values = np.abs(array[:, known])
    largest, travel = float(values.max()), float(np.ptp(array[:, known], axis=0).max())
    arm = [j.index for j in e.joints if j.known and not j.gripper]
    if largest <= HALF_TURN and travel > 1e-3:
        guess = "0..1" if largest <= 1.0 + 1e-6 else "radians"
        yield Finding(f"all of {name} lies within {largest:.2f}: these are {guess}, not degrees", largest)
    elif np.median(np.abs(array[:, arm])) > 400:
        yield Finding(f"{name} lies at {np.median(values):.0f}: these are encoder counts", largest)


def _correlation(left: np.ndarray, right: np.ndarray) -> float:
    if left.std() < 1e-9 or right.std() < 1e-9:
        return 0.0
    return float(np.corrcoef(left, right)[0, 1])
