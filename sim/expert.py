"""The scripted person: where somebody who knows the task moves the *leader* arm, thirty times a second.

A plan is a path of the fingertip through a few way points at about 0.2 m/s, turned into joint positions by
inverse kinematics. Two plans of one scene differ as two tries of a person do: speed, heights, a bow in the
path, the point of contact, and now and then a small detour that is corrected. That spread, with the
follower's lag, is all the variety a station's demonstrations have.
"""

from dataclasses import dataclass

import numpy as np

from sim.joints import JointMap
from sim.kinematics import GRIP_RADIANS, Kinematics
from sim.plant import Plant
from sim.tasks import HALF, PUSHES, Task

CONTROL_HZ = 30
UNREACHED_M = 0.004
"""A plan whose inverse kinematics misses by more than this is not one a person would try."""

_SMOOTHING = 5  # ticks; corners of the path are rounded as an arm's inertia would
_HOLD_S = 0.4  # the person waits for the follower at the end
_PUSH_HEIGHT = 0.018
_PUSH_BEHIND = 0.048  # m behind the cube's centre where a push starts
_PUSH_BEYOND = 0.038  # m past the cube's first centre where it ends


@dataclass(frozen=True)
class Habits:
    """How much tries of one person differ; lengths are standard deviations in m."""

    speed: tuple[float, float] = (0.17, 0.23)  # m/s, uniform
    heights: tuple[float, float] = (0.072, 0.09)  # m, uniform: travel height
    contact: float = 0.002
    bow: float = 0.006
    detour_chance: float = 0.4
    detour: float = 0.012


HUMAN = Habits()


class UnreachableError(ValueError):
    """The plan leaves the arm's reach; draw another scene."""


def plan(
    plant: Plant,
    task: Task,
    rng: np.random.Generator,
    habits: Habits = HUMAN,
    start: np.ndarray | None = None,
) -> np.ndarray:
    """Leader positions for one demonstration.

    Args:
        plant: Where the cubes are now; it is only read.
        start: Pose to start from, (6,) units; the plant's position if None.

    Returns:
        (T, 6) float64 units at `CONTROL_HZ`.

    Raises:
        UnreachableError: A point of the path is out of reach.
    """
    joints, kinematics = JointMap(), Kinematics.shared()
    pose = joints.units_to_radians(plant.positions_units() if start is None else start)
    tip = kinematics.tip(pose)
    path = _path(tip, _waypoints(tip, plant.cubes()[task.color], task, rng, habits), rng, habits)
    pose[4] = 0.0
    poses = np.empty((len(path), 6))
    for index, point in enumerate(path):
        pose, missed = kinematics.solve(point, pose)
        if missed > UNREACHED_M:
            raise UnreachableError(f"{np.round(point, 3)} m is out of reach by {missed * 1e3:.0f} mm")
        poses[index] = pose
    poses[:, 5] = GRIP_RADIANS
    return joints.radians_to_units(poses)


def _waypoints(
    tip: np.ndarray, cube: np.ndarray, task: Task, rng: np.random.Generator, habits: Habits
) -> list[np.ndarray]:
    """Points the fingertip passes, (3,) in m, the start left out."""
    high = rng.uniform(*habits.heights)
    center = cube[:2] + rng.normal(0, habits.contact, 2)
    if task.verb == "hover":
        points = [np.array([*center, 0.085 + rng.normal(0, 0.003)])]
    elif task.verb == "touch":
        points = [np.array([*center, high]), np.array([*center, 2 * HALF + 0.006])]
    else:
        ahead = np.array(PUSHES[task.verb])
        begin, end = center - ahead * (_PUSH_BEHIND + rng.uniform(0, 0.006)), center + ahead * _PUSH_BEYOND
        low = _PUSH_HEIGHT + rng.uniform(-0.002, 0.004)
        points = [np.array([*begin, high]), np.array([*begin, low]), np.array([*end, low])]
    if rng.random() < habits.detour_chance:
        points.insert(0, tip + rng.uniform(0.3, 0.8) * (points[0] - tip) + rng.normal(0, habits.detour, 3))
    return points


def _path(
    tip: np.ndarray, waypoints: list[np.ndarray], rng: np.random.Generator, habits: Habits
) -> np.ndarray:
    """(T, 3) fingertip positions in m at `CONTROL_HZ`: constant speed, rounded corners, the approach a little
    bowed."""
    step = rng.uniform(*habits.speed) / CONTROL_HZ
    side = rng.normal(0, habits.bow, 3)
    points, here = [tip], tip
    for index, target in enumerate(waypoints):
        count = max(1, int(np.ceil(np.linalg.norm(target - here) / step)))
        shares = np.arange(1, count + 1)[:, None] / count
        leg = here + shares * (target - here)
        if index == 0:
            leg = leg + np.sin(np.pi * shares) * side
        points.extend(leg)
        here = target
    points.extend([here] * round(_HOLD_S * CONTROL_HZ))
    half = _SMOOTHING // 2
    padded = np.pad(np.array(points), ((half, half), (0, 0)), mode="edge")
    return np.stack(
        [np.convolve(padded[:, axis], np.ones(_SMOOTHING) / _SMOOTHING, "valid") for axis in range(3)], 1
    )
