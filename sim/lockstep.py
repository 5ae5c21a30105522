"""Rollouts and demonstrations without a clock: the same arm as the workstation's, as fast as the computer
allows.

A rollout imitates what the arm's process does with `lerobot.rollout`: control at 30 Hz, a policy action every
third tick through `ActionInterpolator(multiplier=3)`, and `RTCInferenceEngine` with its `ActionQueue` beside
it. A chunk is requested on the observation of the tick in which at most `queue_threshold` actions are left,
arrives `latency` control ticks later, and replaces the queue without the actions whose time has come: one
for each policy tick that has begun, as LeRobot counts them.
Nothing is executed before the first chunk arrives. All arms of a batch share that schedule, so one call of
the policy serves them all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from sim.cameras import as_received
from sim.expert import CONTROL_HZ, HUMAN, Habits, plan
from sim.plant import Plant
from sim.tasks import Scene, Task, draw_scene

POLICY_HZ = 10
SUBTICKS = CONTROL_HZ // POLICY_HZ
CHUNK = 8
QUEUE_THRESHOLD = 4
"""Half a chunk: three actions of each chunk are executed when the delay is one tick."""
MAX_S = 6.0

Observation = dict[str, object]
"""state (6,) float32 units, image (96, 96, 3) uint8 RGB, task str."""
Predict = Callable[[list[Observation], int, np.ndarray | None], tuple[np.ndarray, np.ndarray]]
"""(observations, inference delay in policy ticks, previous chunks from the action being executed on
(B, T, A) | None) -> chunks (B, T, A) as the policy normalises them, chunks (B, T, 6) in units."""


@dataclass(frozen=True)
class RolloutResult:
    """One rollout.

    Attributes:
        success: The judge's `ever_success`.
        steps: Policy ticks until success or the time limit.
        frames: The camera at `POLICY_HZ`, or None if they were not asked for.
    """

    success: bool
    steps: int
    frames: list[np.ndarray] | None = None


@dataclass
class ChunkQueue:
    """`ActionQueue` with RTC enabled, for many arms in step. Arrays are (B, T, ...) and the index is
    shared."""

    original: np.ndarray | None = None
    processed: np.ndarray | None = None
    index: int = 0

    def __len__(self) -> int:
        return 0 if self.processed is None else self.processed.shape[1] - self.index

    def pop(self) -> np.ndarray | None:
        """The next action of every arm, (B, 6), or None if the queue is empty."""
        if self.processed is None or not len(self):
            return None
        self.index += 1
        return self.processed[:, self.index - 1]

    def running(self) -> np.ndarray | None:
        """The action being executed and those after it, as the policy normalises them, (B, T, A).

        The first belongs to the present instant, as a chunk's first action does to its observation's;
        `ActionQueue.get_left_over` begins one later. Before the first `pop` after a `replace` an action of
        the old chunk is executed still: the new chunk's for the same instant stands for it.
        """
        return None if self.original is None else self.original[:, max(self.index - 1, 0) :]

    def replace(self, original: np.ndarray, processed: np.ndarray, delay: int) -> None:
        """Take a new chunk, less the actions whose time passed during inference."""
        self.original, self.processed = original, processed
        self.index = min(max(delay, 0), processed.shape[1])

    def keep(self, rows: np.ndarray) -> None:
        """Drop the arms that are done."""
        if self.original is not None and self.processed is not None:
            self.original, self.processed = self.original[rows], self.processed[rows]


@dataclass
class Interpolator:
    """`ActionInterpolator`, for many arms in step: the first action at once, later ones in `SUBTICKS`
    steps."""

    _previous: np.ndarray | None = None
    _pending: list[np.ndarray] = field(default_factory=list)

    def needs_action(self) -> bool:
        """True if the next policy action is due."""
        return not self._pending

    def add(self, action: np.ndarray) -> None:
        """Queue the way from the previous action to this one, (B, 6) units."""
        if self._previous is None:
            self._pending = [action]
        else:
            way = action - self._previous
            self._pending = [self._previous + way * share / SUBTICKS for share in range(1, SUBTICKS + 1)]
        self._previous = action

    def get(self) -> np.ndarray | None:
        """The goals of this control tick, or None."""
        return self._pending.pop(0) if self._pending else None

    def keep(self, rows: np.ndarray) -> None:
        """Drop the arms that are done."""
        self._pending = [goal[rows] for goal in self._pending]
        self._previous = None if self._previous is None else self._previous[rows]


class LockstepArm:
    """One arm in a scene, its camera as the arm's process receives it, and its judge.

    Attributes:
        frames: Whatever the caller keeps of the camera.
        judgements: How often the judge was asked, hence the policy ticks so far.
    """

    def __init__(self, scene: Scene) -> None:
        self.plant = Plant()
        self.plant.reset(scene)
        self.judge = self.plant.judge()
        self.task_text = scene.task.text
        self.frames: list[np.ndarray] = []
        self.judgements = 0

    def observe(self) -> Observation:
        """What the policy gets in this tick."""
        return {
            "state": self.plant.positions_units().astype(np.float32),
            "image": as_received(self.plant.render()),
            "task": self.task_text,
        }

    def tick(self, goal: np.ndarray | None) -> None:
        """One control tick; without a goal the servos hold the last one."""
        if goal is not None:
            self.plant.set_goal_units(goal)
        self.plant.advance(1 / CONTROL_HZ)

    def judged(self) -> bool:
        """Judge the present instant (call at `POLICY_HZ`); True once the task was done."""
        self.judgements += 1
        return self.judge.update(self.plant.cubes(), self.plant.tip())


class Batch:
    """Arms that share one schedule; those that are done leave it.

    Args:
        predict: The policy.
        arms: In their scenes.
        latency: Control ticks that inference takes.
        threshold: Actions left at which the next chunk is asked for.
    """

    def __init__(self, predict: Predict, arms: list[LockstepArm], latency: int, threshold: int) -> None:
        self.arms = arms
        self._predict, self._latency, self._threshold = predict, latency, threshold
        self._delay = -(-latency // SUBTICKS)
        self._queue, self._interpolator = ChunkQueue(), Interpolator()
        self._arrives = 0
        self._on_the_way: tuple[np.ndarray, np.ndarray] | None = None
        self._asked_before = False

    def tick(self, tick: int) -> None:
        """One control tick: take an arrived chunk, choose the goals, ask for the next chunk, move."""
        if self._on_the_way is not None and tick >= self._arrives:
            self._queue.replace(*self._on_the_way, self._delay)
            self._on_the_way = None
        if self._interpolator.needs_action() and (action := self._queue.pop()) is not None:
            self._interpolator.add(action)
        goals = self._interpolator.get()
        if self._on_the_way is None and len(self._queue) <= self._threshold:
            self._ask(tick)
        for row, arm in enumerate(self.arms):
            arm.tick(None if goals is None else goals[row])

    def judge(self) -> None:
        """Let arms go whose task is done."""
        going = np.array([not arm.judged() for arm in self.arms], bool)
        if going.all():
            return
        self.arms = [arm for arm, goes in zip(self.arms, going, strict=True) if goes]
        self._queue.keep(going)
        self._interpolator.keep(going)
        if self._on_the_way is not None:
            original, processed = self._on_the_way
            self._on_the_way = original[going], processed[going]

    def _ask(self, tick: int) -> None:
        observations = [arm.observe() for arm in self.arms]
        delay = self._delay if self._asked_before else 0  # the engine has measured no latency before
        self._on_the_way = self._predict(observations, delay, self._queue.running())
        self._arrives, self._asked_before = tick + self._latency, True


def rollout_batch(
    predict: Predict,
    tasks: Sequence[Task],
    seeds: Sequence[int],
    latency: int = SUBTICKS,
    max_s: float = MAX_S,
    *,
    queue_threshold: int = QUEUE_THRESHOLD,
    record: bool = False,
) -> list[RolloutResult]:
    """Roll out one policy on many scenes; scene i is `draw_scene(seeds[i], tasks[i])`.

    Args:
        predict: The policy; called with the arms that are not done yet, in order.
        latency: How many control ticks inference takes; with 0 a chunk is there one tick later, with all its
            actions.
        max_s: Simulated seconds after which a rollout has failed.
        record: Keep the camera's frames.

    Returns:
        One result per scene, in order.
    """
    arms = [LockstepArm(draw_scene(seed, task)) for seed, task in zip(seeds, tasks, strict=True)]
    batch = Batch(predict, list(arms), latency, queue_threshold)
    for tick in range(round(max_s * CONTROL_HZ)):
        if record and tick % SUBTICKS == 0:
            for arm in batch.arms:
                arm.frames.append(arm.plant.render())
        batch.tick(tick)
        if tick % SUBTICKS == SUBTICKS - 1:
            batch.judge()
        if not batch.arms:
            break
    return [
        RolloutResult(arm.judge.ever_success, arm.judgements, arm.frames if record else None) for arm in arms
    ]


@dataclass(frozen=True)
class Demonstration:
    """A recorded episode at `CONTROL_HZ`: frame i holds what was seen and the leader's position at tick i.

    Attributes:
        images: (T, 96, 96, 3) uint8, or only those of `image_ticks`.
        image_ticks: (n,) int: the ticks at which an image was taken.
        states: (T, 6) float32 units, the follower.
        actions: (T, 6) float32 units, the leader.
        success: The judge's verdict.
    """

    images: np.ndarray
    image_ticks: np.ndarray
    states: np.ndarray
    actions: np.ndarray
    success: bool


def demonstrate(
    plant: Plant,
    scene: Scene,
    rng: np.random.Generator,
    *,
    habits: Habits = HUMAN,
    disturbance: float = 0.0,
    image_every: int = 1,
) -> Demonstration:
    """Let the scripted person teleoperate the arm through a scene.

    Args:
        disturbance: Standard deviation in degrees of a slowly varying error added to the *executed* goals of
            half the episode's stretches; the recorded actions stay the person's. It shows a policy how to
            come back.
        image_every: Render only every so many ticks, beginning with a random one.

    Raises:
        UnreachableError: The person's path leaves the arm's reach.
    """
    plant.reset(scene)
    judge = plant.judge()
    actions = plan(plant, scene.task, rng, habits)
    errors = _disturbances(len(actions), disturbance, rng)
    first = int(rng.integers(image_every))
    image_ticks = np.arange(first, len(actions), image_every)
    images, states = [], np.empty((len(actions), 6), np.float32)
    for tick, goal in enumerate(actions):
        states[tick] = plant.positions_units()
        if tick % image_every == first:
            images.append(as_received(plant.render()))
        plant.set_goal_units(goal + errors[tick])
        plant.advance(1 / CONTROL_HZ)
        if tick % SUBTICKS == SUBTICKS - 1:
            judge.update(plant.cubes(), plant.tip())
    return Demonstration(
        np.array(images), image_ticks, states, actions.astype(np.float32), judge.ever_success
    )


def _disturbances(ticks: int, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """(ticks, 6) degrees: a new error every 0.2 s, or none, with the ways between interpolated."""
    if not deviation:
        return np.zeros((ticks, 6))
    knots = np.arange(0, ticks + 6, 6)
    errors = rng.normal(0, deviation, (len(knots), 6)) * (rng.random((len(knots), 1)) < 0.5)
    errors[:, 4:] *= 0.3
    return np.stack([np.interp(np.arange(ticks), knots, errors[:, joint]) for joint in range(6)], 1)
