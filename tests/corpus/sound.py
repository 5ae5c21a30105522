"""Sound episodes with something unusual about them. A gate that quarantines any of these is wrong."""

from dataclasses import replace

import cv2
import numpy as np

from .effects import brightness, each, smear, within
from .motion import FPS, GRIPPER, LIFT, REST, Motion, follow, leader, quantised, synthesise
from .registry import Scene, oddity
from .stage import CAMERAS, sidecar


def _modelled(scene: Scene, action: np.ndarray, **follower: float | None) -> None:
    scene.shot.act(Motion(action, follow(action, scene.rng, **follower), "model"))  # type: ignore[arg-type]


def _repaced(scene: Scene, fps: int) -> None:
    """The same demonstration at another rate."""
    motion = scene.shot.motion
    shot = scene.shot
    action = motion.action
    rows = int(len(action) * fps / FPS)
    at = np.linspace(0, len(action) - 1, rows)
    grid = np.arange(len(action))
    action = np.stack([np.interp(at, grid, column) for column in action.T], axis=1)
    shot.fps = fps
    shot.act(Motion(action, follow(action, scene.rng, fps=fps), "model"))


@oddity
def ordinary(scene: Scene) -> None:
    """Nothing unusual, recorded by armfleet."""
    scene.shot.sidecar = sidecar(len(scene.shot), scene.rng)


@oddity
def ordinary_imported(scene: Scene) -> None:
    """Nothing unusual, recorded by LeRobot's own tools: no sidecar."""
    scene.shot.sidecar = None


@oddity
def still_lead_in(scene: Scene) -> None:
    """Nothing moves for the first 4 s."""
    _modelled(scene, leader(scene.rng, 12, lead_in_s=4.0))


@oddity
def slow_person(scene: Scene) -> None:
    """Half the usual pace."""
    _modelled(scene, leader(scene.rng, 14, pace=0.5))


@oddity
def fast_person(scene: Scene) -> None:
    """More than twice the usual pace: up to 11 units in a frame."""
    action = leader(scene.rng, 8, pace=2.5)
    _modelled(scene, action)


@oddity
def holding(scene: Scene) -> None:
    """The jaws hold a thick object: their state stays 10 units above the action for seconds."""
    action = leader(scene.rng, 10)
    action[:, GRIPPER] = np.maximum(action[:, GRIPPER], 4)
    _modelled(scene, action, object_width=15.0)


@oddity
def pause(scene: Scene) -> None:
    """The operator thinks for 3 s in the middle, not moving at all."""
    motion = scene.shot.motion
    middle = len(motion) // 2
    hold = np.repeat(motion.action[middle : middle + 1], 3 * FPS, axis=0)
    _modelled(scene, np.concatenate([motion.action[:middle], hold, motion.action[middle:]]))


@oddity
def dim_light(scene: Scene) -> None:
    """A room with the blinds down: a third of the light, more noise."""
    scene.shot.rig = replace(scene.shot.rig, light=0.33, noise=4.5)
    scene.shot.stock = {}
    scene.history = True


@oddity
def flicker(scene: Scene) -> None:
    """A lamp that beats with the camera's rate: 8 % of brightness at 3 Hz."""
    scene.shot.film(brightness(lambda row: 1 + 0.08 * np.sin(row * 2 * np.pi * 3 / FPS)), *CAMERAS)


@oddity
def hand_in_view(scene: Scene) -> None:
    """A hand crosses the front camera for a second and hides most of the picture."""

    def change(image: np.ndarray, row: int) -> np.ndarray:
        shown = image.copy()
        centre = (int(-80 + (row - 120) * 14), 150)
        cv2.ellipse(shown, centre, (120, 90), 20, 0, 360, (206, 158, 130), -1, cv2.LINE_AA)
        return shown

    scene.shot.film(within(120, 156, change), "front")


@oddity
def gripper_only(scene: Scene) -> None:
    """Only the jaws move; the front camera shows next to nothing of it."""
    rows = 9 * FPS
    pose = REST + np.array([8, 30, -30, -20, 5, 2])
    action = np.tile(pose, (rows, 1))
    wave = 17 + 15 * np.sin(np.linspace(0, 6 * np.pi, rows - 60) - np.pi / 2)
    action[30:-30, GRIPPER] = wave
    action[:30, GRIPPER] = action[-30:, GRIPPER] = 2
    _modelled(scene, quantised(action), object_width=None, sag=1.0)


@oddity
def hesitation(scene: Scene) -> None:
    """Stop and go: three of five frames repeat the state before exactly."""
    motion = scene.shot.motion
    rows: list[int] = []
    for start in range(0, len(motion), 30):
        rows += [*range(start, min(start + 30, len(motion)))]
        rows += [rows[-1]] * int(scene.rng.integers(10, 35))
    _modelled(scene, motion.action[rows[: 13 * FPS]])


@oddity
def end_of_range(scene: Scene) -> None:
    """Two joints run to the end of their range and rest there."""
    motion = synthesise(scene.rng, 10)
    action = motion.action.copy()
    action[:, LIFT] = np.clip(action[:, LIFT] * 1.1 - 6, -100, 100)
    action[:, 2] = np.clip(action[:, 2] * 1.1 + 4, -100, 100)
    _modelled(scene, action)


@oddity
def careful_operator(scene: Scene) -> None:
    """Corrections back and forth before the grasp, small and quick."""
    action = leader(scene.rng, 11, pace=0.8)
    stretch = slice(80, 150)
    beat = np.linspace(0, 10 * np.pi, 70) * 1.0
    window = np.hanning(70)
    action[stretch, 0] += 4 * np.sin(beat) * window
    action[stretch, 3] += 3 * np.sin(beat * 1.3) * window
    _modelled(scene, np.clip(action, -100, 100))


@oddity
def short(scene: Scene) -> None:
    """A task that takes 2.5 s."""
    speed = np.abs(np.diff(scene.shot.motion.action, axis=0)).sum(axis=1)
    start = int(np.argmax(np.convolve(speed, np.ones(75), mode="valid")))
    scene.shot.act(scene.shot.motion.span(start, start + 75))


@oddity
def one_camera(scene: Scene) -> None:
    """A workstation with a front camera only."""
    scene.shot.keys = {"front": "front"}
    scene.shot.sidecar = None


@oddity
def fps_15(scene: Scene) -> None:
    """Recorded at 15 rows a second."""
    _repaced(scene, 15)


@oddity
def fps_50(scene: Scene) -> None:
    """Recorded at 50 rows a second."""
    _repaced(scene, 50)


@oddity
def large_pictures(scene: Scene) -> None:
    """480x640."""
    scene.shot.size, scene.shot.stock = (480, 640), {}


@oddity
def codec_av1(scene: Scene) -> None:
    """LeRobot's default codec."""
    scene.shot.codec, scene.shot.stock = "av1", {}


@oddity
def codec_mpeg4(scene: Scene) -> None:
    """An old codec."""
    scene.shot.codec, scene.shot.stock = "mpeg4", {}


@oddity
def restless_clock(scene: Scene) -> None:
    """A sidecar with small jitter: 1.5 ms, one period of 70 ms, a few bus retries, one repeated picture."""
    shot = scene.shot
    lines = sidecar(len(shot), scene.rng)
    late = np.abs(scene.rng.normal(0, 0.0015, len(lines)))
    late[len(lines) // 2] += 0.037
    before = lines[0]["wall"]
    for row, line in enumerate(lines[1:], 1):
        line["wall"], line["late"] = round(line["wall"] + float(late[row]), 6), round(float(late[row]), 6)
        line["period"], before = round(line["wall"] - before, 6), line["wall"]
        line["retries"] = int(scene.rng.random() < 0.02)
    picture = lines[len(lines) // 2]["cameras"]["front"]
    picture["repeat"], picture["age"] = True, 0.061
    shot.sidecar = lines


@oddity
def other_names(scene: Scene) -> None:
    """Other but valid names: of joints, of cameras, of the robot."""
    shot = scene.shot
    shot.keys = {"front": "cam_high", "wrist": "gripper_cam"}
    shot.names = [f"main_{joint}" for joint in ("pan", "lift", "elbow", "flex", "roll", "jaw")]
    shot.robot_type, shot.sidecar = "so100", None


@oddity
def other_language(scene: Scene) -> None:
    """A task outside of ASCII."""
    scene.shot.task = "把红色方块放进盒子里，然后回到原位 – schön vorsichtig"


@oddity
def similar_pair(scene: Scene) -> None:
    """Two demonstrations of the same task in the same scene: alike, but each acted anew."""
    action = leader(scene.rng, 9)
    _modelled(scene, action)
    rows = len(action)
    at = np.clip(np.arange(rows) + 5 * np.sin(np.arange(rows) / 37), 0, rows - 1)
    again = np.stack([np.interp(at, np.arange(rows), column) for column in action.T], axis=1)
    sway = np.cumsum(scene.rng.normal(0, 0.12, again.shape), axis=0)
    again[:, :GRIPPER] += (sway - sway.mean(axis=0))[:, :GRIPPER]
    other = replace(scene.shot, seed=scene.shot.seed + 1, stock={}, effects={}, after=[], sidecar=None)
    again = np.clip(again, -100, 100)
    other.act(Motion(again, follow(again, scene.rng), "model"))
    scene.more.append(other)


@oddity
def sagging(scene: Scene) -> None:
    """Gravity: shoulder and elbow hang 4 units below their goals when stretched out."""
    _modelled(scene, leader(scene.rng, 10), sag=4.0)


@oddity
def wrist_smeared(scene: Scene) -> None:
    """The wrist camera is blurred for 6 frames of fast motion."""
    speed = np.abs(np.diff(scene.shot.motion.state, axis=0)).sum(axis=1)
    start = int(np.argmax(np.convolve(speed, np.ones(6), mode="valid")))
    scene.shot.film(within(start, start + 6, smear(21)), "wrist")


@oddity
def auto_exposure(scene: Scene) -> None:
    """The camera's exposure drifts by a third in the course of the episode."""
    rows = len(scene.shot)
    scene.shot.film(brightness(lambda row: 0.85 + 0.4 * row / rows), "front")
    scene.shot.film(brightness(lambda row: 1.1 - 0.3 * row / rows), "wrist")
    scene.history = True


@oddity
def far_start(scene: Scene) -> None:
    """The leader is elsewhere when it begins: the follower starts 30 units off and catches up in a second."""
    action = leader(scene.rng, 10, lead_in_s=1.5)
    state = follow(action, scene.rng)
    way = np.clip(1 - np.arange(len(state)) / 26, 0, 1) ** 1.5
    state = state + way[:, None] * [-11, 27, -30, -36, 0, 0]
    scene.shot.act(Motion(action, quantised(state), "model"))


@oddity
def moved_camera(scene: Scene) -> None:
    """Somebody knocked against the front camera since the history was recorded; the lamp is warmer."""
    rig = scene.shot.rig
    eye = (rig.eye[0] + 0.04, rig.eye[1] - 0.03, rig.eye[2] + 0.02)
    scene.shot.rig, scene.shot.stock = replace(rig, eye=eye, target=(0.17, 0.02, 0.08)), {}
    warm = np.array([1.06, 1.0, 0.9])
    scene.shot.film(each(lambda image, row: np.clip(image * warm, 0, 255).astype(np.uint8)), *CAMERAS)
    scene.history = True


@oddity
def plain_table(scene: Scene) -> None:
    """A white sheet covers the table: little texture for the wrist camera to see."""
    rig = replace(scene.shot.rig, table=(226, 226, 222), wall=(232, 230, 226), seed=77)
    scene.shot.rig, scene.shot.stock = rig, {}
    scene.shot.film(
        each(lambda image, row: cv2.addWeighted(image, 0.7, np.full_like(image, 226), 0.3, 0)), *CAMERAS
    )


@oddity
def with_history(scene: Scene) -> None:
    """Nothing unusual, beside its workstation's history."""
    scene.history = True


@oddity
def in_degrees(scene: Scene) -> None:
    """Recorded in degrees, as LeRobot does by default for this arm: the wheel of the wrist reaches -150."""
    degrees = np.array([1.1, 1.0, 0.97, 0.95, 1.7, 1.0])
    scene.shot.state *= degrees
    scene.shot.action *= degrees
    scene.shot.sidecar = None


@oddity
def snapping_jaws(scene: Scene) -> None:
    """The operator snaps the jaws open and shut, 10 units in a frame."""
    action = leader(scene.rng, 9)
    wide = action[:, GRIPPER] > 15
    action[:, GRIPPER] = np.where(wide, 42.0, np.minimum(action[:, GRIPPER], 3.0))
    for edge in np.flatnonzero(np.diff(wide.astype(int))):
        before, after = action[max(edge - 2, 0), GRIPPER], action[min(edge + 4, len(action) - 1), GRIPPER]
        steps = np.linspace(before, after, 4)
        stop = min(edge + 3, len(action))
        action[edge - 1 : stop, GRIPPER] = steps[: stop - edge + 1]
    _modelled(scene, action)
