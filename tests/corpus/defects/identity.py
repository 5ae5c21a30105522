"""Episodes that are another one, or none."""

from dataclasses import replace

import numpy as np

from ..motion import COUNT, quantised
from ..registry import Scene, defect
from ..stage import Shot

AGAIN = ("identity.duplicate", "identity.near_duplicate")


def _twin(shot: Shot) -> Shot:
    """The same take once more, to be changed."""
    return replace(shot, stock=dict(shot.stock), effects={}, after=[])


@defect(*AGAIN)
def duplicate(scene: Scene) -> None:
    """An episode again: its video encoded anew, a copy in the same call, a copy of one in the history."""
    scene.more.append(_twin(scene.shot))
    if scene.level == 0:
        scene.shot.stock = {}
        scene.shot.seed += 1
    if scene.level == 2:
        scene.remember.append(scene.more.pop())
        scene.history = True


@defect(*AGAIN)
def near_duplicate(scene: Scene) -> None:
    """Nearly the same episode: cut by half a second at both ends with noise on the encoder, noise only,
    three rows shorter."""
    scene.more.append(_twin(scene.shot))
    motion = scene.shot.motion
    cut = scene.pick(15, 0, 3)
    state = motion.state
    if scene.level < 2:
        state = quantised(state + COUNT * scene.rng.integers(-1, 2, state.shape))
    trimmed = replace(motion, state=state).span(cut if scene.level == 0 else 0, len(motion) - cut)
    scene.shot.act(trimmed)


@defect("identity.task")
def no_task(scene: Scene) -> None:
    """No instruction: a placeholder, white space, nothing."""
    placeholders = ["task", "TODO", "test", "default_task", "n/a", "Describe the task here", "asdf"]
    scene.shot.task = scene.pick(placeholders[int(scene.rng.integers(len(placeholders)))], "   ", "")


@defect("identity.too_short")
def too_short(scene: Scene) -> None:
    """A slip of the finger: 0.9 s, 0.4 s, 3 frames."""
    rows = scene.pick(27, 12, 3)
    speed = np.abs(np.diff(scene.shot.motion.state, axis=0)).sum(axis=1)
    start = int(np.argmax(np.convolve(speed, np.ones(rows), mode="valid")))
    scene.shot.act(scene.shot.motion.span(start, start + rows))
