"""Numbers that are none, or that mean something else than they should."""

import numpy as np

from ..motion import ELBOW, GRIPPER, LIFT, PAN, ROLL, WRIST
from ..registry import Scene, defect

UNITS = ("values.", "coupling.not_following", "coupling.offset", "motion.joint_stuck")
ORDER = (
    "coupling.permuted",
    "coupling.reordered",
    "coupling.not_following",
    "coupling.sign",
    "values.joint_order",
)
COUNTS_PER_UNIT = 11.4


def _moments(scene: Scene, count: int) -> np.ndarray:
    return np.sort(scene.rng.choice(np.arange(20, len(scene.shot) - 5), count, replace=False))


@defect("values.not_finite")
def nan_state(scene: Scene) -> None:
    """NaN in the state: one value, ten rows, a whole joint."""
    state, joint = scene.shot.state, int(scene.rng.integers(6))
    rows = scene.pick(_moments(scene, 1), _moments(scene, 10), np.arange(len(state)))
    if scene.level == 1:
        state[rows] = np.nan
    else:
        state[rows, joint] = np.nan


@defect("values.not_finite")
def inf_action(scene: Scene) -> None:
    """Infinity or NaN in the action: one value, a dozen rows, from the middle on."""
    action, joint = scene.shot.action, int(scene.rng.integers(6))
    half = np.arange(len(action) // 2, len(action))
    rows = scene.pick(_moments(scene, 1), _moments(scene, 12), half)
    action[rows, joint] = scene.pick(np.inf, np.nan, np.inf)


@defect("values.")
def state_out_of_range(scene: Scene) -> None:
    """A state beyond what the joint can reach: the gripper at 118, a joint at 230, at 500."""
    length = scene.pick(6, 12, 60)
    start = int(scene.rng.integers(30, len(scene.shot) - length))
    joint = scene.pick(GRIPPER, WRIST, ELBOW)
    scene.shot.state[start : start + length, joint] = scene.pick(118.0, 230.0, 500.0)


@defect("values.")
def action_out_of_range(scene: Scene) -> None:
    """An action beyond what the joint can reach: the gripper asked for -22, a joint for 220, for 500."""
    length = scene.pick(10, 15, 40)
    start = int(scene.rng.integers(30, len(scene.shot) - length))
    joint = scene.pick(GRIPPER, PAN, LIFT)
    bump = np.sin(np.linspace(0, np.pi, length))
    peak = scene.pick(-22.0, 220.0, 500.0)
    column = scene.shot.action[start : start + length, joint]
    column += (peak - column) * bump if scene.level == 0 else peak - column


@defect(*UNITS)
def radians(scene: Scene) -> None:
    """Radians: one joint's state, state and action, the state alone."""
    factor = np.pi / 180
    if scene.level == 0:
        scene.shot.state[:, LIFT] *= factor
    else:
        scene.shot.state *= factor
    if scene.level == 1:
        scene.shot.action *= factor


@defect(*UNITS)
def fractions(scene: Scene) -> None:
    """-1..1 for -100..100: the gripper's state and action, everything, the action alone."""
    joints = [GRIPPER] if scene.level == 0 else list(range(6))
    scene.shot.action[:, joints] /= 100
    if scene.level < 2:
        scene.shot.state[:, joints] /= 100


@defect(*UNITS)
def counts(scene: Scene) -> None:
    """Raw encoder counts: one joint's state, the state alone, everything."""
    shot = scene.shot
    joints = [WRIST] if scene.level == 0 else list(range(6))
    shot.state[:, joints] = np.round(2048 + shot.state[:, joints] * COUNTS_PER_UNIT)
    if scene.level == 2:
        shot.action[:] = np.round(2048 + shot.action * COUNTS_PER_UNIT)


@defect(*UNITS)
def mixed_scale(scene: Scene) -> None:
    """State in degrees beside actions in range units: off by a fifth, a third, by one and a half."""
    factor = scene.pick(1.2, 1.33, 2.5)
    arm = slice(0, GRIPPER)
    scene.shot.state[:, arm] *= factor
    if scene.level == 2:
        scene.shot.state[:, GRIPPER] *= 0.3


@defect(*ORDER)
def permuted_action(scene: Scene) -> None:
    """Joints of the action in another order: two alike, three, reversed."""
    order = scene.pick([0, 1, 3, 2, 4, 5], [1, 2, 0, 3, 4, 5], [5, 4, 3, 2, 1, 0])
    scene.shot.action[:] = scene.shot.action[:, order]


@defect(*ORDER)
def permuted_state(scene: Scene) -> None:
    """Joints of the state in another order: pan and roll exchanged, lift and elbow, rotated by one."""
    order = scene.pick([4, 1, 2, 3, 0, 5], [0, 2, 1, 3, 4, 5], [5, 0, 1, 2, 3, 4])
    scene.shot.state[:] = scene.shot.state[:, order]


@defect(*ORDER)
def permuted_both(scene: Scene) -> None:
    """State and action both in an order other than this workstation's: only its history can tell."""
    order = scene.pick([4, 1, 2, 3, 0, 5], [2, 3, 4, 0, 1, 5], [5, 4, 3, 2, 1, 0])
    scene.shot.state[:] = scene.shot.state[:, order]
    scene.shot.action[:] = scene.shot.action[:, order]
    scene.history = True


@defect("coupling.sign", "coupling.mirrored", "coupling.not_following")
def flipped_sign(scene: Scene) -> None:
    """A joint counted the other way round: the roll's state, the pan's state, all joints' actions."""
    shot = scene.shot
    if scene.level == 0:
        shot.state[:, ROLL] *= -1
    elif scene.level == 1:
        shot.state[:, PAN] = -shot.state[:, PAN]
    else:
        shot.action[:, :GRIPPER] *= -1
