"""What is asked for, where the cubes lie, and whether it was done.

A `Task` is a verb and a colour; its sentence is all the policy gets. A `Scene` is drawn from (seed, task)
alone, so the same pair means the same table on every workstation and in the coordinator's evaluation. A
`Judge` is fed cube and fingertip positions every 0.1 s and knows nothing else.
"""

import math
from dataclasses import dataclass, field

import numpy as np

COLORS = ("red", "green", "blue", "yellow")
PRETRAINED = ("touch", "hover")
PUSHES = {"push_left": (0.0, 1.0), "push_right": (0.0, -1.0), "push_away": (1.0, 0.0), "pull": (-1.0, 0.0)}
"""Direction of each push in the table's plane, seen from the arm: x ahead, y to its left."""
VERBS = (*PRETRAINED, *PUSHES)
_TEXT = {
    "touch": "touch the {} cube",
    "hover": "hover above the {} cube",
    "push_left": "push the {} cube to the left",
    "push_right": "push the {} cube to the right",
    "push_away": "push the {} cube forward",
    "pull": "pull the {} cube back",
}

HALF = 0.016  # half the edge of a cube, m
DISTRACTORS = 2
AREA = ((0.17, 0.23), (-0.09, 0.09))  # x and y ranges of the cubes' centres, m
START = ((0.15, 0.22), (-0.07, 0.07), (0.08, 0.11))  # ranges of the fingertip's start, m
START_CLEAR_M = 0.04  # the fingertip starts at least this far from the named cube, in the table's plane
_SEPARATION = 0.055
_MAX_TRIES = 200
_MAX_YAW = 0.3

JUDGE_PERIOD_S = 0.1
PUSH_M = 0.035  # how far a push has to move the cube
PUSH_SIDEWAYS_M = 0.03
DISTURBED_M = 0.03  # no other cube may move further
_HELD = 2  # consecutive judgements


@dataclass(frozen=True)
class Task:
    """A verb of `VERBS` and a colour of `COLORS`.

    Raises:
        ValueError: The verb or the colour is unknown.
    """

    verb: str
    color: str

    def __post_init__(self) -> None:
        if self.verb not in VERBS:
            raise ValueError(f"verb {self.verb!r} is unknown; known are {', '.join(VERBS)}")
        if self.color not in COLORS:
            raise ValueError(f"colour {self.color!r} is unknown; known are {', '.join(COLORS)}")

    @property
    def text(self) -> str:
        """The sentence given to the policy."""
        return _TEXT[self.verb].format(self.color)

    @property
    def key(self) -> str:
        """The verb: the name under which results are grouped."""
        return self.verb


def task_from_text(text: str) -> Task:
    """The task whose sentence this is.

    Raises:
        ValueError: No task has this sentence.
    """
    for verb in VERBS:
        for color in COLORS:
            if _TEXT[verb].format(color) == text:
                return Task(verb, color)
    raise ValueError(f"no task says {text!r}")


@dataclass(frozen=True)
class Scene:
    """Cubes on the table (the task's own first) and the fingertip's start.

    `positions` is (n, 2) in m, `yaws` (n,) in rad, `start_tip` (3,) in m; all in the arm's base frame.
    """

    seed: int
    task: Task
    colors: tuple[str, ...]
    positions: np.ndarray
    yaws: np.ndarray
    start_tip: np.ndarray


def draw_scene(seed: int, task: Task) -> Scene:
    """The scene of this seed and task; the same in every process."""
    rng = np.random.default_rng([seed, VERBS.index(task.verb), COLORS.index(task.color)])
    others = [color for color in COLORS if color != task.color]
    rng.shuffle(others)
    colors = (task.color, *others[:DISTRACTORS])
    points: list[np.ndarray] = []
    tries = 0
    while len(points) < len(colors):
        point = np.array([rng.uniform(*AREA[0]), rng.uniform(*AREA[1])])
        if _fits(task, point, points):
            points.append(point)
        tries += 1
        if tries % _MAX_TRIES == 0:
            points = []
    yaws = rng.uniform(-_MAX_YAW, _MAX_YAW, len(colors))
    start = _draw_start(rng)
    while np.linalg.norm(start[:2] - points[0]) < START_CLEAR_M:
        start = _draw_start(rng)
    return Scene(seed, task, colors, np.array(points), yaws, start)


def _draw_start(rng: np.random.Generator) -> np.ndarray:
    return np.array([rng.uniform(*span) for span in START])


def _fits(task: Task, point: np.ndarray, points: list[np.ndarray]) -> bool:
    """Apart from the other cubes, and out of the corridor that a push needs."""
    if any(np.linalg.norm(point - other) < _SEPARATION for other in points):
        return False
    if not points or task.verb not in PUSHES:
        return True
    along, aside = _components(point - points[0], PUSHES[task.verb])
    return not (-0.075 < along < 0.115 and abs(aside) < 0.045)


def _components(vector: np.ndarray, direction: tuple[float, float]) -> tuple[float, float]:
    """The parts of a plane vector along a direction and to its left."""
    x, y = direction
    return float(vector[0] * x + vector[1] * y), float(vector[1] * x - vector[0] * y)


@dataclass
class Judge:
    """Decides whether the task of a scene is done; call `update` every `JUDGE_PERIOD_S`."""

    scene: Scene
    success: bool = False
    ever_success: bool = False
    seconds: float = 0.0
    _held: int = field(default=0, repr=False)

    def update(self, cubes: dict[str, np.ndarray], tip: np.ndarray) -> bool:
        """Takes cube centres and the fingertip, (3,) in m each; returns `ever_success`.

        Success must hold for two judgements in a row: a cube flicked through the goal does not count.
        """
        self.seconds = round(self.seconds + JUDGE_PERIOD_S, 3)
        self._held = self._held + 1 if self._holds(cubes, tip) else 0
        self.success = self._held >= _HELD
        self.ever_success = self.ever_success or self.success
        return self.ever_success

    def _holds(self, cubes: dict[str, np.ndarray], tip: np.ndarray) -> bool:
        scene = self.scene
        start = dict(zip(scene.colors, scene.positions, strict=True))
        moved = {color: cubes[color][:2] - start[color] for color in scene.colors}
        if any(math.hypot(*moved[color]) > DISTURBED_M for color in scene.colors[1:]):
            return False
        target, verb = scene.task.color, scene.task.verb
        distance = math.hypot(*(tip[:2] - cubes[target][:2]))
        if verb == "touch":
            return distance < 0.022 and tip[2] < 2 * HALF + 0.022
        if verb == "hover":
            return distance < 0.025 and 0.055 < tip[2] < 0.12 and math.hypot(*moved[target]) < 0.01
        along, aside = _components(moved[target], PUSHES[verb])
        return along > PUSH_M and abs(aside) < PUSH_SIDEWAYS_M
