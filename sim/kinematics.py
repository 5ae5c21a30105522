"""Where the fingertip is for a pose, and which pose brings it somewhere with the gripper pointing down."""

from functools import cache

import mujoco
import numpy as np

from sim.joints import JOINTS
from sim.scene import build_model

GRIP_RADIANS = 0.1  # nearly closed, as for every task here
SHOULDER_X = 0.0388  # m; the pan axis in the base frame
_DOWN = np.pi / 2  # lift + elbow + wrist of a gripper that points down
_TOLERANCE_M = 3e-4
_MAX_ITERATIONS = 80
_MARGIN = 0.02


class Kinematics:
    """Forward and inverse kinematics on private data; not thread-safe."""

    def __init__(self) -> None:
        self._model = build_model()
        self._data = mujoco.MjData(self._model)
        self._qpos = np.array([self._model.joint(name).qposadr[0] for name in JOINTS])
        self._dof = np.array([self._model.joint(name).dofadr[0] for name in JOINTS])
        self._site = self._model.site("gripperframe").id
        self._low, self._high = self._model.actuator_ctrlrange.T
        self._jacobian = np.zeros((3, self._model.nv))

    @classmethod
    @cache
    def shared(cls) -> "Kinematics":
        """The process's instance."""
        return cls()

    def tip(self, radians: np.ndarray) -> np.ndarray:
        """The fingertip for joint angles (6,), (3,) float64 in m."""
        self._data.qpos[self._qpos] = radians
        mujoco.mj_kinematics(self._model, self._data)
        return self._data.site_xpos[self._site].copy()

    def guess(self, target: np.ndarray) -> np.ndarray:
        """A pose above the table from which `solve` converges for any target in reach."""
        pan = -np.arctan2(target[1], target[0] - SHOULDER_X)
        return np.array([pan, -0.5, 0.6, 1.47, 0.0, GRIP_RADIANS])

    def solve(self, target: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, float]:
        """Damped least squares over pan, lift and elbow, with the wrist kept vertical.

        Returns:
            Joint angles (6,) float64 (roll and gripper as in `start`), and the remaining distance in m.
        """
        pose = np.array(start, np.float64)
        distance = np.inf
        for _ in range(_MAX_ITERATIONS):
            pose[3], saturated = self._wrist(pose)
            error = target - self.tip(pose)
            distance = float(np.linalg.norm(error))
            if distance < _TOLERANCE_M:
                break
            pose[:3] = np.clip(pose[:3] + self._step(error, saturated), self._low[:3], self._high[:3])
        pose[3], _ = self._wrist(pose)
        return pose, distance

    def _wrist(self, pose: np.ndarray) -> tuple[float, bool]:
        limit = self._high[3] - _MARGIN
        wanted = _DOWN - pose[1] - pose[2]
        return min(wanted, limit), bool(wanted > limit)

    def _step(self, error: np.ndarray, saturated: bool) -> np.ndarray:
        mujoco.mj_comPos(self._model, self._data)
        mujoco.mj_jacSite(self._model, self._data, self._jacobian, None, self._site)
        jacobian = self._jacobian[:, self._dof[:3]].copy()
        if not saturated:
            jacobian[:, 1:] -= self._jacobian[:, self._dof[3:4]]  # the wrist moves against lift and elbow
        step = np.linalg.solve(jacobian.T @ jacobian + 1e-6 * np.eye(3), jacobian.T @ error)
        return np.clip(step, -0.3, 0.3)
