"""Sound episodes as plain arrays: a hand that leads from pose to pose, an arm that trails it, two cameras.

The arm follows as a real SO-101 does: 130 ms late, encoder steps, a sag where weight pulls.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from agent.episodes.dataset import EpisodeData, Layout
from agent.episodes.footage import THUMBNAIL, Video
from agent.robot.joints import POSITION_KEYS

FPS = 30
ENCODER = 360 / 4096
LOW = np.array([-40, -80, 10, 20, -70, 2.0])
HIGH = np.array([40, 10, 95, 80, -30, 45.0])
SAG = np.array([0, 1.2, -1.8, 0.5, 0, 0])
LAG_S = 4 / 30


def leader(seconds=8.0, fps=FPS, seed=0, slowness=1.0):
    """(T, 6) goals: minimum-jerk moves between poses, with short pauses."""
    rng = np.random.default_rng(seed)
    pose = rng.uniform(LOW, HIGH)
    parts = [np.repeat(pose[None], round(0.3 * fps), axis=0)]
    while sum(map(len, parts)) < seconds * fps + fps:
        goal = rng.uniform(LOW, HIGH)
        frames = round(rng.uniform(0.8, 1.6) * fps * slowness)
        t = np.linspace(0, 1, frames)[:, None]
        parts.append(pose + (goal - pose) * (10 * t**3 - 15 * t**4 + 6 * t**5))
        parts.append(np.repeat(goal[None], round(rng.uniform(0.05, 0.3) * fps), axis=0))
        pose = goal
    return np.concatenate(parts)


def motion(seconds=8.0, fps=FPS, seed=0, slowness=1.0, lag_s=LAG_S):
    """(state, action), (T, 6) each."""
    return answer(leader(seconds, fps, seed, slowness)[: round(seconds * fps)], fps, lag_s)


def answer(action, fps=FPS, lag_s=LAG_S):
    """What an arm makes of goals: (state, action), in encoder steps."""
    late = np.arange(len(action)) - lag_s * fps
    state = np.stack([np.interp(late, np.arange(len(action)), action[:, j]) for j in range(6)], axis=1)
    state = np.round((state + SAG) / ENCODER) * ENCODER
    action = np.round(action / ENCODER) * ENCODER
    return state.astype(np.float32), action.astype(np.float32)


def texture(seed, size=(THUMBNAIL, THUMBNAIL), cell=8):
    """A grey picture with edges."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(70, 200, (-(-size[0] // cell), -(-size[1] // cell)))
    return np.kron(cells, np.ones((cell, cell)))[: size[0], : size[1]]


def front(state, seed=1, gain=1.0):
    """A table, and the arm as a bright bar with a gripper at its end."""
    grid = np.stack(np.mgrid[0:THUMBNAIL, 0:THUMBNAIL], axis=-1).astype(np.float64)
    angle = np.radians(state[:, 0] * 0.8)
    reach = 22 + 0.15 * (state[:, 1] - state[:, 2] / 2 + 40) + 0.04 * state[:, 3]
    tip = np.stack([58 - reach * np.cos(angle), 32 + reach * np.sin(angle)], axis=1)
    base = np.array([60.0, 32.0])
    along = tip - base
    share = np.clip(
        ((grid[None] - base) * along[:, None, None]).sum(-1) / (along**2).sum(-1)[:, None, None], 0, 1
    )
    distance = np.linalg.norm(grid[None] - base - share[..., None] * along[:, None, None], axis=-1)
    width = 2.5 + state[:, 5, None, None] / 20 * (share > 0.8)
    pictures = np.where(distance < width, 235.0, texture(seed)[None])
    return camera(pictures, seed, gain)


def wrist(state, seed=2, gain=1.0):
    """What lies before the hand: the texture moves with pan, lift and wrist."""
    scene = texture(seed, (256, 256), 12)
    rows = np.clip(96 + 0.6 * (state[:, 1] + state[:, 3]), 0, 191).astype(int)
    columns = np.clip(96 + 1.0 * state[:, 0] + 0.5 * state[:, 4], 0, 191).astype(int)
    pictures = np.stack(
        [scene[r : r + THUMBNAIL, c : c + THUMBNAIL] for r, c in zip(rows, columns, strict=True)]
    )
    return camera(pictures, seed, gain)


def camera(pictures, seed, gain=1.0, tint=(4.0, -6.0)):
    """Sensor noise, and what the reader keeps of a video."""
    rng = np.random.default_rng(seed)
    noisy = pictures * gain + rng.normal(0, 1.2, pictures.shape)
    frames = len(pictures)
    shown = sorted({round((frames - 1) * (i + 0.5) / 12) for i in range(12)})
    full = np.kron(texture(seed), np.ones((4, 5))) * gain
    return Video(
        frames=frames,
        thumbnails=np.clip(noisy, 0, 255).astype(np.uint8),
        size=(256, 320),
        declared=(256, 320),
        stamps=np.arange(frames) / FPS,
        samples=tuple(np.clip(full + rng.normal(0, 3, full.shape), 0, 255).astype(np.uint8) for _ in shown),
        sample_frames=tuple(shown),
        tint=np.ones((2, 16, 16)) * np.reshape(tint, (2, 1, 1)),
    )


def sidecar(rows, fps=FPS):
    """Real timing with a little scatter."""
    rng = np.random.default_rng(7)
    wall = 1000 + np.arange(rows) / fps + rng.normal(0, 0.001, rows)
    return [
        {
            "frame": i,
            "wall": float(wall[i]),
            "retries": 0,
            "cameras": {
                name: {"stamp": float(wall[i] - 0.02), "age": 0.02, "repeat": False}
                for name in ("front", "wrist")
            },
        }
        for i in range(rows)
    ]


def sound(seconds=8.0, seed=0, slowness=1.0, **changes):
    """A sound episode; keyword arguments replace fields."""
    state, action = motion(seconds, FPS, seed, slowness)
    return of(state, action, **changes)


def of(state, action, **changes):
    """An episode of given motion, seen by both cameras."""
    rows = len(state)
    counters = {
        "frame_index": np.arange(rows),
        "index": np.arange(rows),
        "episode_index": np.zeros(rows, np.int64),
        "task_index": np.zeros(rows, np.int64),
    }
    stats = {
        (name, kind): getattr(array.astype(np.float64), kind)(axis=0)
        for name, array in (("observation.state", state), ("action", action))
        for kind in ("min", "max", "mean")
    }
    base = EpisodeData(
        path=Path("x"),
        index=0,
        task="push the red cube to the left",
        fps=FPS,
        state=state,
        action=action,
        timestamps=np.arange(rows) / FPS,
        declared_frames=rows,
        videos={},
        sidecar=sidecar(rows),
        names=POSITION_KEYS,
        action_names=POSITION_KEYS,
        robot_type="so_follower",
        tasks=("push the red cube to the left",),
        layout=Layout(
            counters=counters,
            from_index=0,
            to_index=rows,
            shapes={"observation.state": 6, "action": 6},
            stats=stats,
            totals={"total_frames": (rows, rows)},
            spans={"front": rows / FPS, "wrist": rows / FPS},
            known_tasks=frozenset({0}),
        ),
    )
    if "videos" not in changes:
        changes["videos"] = {"front": front(state), "wrist": wrist(state)}
    return replace(base, **changes)


def edited(array, index, value):
    """A copy with `value` at `index`."""
    copy = array.copy()
    copy[index] = value
    return copy


def moved(array, index, by):
    """A copy with `by` added at `index`."""
    copy = array.copy()
    copy[index] += by
    return copy
