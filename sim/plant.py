"""One arm, its table and its camera, advanced step by step by whoever owns it.

Single-threaded: the caller serialises all calls (rendering included), on one thread. The real-time
workstation and the lockstep rollouts drive the same class, so what a policy learns in one holds in the other.
"""

from functools import cache

import mujoco
import numpy as np

from sim.joints import CENTER, JOINTS, JointMap
from sim.kinematics import Kinematics
from sim.scene import CAMERA, TIMESTEP_S, build_model
from sim.servo import HOLDING_SHARE, ServoReading, current_raw, load_permille
from sim.tasks import COLORS, HALF, Judge, Scene

IMAGE_SIZE = 96
_REST_UNITS = np.array([0.0, -60.0, 60.0, 60.0, 0.0, 14.0])
_STORE = (1.5, -0.5)  # x and z of cubes that are not in the scene: out of sight, below the table


@cache
def _renderer(height: int, width: int) -> mujoco.Renderer:
    """One renderer per process and size; a second one that is opened before the first is closed gives garbage
    frames with software EGL, so all plants of a process must agree on the size."""
    renderer = mujoco.Renderer(build_model(), height, width)
    for flag in (
        mujoco.mjtRndFlag.mjRND_SHADOW,
        mujoco.mjtRndFlag.mjRND_REFLECTION,
        mujoco.mjtRndFlag.mjRND_SKYBOX,
    ):
        renderer.scene.flags[flag] = 0
    return renderer


class Plant:
    """Physics of one follower arm.

    Attributes:
        joints: The calibration that translates counts and units.
        torque: bool (6,): which servos are powered. Assign elements or use `set_torque`; an unpowered joint
            falls under gravity against its friction.
        scene: The scene of the last `reset` or `place`, None before.
    """

    def __init__(self, height: int = IMAGE_SIZE, width: int = IMAGE_SIZE) -> None:
        self.joints = JointMap()
        self.torque = np.ones(len(JOINTS), bool)
        self.scene: Scene | None = None
        self._size = (height, width)
        self._model = build_model()
        self._data = mujoco.MjData(self._model)
        self._qpos = np.array([self._model.joint(name).qposadr[0] for name in JOINTS])
        self._qvel = np.array([self._model.joint(name).dofadr[0] for name in JOINTS])
        self._cubes = {color: int(self._model.joint(color).qposadr[0]) for color in COLORS}
        self._tip = self._model.site("gripperframe").id
        self._time_owed = 0.0
        self._goal = self.joints.units_to_counts(_REST_UNITS)
        for color in COLORS:
            self._store(color)
        self._teleport(_REST_UNITS)

    # ---- scene

    def reset(self, scene: Scene, start_units: np.ndarray | None = None) -> np.ndarray:
        """Place the cubes and teleport the arm to the scene's start pose (or to `start_units`), torque on.

        Returns:
            The start pose, (6,) units.
        """
        self.place(scene)
        units = start_pose(scene) if start_units is None else np.asarray(start_units, np.float64)
        self.torque[:] = True
        self._teleport(units)
        return units

    def place(self, scene: Scene) -> None:
        """Place the cubes of a scene at rest and leave the arm as it is."""
        self.scene = scene
        for color in COLORS:
            self._store(color)
        for color, point, yaw in zip(scene.colors, scene.positions, scene.yaws, strict=True):
            at = self._cubes[color]
            self._data.qpos[at : at + 7] = [*point, HALF, np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]
        mujoco.mj_forward(self._model, self._data)

    def judge(self) -> Judge:
        """A new judge of the current scene.

        Raises:
            ValueError: No scene was placed yet.
        """
        if self.scene is None:
            raise ValueError("there is no scene to judge")
        return Judge(self.scene)

    def cubes(self) -> dict[str, np.ndarray]:
        """Centres of the scene's cubes, (3,) float64 in m."""
        colors = self.scene.colors if self.scene else ()
        return {color: self._data.qpos[self._cubes[color] :][:3].copy() for color in colors}

    def tip(self) -> np.ndarray:
        """The fingertip, (3,) float64 in m."""
        return self._data.site_xpos[self._tip].copy()

    # ---- servos

    def set_torque(self, index: int, on: bool) -> None:
        """Power one servo; a powered servo starts from where it is and then moves to its goal."""
        if on and not self.torque[index]:
            self._data.act[index] = self._data.qpos[self._qpos[index]]
        self.torque[index] = on

    def set_goal_units(self, units: np.ndarray) -> None:
        """Goal of all joints, (6,) units; clipped to the calibrated range."""
        self._goal = self._clip(self.joints.units_to_counts(units))

    def set_goal_counts(self, index: int, counts: int) -> None:
        """Goal of one servo; clipped to the calibrated range."""
        self._goal[index] = counts
        self._goal = self._clip(self._goal)

    def goal_counts(self, index: int) -> int:
        """The goal of one servo in force."""
        return int(self._goal[index])

    def goal_units(self) -> np.ndarray:
        """The goals in force, (6,) float64."""
        return self.joints.counts_to_units(self._goal)

    def position_counts(self, index: int) -> int:
        """Encoder of one servo."""
        return int(self.joints.radians_to_counts(self._data.qpos[self._qpos[index]]))

    def positions_units(self) -> np.ndarray:
        """What the driver would read now, (6,) float64 units, encoder steps included."""
        return self.joints.counts_to_units(self.joints.radians_to_counts(self._data.qpos[self._qpos]))

    def reading(self, index: int) -> ServoReading:
        """All feedback of one servo."""
        torque = float(self._data.actuator_force[index]) if self.torque[index] else 0.0
        velocity = np.asarray(self._data.qvel[self._qvel[index]])
        return ServoReading(
            self.position_counts(index),
            int(self.joints.radians_to_counts(velocity)) - CENTER,
            load_permille(torque),
            current_raw(torque),
        )

    # ---- time and sight

    def advance(self, seconds: float) -> None:
        """Advance the physics by whole steps of `TIMESTEP_S`; what is left over counts towards the next
        call."""
        self._time_owed += seconds
        steps = int(self._time_owed / TIMESTEP_S + 1e-9)
        self._time_owed -= steps * TIMESTEP_S
        if steps <= 0:
            return
        data, limp = self._data, np.flatnonzero(~self.torque)
        data.ctrl[:] = self.joints.counts_to_radians(self._goal)
        if not len(limp):
            self._carry()
            mujoco.mj_step(self._model, data, nstep=steps)
        else:
            for _ in range(steps):
                data.act[limp] = data.ctrl[limp] = data.qpos[self._qpos[limp]]
                self._carry()
                mujoco.mj_step(self._model, data)
        mujoco.mj_kinematics(self._model, data)
        for color in COLORS:
            if self.scene is None or color not in self.scene.colors:
                self._store(color)

    def render(self, camera: str = CAMERA) -> np.ndarray:
        """The camera's view, (height, width, 3) uint8 RGB."""
        renderer = _renderer(*self._size)
        renderer.update_scene(self._data, camera)
        return renderer.render()

    # ---- inside

    def _carry(self) -> None:
        """Let powered gear trains carry their share of gravity."""
        share = HOLDING_SHARE * self.torque
        self._data.qfrc_applied[self._qvel] = share * self._data.qfrc_bias[self._qvel]

    def _teleport(self, units: np.ndarray) -> None:
        data, radians = self._data, self.joints.units_to_radians(units)
        data.qpos[self._qpos] = data.act[:] = data.ctrl[:] = radians
        data.qvel[:] = 0
        data.qfrc_applied[:] = 0
        self._goal = self._clip(self.joints.radians_to_counts(radians))
        self._time_owed = 0.0
        mujoco.mj_forward(self._model, data)

    def _store(self, color: str) -> None:
        at, speed = self._cubes[color], self._model.joint(color).dofadr[0]
        self._data.qpos[at : at + 7] = [_STORE[0], COLORS.index(color) * 0.1, _STORE[1], 1, 0, 0, 0]
        self._data.qvel[speed : speed + 6] = 0

    def _clip(self, counts: np.ndarray) -> np.ndarray:
        return np.clip(counts, self.joints.range_min, self.joints.range_max)


def start_pose(scene: Scene) -> np.ndarray:
    """The arm's pose at the start of a scene, (6,) float64 units: gripper down, fingertip at
    `scene.start_tip`."""
    kinematics = Kinematics.shared()
    radians, _ = kinematics.solve(scene.start_tip, kinematics.guess(scene.start_tip))
    return JointMap().radians_to_units(radians)
