"""The arm at its table as a Gymnasium environment that stock `lerobot-eval` takes.

    lerobot-eval --policy.path=exported --env.discover_packages_path=sim.environment \\
        --env.type=so100_table --env.task=push_left_red --seed=500000 --eval.n_episodes=60 --eval.batch_size=8

Importing this module registers the environment with Gymnasium and its configuration with LeRobot. Scene,
arm, camera and judge are those of the coordinator's evaluation; a seed is a scene. The clock is not: LeRobot
lets the world stand still while the policy thinks and executes each chunk on its own, where the evaluation
has inference take its time and joins the chunks (`sim.lockstep`). So rates are near, not equal.
"""

from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE

from sim.joints import JOINTS
from sim.lockstep import MAX_S, POLICY_HZ, SUBTICKS, Interpolator, LockstepArm
from sim.plant import IMAGE_SIZE
from sim.scene import CAMERA
from sim.tasks import Task, draw_scene

TYPE = "so100_table"
GYM_ID = "armfleet/SO100Table-v0"
IMAGE_SHAPE = (IMAGE_SIZE, IMAGE_SIZE, 3)


class TableEnv(gym.Env[dict[str, Any], np.ndarray]):
    """One task; a step is one action of the policy, 0.1 s.

    Observation: pixels.front (96, 96, 3) uint8 RGB as a camera's frame arrives, agent_pos (6,) float32 units
    (degrees, gripper 0..100). Action: (6,) float32 goals in the same units. Reward: 1 in the step in which
    the task is done, which ends the episode, else 0; `info["is_success"]` says the same.

    Args:
        task: Verb and colour as in results, `push_left_red`.

    Raises:
        ValueError: there is no such task.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": POLICY_HZ}  # noqa: RUF012 (Gymnasium's own form)
    render_mode = "rgb_array"

    def __init__(self, task: str) -> None:
        verb, _, color = task.rpartition("_")
        self._task = Task(verb, color)
        self.task, self.task_description = task, self._task.text
        self.observation_space = gym.spaces.Dict(
            {
                "pixels": gym.spaces.Dict({CAMERA: gym.spaces.Box(0, 255, IMAGE_SHAPE, np.uint8)}),
                "agent_pos": gym.spaces.Box(-np.inf, np.inf, (len(JOINTS),), np.float32),
            }
        )
        self.action_space = gym.spaces.Box(-np.inf, np.inf, (len(JOINTS),), np.float32)
        self._arm: LockstepArm | None = None
        self._interpolator = Interpolator()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Lay out the scene of `seed`, the same as anywhere else; None: any scene."""
        super().reset(seed=seed)
        scene = int(self.np_random.integers(2**31)) if seed is None else seed
        self._arm, self._interpolator = LockstepArm(draw_scene(scene, self._task)), Interpolator()
        return self._observation(self._arm), {"is_success": False}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Move towards `action`, in three control ticks as `ActionInterpolator` has them."""
        assert self._arm is not None, "reset comes before step"
        self._interpolator.add(np.asarray(action, np.float64)[None])
        for _ in range(SUBTICKS):
            goal = self._interpolator.get()
            self._arm.tick(None if goal is None else goal[0])
        done = self._arm.judged()
        return self._observation(self._arm), float(done), done, False, {"is_success": done}

    def render(self) -> np.ndarray:
        """The camera's view, (96, 96, 3) uint8 RGB, for LeRobot's videos."""
        assert self._arm is not None, "reset comes before render"
        return self._arm.plant.render()

    @staticmethod
    def _observation(arm: LockstepArm) -> dict[str, Any]:
        seen = arm.observe()
        return {"pixels": {CAMERA: seen["image"]}, "agent_pos": seen["state"]}


gym.register(GYM_ID, entry_point=f"{__name__}:TableEnv")


@EnvConfig.register_subclass(TYPE)
@dataclass
class TableEnvConfig(EnvConfig):
    """`--env.type=so100_table`."""

    task: str | None = "push_left_red"
    fps: int = POLICY_HZ
    max_s: float = MAX_S
    """Simulated seconds after which an episode has failed."""
    features: dict[str, PolicyFeature] = field(
        default_factory=lambda: {
            ACTION: PolicyFeature(FeatureType.ACTION, (len(JOINTS),)),
            "agent_pos": PolicyFeature(FeatureType.STATE, (len(JOINTS),)),
            f"{OBS_IMAGES}.{CAMERA}": PolicyFeature(FeatureType.VISUAL, IMAGE_SHAPE),
        }
    )
    features_map: dict[str, str] = field(
        default_factory=lambda: {
            ACTION: ACTION,
            "agent_pos": OBS_STATE,
            f"{OBS_IMAGES}.{CAMERA}": f"{OBS_IMAGES}.{CAMERA}",
        }
    )

    @property
    def gym_id(self) -> str:
        """As registered above."""
        return GYM_ID

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        """For `gymnasium.make`, which ends an episode after `max_episode_steps`."""
        return {"task": self.task, "max_episode_steps": round(self.max_s * self.fps)}
