"""Sentences, scenes and the judge."""

import numpy as np
import pytest

from sim.tasks import COLORS, PUSHES, VERBS, Judge, Scene, Task, draw_scene, task_from_text

TARGET = np.array([0.2, 0.0])
LEFT = np.array([0.0, 0.04])
FAR = np.array([0.0, 0.0, 0.3])


def judge(verb: str) -> Judge:
    positions = np.array([TARGET, [0.2, 0.08], [0.2, -0.08]])
    scene = Scene(0, Task(verb, "red"), ("red", "blue", "green"), positions, np.zeros(3), FAR)
    return Judge(scene)


def cubes(red: np.ndarray = TARGET, blue: tuple[float, float] = (0.2, 0.08)) -> dict[str, np.ndarray]:
    return {
        "red": np.array([*red, 0.016]),
        "blue": np.array([*blue, 0.016]),
        "green": np.array([0.2, -0.08, 0.016]),
    }


def test_every_sentence_leads_back_to_its_task() -> None:
    tasks = [Task(verb, color) for verb in VERBS for color in COLORS]
    assert [task_from_text(task.text) for task in tasks] == tasks
    assert Task("push_left", "red").text == "push the red cube to the left"
    with pytest.raises(ValueError, match="no task says"):
        task_from_text("juggle")


@pytest.mark.parametrize(("verb", "color"), [("lift", "red"), ("touch", "pink")])
def test_an_unknown_task_is_refused(verb: str, color: str) -> None:
    with pytest.raises(ValueError, match="unknown"):
        Task(verb, color)


@pytest.mark.parametrize("verb", VERBS)
def test_a_scene_depends_on_seed_and_task_alone(verb: str) -> None:
    task = Task(verb, "blue")
    first, again, other = draw_scene(5, task), draw_scene(5, task), draw_scene(6, task)
    np.testing.assert_array_equal(first.positions, again.positions)
    assert first.colors == again.colors
    assert first.colors[0] == "blue"
    assert len(set(first.colors)) == 3
    assert not np.array_equal(first.positions, other.positions)


@pytest.mark.parametrize("verb", PUSHES)
def test_a_push_far_enough_is_a_success_and_the_opposite_one_is_not(verb: str) -> None:
    moved = TARGET + 0.04 * np.array(PUSHES[verb])
    good, bad = judge(verb), judge(verb)
    assert [good.update(cubes(moved), FAR) for _ in range(2)] == [False, True]
    assert not any(bad.update(cubes(2 * TARGET - moved), FAR) for _ in range(5))


def test_success_must_last_two_judgements() -> None:
    case, done = judge("push_left"), cubes(TARGET + LEFT)
    for _ in range(3):
        assert not case.update(done, FAR)
        assert not case.update(cubes(), FAR)


def test_a_push_that_disturbs_another_cube_does_not_count() -> None:
    case = judge("push_left")
    assert not any(case.update(cubes(TARGET + LEFT, blue=(0.2, 0.12)), FAR) for _ in range(3))


def test_ever_success_outlives_success() -> None:
    case = judge("hover")
    above = np.array([*TARGET, 0.08])
    for tip in (above, above, FAR):
        case.update(cubes(), tip)
    assert case.ever_success
    assert not case.success
    assert case.seconds == pytest.approx(0.3)


def test_touch_wants_the_fingertip_at_the_cube() -> None:
    case = judge("touch")
    assert not any(case.update(cubes(), np.array([*TARGET, 0.08])) for _ in range(3))
    assert [case.update(cubes(), np.array([*TARGET, 0.04])) for _ in range(2)] == [False, True]
