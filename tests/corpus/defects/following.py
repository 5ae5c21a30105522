"""A follower that does not follow, or follows too well."""

from dataclasses import replace

import numpy as np

from ..motion import COUNT, ELBOW, GRIPPER, LIFT, PAN, WRIST, quantised
from ..registry import Scene, defect

FOLLOWS = ("coupling.not_following", "motion.joint_stuck", "motion.state_frozen", "motion.overload")
COPIED = ("coupling.action_copied", "coupling.state_copied", "coupling.state_leads")


def _busiest(scene: Scene, among: tuple[int, ...] = (PAN, LIFT, ELBOW, WRIST)) -> int:
    """The joint of these that travels most."""
    return max(among, key=lambda joint: float(np.ptp(scene.shot.motion.action[:, joint])))


def _busy(scene: Scene, length: int) -> int:
    """Where a stretch of this length begins in which the leader moves most."""
    speed = np.abs(np.diff(scene.shot.motion.action, axis=0)).sum(axis=1)
    return int(np.argmax(np.convolve(speed, np.ones(length), mode="valid")))


def _delayed(array: np.ndarray, frames: int) -> np.ndarray:
    return array[np.clip(np.arange(len(array)) - frames, 0, len(array) - 1)]


def _happened(scene: Scene, state: np.ndarray) -> None:
    """The arm really did this: rows and pictures show it."""
    scene.shot.act(replace(scene.shot.motion, state=quantised(state)))


@defect("coupling.lag")
def lagging_state(scene: Scene) -> None:
    """The follower trails by 350 ms in all, by 500, by 900 instead of 150."""
    _happened(scene, _delayed(scene.shot.motion.state, scene.pick(6, 11, 23)))
    scene.history = True


@defect("coupling.state_leads", "coupling.lag")
def state_ahead(scene: Scene) -> None:
    """Rows misaligned: the action is recorded 7, 12, 25 frames late, so that the state runs ahead of it."""
    scene.shot.action = _delayed(scene.shot.action, scene.pick(7, 12, 25))


@defect(*FOLLOWS)
def dead_stretch(scene: Scene) -> None:
    """The state stream stands still for 0.8 s, 2.5 s, 6 s while the leader moves; the pictures go on."""
    length = scene.pick(24, 75, 180)
    start = _busy(scene, length)
    scene.shot.state[start : start + length] = scene.shot.state[start]


@defect(*FOLLOWS, "motion.none")
def dead_stream(scene: Scene) -> None:
    """The state never changes: but for a count of noise, not at all, and is zero."""
    state = scene.shot.state
    state[:] = state[len(state) // 2] if scene.level < 2 else 0
    if scene.level == 0:
        state += COUNT * scene.rng.integers(-1, 2, state.shape)


@defect(*FOLLOWS)
def stuck_joint(scene: Scene) -> None:
    """A joint does not move: its encoder for the last third, the joint itself all along, two of them."""
    motion = scene.shot.motion
    if scene.level == 0:
        start = _busy(scene, len(motion) // 3)
        joint = max(range(GRIPPER), key=lambda j: float(np.ptp(motion.action[start:, j])))
        scene.shot.state[start:, joint] = scene.shot.state[start, joint]
        return
    joints = sorted((PAN, LIFT, ELBOW, WRIST), key=lambda j: -float(np.ptp(motion.action[:, j])))
    state = motion.state.copy()
    for joint in joints[: scene.level]:
        state[:, joint] = state[0, joint]
    _happened(scene, state)


@defect(*FOLLOWS)
def stuck_gripper(scene: Scene) -> None:
    """The jaws stick: they open and never close again, never move, the reading never moves from 50."""
    motion = scene.shot.motion
    if scene.level == 2:
        scene.shot.state[:, GRIPPER] = 50
        return
    state = motion.state.copy()
    if scene.level == 0:
        widest = int(np.argmax(state[:, GRIPPER]))
        state[widest:, GRIPPER] = state[widest, GRIPPER]
    else:
        state[:, GRIPPER] = state[0, GRIPPER]
    _happened(scene, state)


@defect("coupling.drift", "coupling.offset")
def drift(scene: Scene) -> None:
    """A joint of the follower slips away from the leader in the course of the episode, by 8, 17, 35 units."""
    joint = _busiest(scene)
    state = scene.shot.motion.state.copy()
    away = np.linspace(0, scene.pick(8, 17, 35), len(state))
    away *= -1 if state[-1, joint] > 0 else 1
    state[:, joint] += away
    _happened(scene, state)
    scene.history = True


@defect("coupling.offset", "coupling.drift")
def constant_offset(scene: Scene) -> None:
    """Leader and follower disagree about a joint's zero, by 8, 17, 35 units: a calibration of another arm."""
    joint = _busiest(scene)
    column = scene.shot.motion.state[:, joint]
    shift = scene.pick(8, 17, 35) * (-1 if column.mean() > 0 else 1)
    scene.shot.state[:, joint] = column + shift
    scene.history = True


@defect(*COPIED)
def action_is_state(scene: Scene) -> None:
    """No leader was recorded: the action is the state a few frames later with noise, the next state, the
    state."""
    state = scene.shot.state
    shift = scene.pick(4, 1, 0)
    scene.shot.action = state[np.clip(np.arange(len(state)) + shift, 0, len(state) - 1)].copy()
    if scene.level == 0:
        scene.shot.action += scene.rng.normal(0, 0.03, state.shape)


@defect(*COPIED)
def state_is_action(scene: Scene) -> None:
    """No encoder was read: the state is an earlier action with noise, the last action, the action."""
    action = scene.shot.action
    scene.shot.state = _delayed(action, scene.pick(4, 1, 0)).copy()
    if scene.level == 0:
        scene.shot.state += scene.rng.normal(0, 0.03, action.shape)


@defect(*FOLLOWS, "coupling.offset")
def overload(scene: Scene) -> None:
    """A joint runs against something and stalls while the leader asks for more: 18 units for 2 s, 30 for
    4 s; the servo gives up and the joint hangs limp."""
    motion = scene.shot.motion
    state = motion.state.copy()
    joint = _busiest(scene, (LIFT, ELBOW))
    length = scene.pick(60, 120, len(state) // 2)
    start = int(np.argmax(np.abs(np.diff(state[: len(state) - length, joint])))) if len(state) > length else 0
    action = motion.action.copy()
    held = state[start, joint]
    push = scene.pick(18.0, 30.0, 45.0) * (-1 if held > 0 else 1)
    ramp = np.minimum(np.arange(length) / 12, 1)
    action[start : start + length, joint] = np.clip(held + push * ramp, -100, 100)
    give = 0.4 * np.sign(push) * np.minimum(np.arange(length) / 40, 1)
    state[start : start + length, joint] = held + give
    back = min(10, len(state) - start - length)
    for array in (action, state):
        end = start + length
        if back:
            last, then = array[end - 1, joint], array[end + back - 1, joint]
            array[end : end + back, joint] = np.linspace(last, then, back)
    if scene.level == 2:  # the servo switched itself off: the arm sinks
        rest = np.array([0, -98, 97])[joint]
        fall = np.minimum(np.arange(length - 40) / 15, 1)
        state[start + 40 : start + length, joint] = held + (rest - held) * fall
        state[start + length :, joint] = rest
    scene.shot.act(replace(motion, action=action, state=quantised(state)))


@defect(*FOLLOWS, "coupling.offset")
def saturated(scene: Scene) -> None:
    """The leader asks for more than the follower's range: a joint at its stop while the action is clipped at
    100 for 2.5 s, 4 s, all along."""
    motion = scene.shot.motion
    state, action = motion.state.copy(), motion.action.copy()
    joint = int(scene.rng.choice([PAN, WRIST]))
    length = scene.pick(75, 120, len(state) - 30)
    start = int(scene.rng.integers(15, len(state) - length - 14)) if scene.level < 2 else 15
    stop_at = scene.pick(78.0, 70.0, 55.0)
    goal = np.concatenate([np.linspace(action[start - 15, joint], 100, 15), np.full(length - 15, 100.0)])
    action[start : start + length, joint] = goal
    answer = _delayed(goal[:, None], 4)[:, 0]
    answer[:4] = state[start : start + 4, joint]
    state[start : start + length, joint] = np.minimum(answer, stop_at)
    end = start + length
    back = min(14, len(state) - end)
    action[end : end + back, joint] = np.linspace(100, action[end + back - 1, joint], back)
    state[end : end + back, joint] = np.linspace(stop_at, state[end + back - 1, joint], back)
    scene.shot.act(replace(motion, action=action, state=quantised(state)))
