"""Rollouts in lockstep that go wrong, and what the scripted person shows who takes over then."""

from collections.abc import Callable

import numpy as np

from sim.expert import CONTROL_HZ, UnreachableError, plan
from sim.lockstep import (
    MAX_S,
    POLICY_HZ,
    QUEUE_THRESHOLD,
    SUBTICKS,
    Batch,
    Demonstration,
    LockstepArm,
    Predict,
)
from sim.tasks import PUSHES, Task, draw_scene

PATIENCE_S = 1.0
"""Without progress for so long, the person takes over. A demonstration is never without it for 0.5 s: the
longest is the way down behind the cube."""
PROGRESS_M = 0.005
"""Less is none."""


class Watch:
    """Progress as one who watches a push sees it: the fingertip comes nearer, or the cube goes its way.

    Args:
        arm: Looked at when `stalled` is asked, at `POLICY_HZ`.
    """

    def __init__(self, arm: LockstepArm) -> None:
        self._arm, task = arm, arm.judge.scene.task
        self._color, self._ahead = task.color, np.array(PUSHES[task.verb])
        self._begin = arm.plant.cubes()[task.color][:2]
        self._best, self._since = -np.inf, 0

    def stalled(self) -> bool:
        """There was none for PATIENCE_S."""
        cube = self._arm.plant.cubes()[self._color]
        pushed = float((cube[:2] - self._begin) @ self._ahead)
        progress = pushed - float(np.linalg.norm(self._arm.plant.tip() - cube))
        self._since += 1
        if progress > self._best + PROGRESS_M:
            self._best, self._since = progress, 0
        return self._since >= PATIENCE_S * POLICY_HZ


def gone_wrong(predict: Predict, arm: LockstepArm, latency: int) -> bool:
    """Let the policy act until it has done the task (False), or a person would take over (True).

    Args:
        predict: The policy.
        arm: In its scene.
        latency: Control ticks that inference takes.
    """
    batch, watch = Batch(predict, [arm], latency, QUEUE_THRESHOLD), Watch(arm)
    for tick in range(round(MAX_S * CONTROL_HZ)):
        batch.tick(tick)
        if tick % SUBTICKS == SUBTICKS - 1:
            batch.judge()
            if not batch.arms:
                return False
            if watch.stalled():
                return True
    return True


def taken_over(arm: LockstepArm, rng: np.random.Generator) -> Demonstration:
    """The scripted person does the task from where the arm and the cubes are now.

    Raises:
        UnreachableError: the person's path leaves the arm's reach.
    """
    actions = plan(arm.plant, arm.judge.scene.task, rng)
    images, states = [], []
    for tick, goal in enumerate(actions):
        seen = arm.observe()
        images.append(seen["image"])
        states.append(seen["state"])
        arm.tick(goal)
        if tick % SUBTICKS == SUBTICKS - 1:
            arm.judged()
    return Demonstration(
        np.array(images),
        np.arange(len(actions)),
        np.array(states, np.float32),
        actions.astype(np.float32),
        arm.judge.ever_success,
    )


def interventions(
    predict: Predict,
    task: Task,
    first_scene: int,
    wanted: int,
    most: int,
    latency: int,
    done: Callable[[], None],
) -> tuple[list[Demonstration], int]:
    """Takeovers that led to success, from scene after scene, and how many rollouts that took.

    Args:
        predict: The policy.
        task: A push.
        first_scene: Seed of the first scene; each rollout has the next one.
        wanted: Interventions.
        most: Rollouts; fewer interventions come out if these are not enough.
        latency: Control ticks that inference takes.
        done: Called after each intervention.
    """
    found = list[Demonstration]()
    for number in range(most):
        if len(found) == wanted:
            return found, number
        arm = LockstepArm(draw_scene(first_scene + number, task))
        if not gone_wrong(predict, arm, latency):
            continue
        try:
            shown = taken_over(arm, np.random.default_rng(first_scene + number))
        except UnreachableError:
            continue
        if shown.success:  # what fails is thrown away, as a person would
            found.append(shown)
            done()
    return found, most
