"""Where the corpus's motion comes from: real traces when they are at hand, else a model that imitates them.

All arrays are (T, 6) float64 in LeRobot's order of joints and in range units: -100..100, the gripper 0..100.
Published figures of real SO-101 teleoperation that the model keeps to (30 Hz): the follower trails the leader
by 4 to 5 frames, steps of at most 12 units in a frame, 20 to 60 % of frames repeat the state before exactly,
up to 4.6 s of standing still at the beginning, and the gripper's state several units above its action while
it holds something.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

FPS = 30
PAN, LIFT, ELBOW, WRIST, ROLL, GRIPPER = range(6)
LOW = np.array([-100.0, -100, -100, -100, -100, 0])
HIGH = np.full(6, 100.0)
COUNT = np.array([0.0785, 0.0868, 0.0907, 0.0874, 0.0521, 0.0674])
"""Range units per encoder count: 4096 counts a turn, over the calibrated range of a real SO-101."""
REST = np.array([-2.0, -98, 97, 74, -50, 2])


@dataclass(frozen=True)
class Motion:
    """A demonstration: what the leader asked for and where the follower was.

    Attributes:
        action, state: (T, 6) units, the follower already quantised to its encoder.
        origin: Where it comes from, for the ground truth.
    """

    action: np.ndarray
    state: np.ndarray
    origin: str

    def __len__(self) -> int:
        return len(self.action)

    def span(self, start: int, stop: int) -> "Motion":
        """The frames from start to stop."""
        return replace(self, action=self.action[start:stop].copy(), state=self.state[start:stop].copy())


def quantised(units: np.ndarray) -> np.ndarray:
    """To whole encoder counts, inside the range."""
    return np.clip(np.round(units / COUNT) * COUNT, LOW, HIGH)


def load_traces(path: Path) -> list[Motion]:
    """The episodes of a parquet file with episode_index, observation.state and action."""
    table = pq.read_table(path, columns=["episode_index", "observation.state", "action"])
    episodes = table["episode_index"].to_numpy()
    state = np.array(table["observation.state"].to_pylist(), float)
    action = np.array(table["action"].to_pylist(), float)
    return [
        Motion(action[episodes == e], state[episodes == e], f"trace {e}")
        for e in np.unique(episodes).tolist()
    ]


def vary(motion: Motion, rng: np.random.Generator) -> Motion:
    """Another person's take of a real trace: mirrored, stretched, scaled, cropped, with a tremor of its own.

    The stretch stays within 15 %, or the lag would leave what was measured.
    """
    action, state = motion.action.copy(), motion.state.copy()
    if rng.random() < 0.5:
        for joint in (PAN, ROLL):
            action[:, joint], state[:, joint] = -action[:, joint], -state[:, joint]
    scale = rng.uniform(0.82, 1.0, 6)
    shift = rng.uniform(-6, 6, 6) * [3, 0.5, 0.5, 1, 2, 0]
    centre = motion.state.mean(axis=0)
    for array in (action, state):
        array[:] = centre + (array - centre) * scale + shift
        array[:, GRIPPER] = np.maximum(array[:, GRIPPER], 0.6)
    length = len(action)
    stretched = int(length * rng.uniform(0.87, 1.15))
    wobble = rng.uniform(0.0, 0.03) * length / (2 * np.pi)
    ramp = np.linspace(0, 1, stretched)
    at = np.clip(ramp * (length - 1) + wobble * np.sin(2 * np.pi * ramp), 0, length - 1)
    action, state = (_resampled(array, at) for array in (action, state))
    longest = int(FPS * rng.uniform(9, 12))
    start = int(rng.integers(0, max(1, min(stretched - longest, 40))))
    action += _tremor(action, rng)
    cut = slice(start, start + longest)
    return Motion(
        np.clip(_held(action[cut], rng), LOW, HIGH), quantised(state[cut]), f"{motion.origin}, varied"
    )


def synthesise(
    rng: np.random.Generator, seconds: float = 10.0, pace: float = 1.0, lead_in_s: float | None = None
) -> Motion:
    """A pick and place by the motion model. `pace` above 1 is a faster person."""
    action = leader(rng, seconds, pace, lead_in_s)
    return Motion(action, follow(action, rng), "model")


def leader(
    rng: np.random.Generator, seconds: float, pace: float = 1.0, lead_in_s: float | None = None
) -> np.ndarray:
    """Goals of a person who takes something and puts it elsewhere: (T, 6)."""
    rest = REST + rng.normal(0, [4, 1, 1.5, 3, 6, 0.5])
    pick, place = _reach(rng, -1), _reach(rng, 1)
    if rng.random() < 0.5:
        pick[PAN], place[PAN] = place[PAN], pick[PAN]
    above, over = pick + np.array([0, -14, -6, 3, 0, 0]), place + np.array([0, -16, -5, 4, 0, 0])
    wide, shut = rng.uniform(28, 45), rng.uniform(1, 4)
    poses = [(rest, 0.0), (above, 1.3), (pick, 0.7), (pick, 0.6), (over, 1.2), (place, 0.6), (place, 0.5)]
    poses += [(over, 0.7), (rest, 1.4)]
    jaws = [shut, wide, wide, shut, shut, shut, wide * 0.8, wide * 0.8, shut]
    still = rng.uniform(0.2, 1.2) if lead_in_s is None else lead_in_s
    rows = [np.tile([*rest[:5], jaws[0]], (int(still * FPS), 1))]
    for (a, _), (b, duration), jaw_a, jaw_b in zip(poses, poses[1:], jaws, jaws[1:], strict=False):
        steps = max(6, int(duration / pace * rng.uniform(0.85, 1.3) * FPS))
        s = np.linspace(0, 1, steps, endpoint=False)
        blend = (10 * s**3 - 15 * s**4 + 6 * s**5)[:, None]
        rows.append(
            np.array([*a[:5], jaw_a]) * (1 - blend) + np.array([*b[:5], jaw_b]) * blend,
        )
        if rng.random() < 0.5:  # a person looks before going on
            rows.append(np.repeat(rows[-1][-1:], int(rng.uniform(0.1, 0.5) / pace * FPS), axis=0))
    action = np.concatenate(rows)
    frames = int(seconds * FPS)
    if len(action) < frames:
        action = np.concatenate([action, np.repeat(action[-1:], frames - len(action), axis=0)])
    action = action[:frames]
    return np.clip(_held(action + _tremor(action, rng), rng), LOW, HIGH)


def follow(
    action: np.ndarray,
    rng: np.random.Generator,
    delay: float = 2.6,
    time_constant: float = 1.8,
    sag: float = 1.5,
    object_width: float | None = 9.0,
    fps: float = FPS,
) -> np.ndarray:
    """The follower's answer to goals: dead time and inertia, gravity, play, an object in the jaws: (T, 6).

    Args:
        action: (T, 6) goals.
        rng: For this arm's own play.
        delay, time_constant: Frames at 30 Hz; together the 4 to 5 frames of lag.
        sag: Units by which shoulder and elbow hang below their goals when stretched out.
        object_width: Gripper units at which the jaws meet the object, until they put it down; None: nothing.
        fps: Rows per second.
    """
    scale = fps / FPS
    goals = _resampled(action, np.clip(np.arange(len(action)) - delay * scale, 0, len(action) - 1))
    stretch = np.clip((goals[:, LIFT] + 60) / 80, 0, 1)
    goals = goals + np.stack([0 * stretch, sag * stretch, 0.8 * sag * stretch, *[0 * stretch] * 3], axis=1)
    play = rng.uniform(0.15, 0.5, 6)
    gain = 1 - np.exp(-1 / (time_constant * scale))
    position, jaws_opened, holding, put_down = goals[0].copy(), False, False, False
    state = np.empty_like(goals)
    for row, goal in enumerate(goals):
        error = goal - position
        moving = np.abs(error) > play
        position = position + gain * np.where(moving, error - np.sign(error) * play * 0.5, 0)
        if object_width is not None:
            jaws_opened |= position[GRIPPER] > object_width + 8
            put_down |= holding and goal[GRIPPER] > object_width + 4
            holding = jaws_opened and not put_down and goal[GRIPPER] < object_width
            if holding:
                position[GRIPPER] = max(position[GRIPPER], object_width)
        state[row] = position
    return quantised(state)


def lag_frames(motion: Motion) -> float:
    """By how many frames the state trails the action: the shift of best correlated speeds, all joints."""
    a, s = np.diff(motion.action, axis=0), np.diff(motion.state, axis=0)
    score = [float((a[: len(a) - k] * s[k:]).sum()) for k in range(20)]
    return float(np.argmax(score))


def _reach(rng: np.random.Generator, side: int) -> np.ndarray:
    """A pose with the jaws at the table: what real arms have there."""
    lift = rng.uniform(-8, 10)
    return np.array(
        [
            side * rng.uniform(8, 32) - 10,
            lift,
            34 - 0.5 * lift + rng.uniform(-5, 5),
            40 + rng.uniform(-6, 6),
            -60 + rng.uniform(-12, 12),
            0,
        ]
    )


def _resampled(array: np.ndarray, at: np.ndarray) -> np.ndarray:
    grid = np.arange(len(array))
    return np.stack([np.interp(at, grid, column) for column in array.T], axis=1)


def _tremor(action: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A hand's unsteadiness: slow, and only while it moves something."""
    noise = np.zeros_like(action)
    for row in range(1, len(noise)):
        noise[row] = 0.9 * noise[row - 1] + rng.normal(0, 0.14, 6)
    speed = np.abs(np.diff(action, axis=0, prepend=action[:1]))
    moving = np.convolve(speed.max(axis=1), np.ones(9) / 9, mode="same")
    return noise * np.clip(moving / 0.4, 0, 1)[:, None]


def _held(action: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The leader's encoder: whole counts, and changes of under a count or two are not seen at all."""
    held = np.round(action / COUNT) * COUNT
    threshold = COUNT * rng.uniform(1.0, 2.5)
    for row in range(1, len(held)):
        small = np.abs(held[row] - held[row - 1]) < threshold
        held[row, small] = held[row - 1, small]
    return held
