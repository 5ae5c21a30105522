"""Motion that no arm makes, or none at all."""

from dataclasses import replace

import numpy as np

from ..motion import COUNT, FPS, GRIPPER, LIFT, PAN, ROLL, WRIST, Motion, follow, quantised, synthesise
from ..registry import Scene, defect

JUMP = ("motion.jump", "motion.spike", "motion.teleport")


@defect(*JUMP)
def spikes(scene: Scene) -> None:
    """A single wrong reading of the encoder: one of 22 units, three of 50, a dozen of 120."""
    count, height = scene.pick((1, 22.0), (3, 50.0), (12, 120.0))
    rows = scene.rng.choice(np.arange(25, len(scene.shot) - 5), count, replace=False)
    for row in rows:
        joint = int(scene.rng.integers(GRIPPER))
        value = scene.shot.state[row, joint]
        scene.shot.state[row, joint] = value + (-height if value > 0 else height)


@defect(*JUMP)
def action_spikes(scene: Scene) -> None:
    """A single wrong goal: one of 25 units, two of 60, eight of 130."""
    count, height = scene.pick((1, 25.0), (2, 60.0), (8, 130.0))
    rows = scene.rng.choice(np.arange(25, len(scene.shot) - 5), count, replace=False)
    for row in rows:
        joint = int(scene.rng.integers(GRIPPER))
        value = scene.shot.action[row, joint]
        scene.shot.action[row, joint] = value + (-height if value > 0 else height)


@defect(*JUMP, "timing.")
def teleport(scene: Scene) -> None:
    """A piece is cut out of the recording, rows and pictures alike: 0.4 s of fast motion, 1 s; the second
    half is of another episode."""
    motion = scene.shot.motion
    if scene.level == 2:
        other = scene.studio.motion(scene.rng)
        half = len(motion) // 2
        action = np.concatenate([motion.action[:half], other.action[len(other) // 4 :] * [-1, 1, 1, 1, 1, 1]])
        state = np.concatenate([motion.state[:half], other.state[len(other) // 4 :] * [-1, 1, 1, 1, 1, 1]])
        scene.shot.act(Motion(action, state, motion.origin))
        return
    lost = scene.pick(12, 30, 0)
    gone = np.abs(motion.state[lost:] - motion.state[:-lost]).max(axis=1)
    start = int(np.argmax(gone)) + 1
    keep = np.delete(np.arange(len(motion)), range(start, start + lost - 1))
    scene.shot.act(Motion(motion.action[keep], motion.state[keep], motion.origin))


@defect(*JUMP, "coupling.offset", "coupling.drift")
def slipped_zero(scene: Scene) -> None:
    """A joint's zero jumps in the middle and stays (a multi-turn slip): by 20 units, 45, 120."""
    joint = int(scene.rng.choice([PAN, LIFT, WRIST]))
    middle = len(scene.shot) // 2
    column = scene.shot.state[:, joint]
    column[middle:] += scene.pick(20.0, 45.0, 120.0) * (-1 if column[middle:].mean() > 0 else 1)


@defect("motion.jerk", "motion.teleport", "motion.state_frozen", "timing.")
def bus_retries(scene: Scene) -> None:
    """The bus loses replies: the state repeats for 4 frames and catches up in one, again and again; 8 frames;
    16."""
    hold = scene.pick(4, 8, 16)
    state = scene.shot.state
    row = 12
    while row < len(state) - hold:
        state[row : row + hold] = state[row]
        row += hold + int(scene.rng.integers(2, scene.pick(14, 10, 6)))
    if scene.shot.sidecar is not None:
        for line in scene.shot.sidecar[12:]:
            line["retries"] = int(scene.rng.integers(0, 1 + scene.pick(2, 4, 8)))


@defect("motion.jerk", "motion.shak", "motion.vibration")
def shaking(scene: Scene) -> None:
    """A loose horn or a wrong gain: a joint trembles by 2.5 units about its path, 5 units, all by 10."""
    state = scene.shot.motion.state.copy()
    joints = list(range(GRIPPER)) if scene.level == 2 else [int(scene.rng.choice([LIFT, WRIST, ROLL]))]
    beat = 2 * np.pi * scene.rng.uniform(5, 8) / FPS * np.arange(len(state))
    for joint in joints:
        strength = scene.pick(2.5, 5.0, 10.0) * scene.rng.uniform(0.7, 1, len(state))
        state[:, joint] += strength * np.sin(beat + joint)
    scene.shot.act(replace(scene.shot.motion, state=quantised(state)))


@defect("motion.none")
def no_motion(scene: Scene) -> None:
    """Nothing happens: a hand trembles at the leader, the encoder flickers, nothing at all."""
    rows = len(scene.shot)
    pose = scene.shot.motion.state[rows // 2]
    action = np.tile(pose, (rows, 1))
    if scene.level == 0:
        sway = np.cumsum(scene.rng.normal(0, 0.06, action.shape), axis=0)
        action = quantised(action + np.clip(sway - sway.mean(axis=0), -0.9, 0.9))
        state = follow(action, scene.rng, object_width=None, sag=0.6)
    else:
        flicker = scene.rng.integers(-1, 1, action.shape) * (scene.level == 1)
        state = quantised(action + COUNT * flicker)
    scene.shot.act(Motion(action, state, "none"))


@defect("motion.lead_in", trim=True)
def long_lead_in(scene: Scene) -> None:
    """The operator is not ready: nothing moves for the first 5.5 s, 8 s, 15 s."""
    seconds = scene.pick(5.5, 8.0, 15.0)
    action = synthesise(scene.rng, 8 + seconds, lead_in_s=seconds).action
    scene.shot.act(Motion(action, follow(action, scene.rng), "model"))


@defect("motion.tail", trim=True)
def long_tail(scene: Scene) -> None:
    """Forgotten to stop: nothing moves for the last 4 s, 8 s, 15 s."""
    motion = scene.shot.motion
    rest = round(scene.pick(4.0, 8.0, 15.0) * FPS)
    action = np.concatenate([motion.action, np.repeat(motion.action[-1:], rest, axis=0)])
    settle = motion.action[-1] + (motion.state[-1] - motion.action[-1]) * 0.7 ** np.arange(rest)[:, None]
    settle[6:] = settle[6]
    scene.shot.act(Motion(action, np.concatenate([motion.state, quantised(settle)]), motion.origin))
