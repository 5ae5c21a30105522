"""Tasks: which sentences can be used, and what of them is told on the wire."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from shared.messages import Metric
from shared.recipe import Recipe
from shared.tasks import (
    START_LOSS,
    START_MSE,
    TASK_LENGTH,
    TaskText,
    ToldTask,
    metric_name,
    plain_task,
    told_task,
    why_unusable,
)

PREFIXES = (f"{START_LOSS}_", f"{START_MSE}_", "eval_loss_", "action_mse_")


def test_a_name_that_says_the_whole_task_is_the_task() -> None:
    assert metric_name("eval_loss_", "Push the red cube, please!") == "eval_loss_push_the_red_cube_please"
    assert metric_name("a_", "push the red cube to the right") == "a_push_the_red_cube_to_the_right"


def test_long_tasks_with_the_same_beginning_have_their_own_names() -> None:
    """`push_the_yellow_cube_to_the_` is all that fits of both."""
    names = {metric_name("", f"push the yellow cube to the {side}") for side in ("left", "right")}
    assert len(names) == 2
    assert len({metric_name("", task) for task in ("推红色方块", "推蓝色方块")}) == 2


@given(task=st.text(st.characters(exclude_categories=["Cs"]), max_size=120), prefix=st.sampled_from(PREFIXES))
@settings(deadline=None)
def test_metric_names_pass_the_allow_list_and_end_alike_behind_each_prefix(task: str, prefix: str) -> None:
    name = metric_name(prefix, task)
    assert TypeAdapter(Metric).validate_python(name).removeprefix(prefix) == metric_name("", task)
    assert metric_name(prefix, f" {plain_task(task)}. ") == name


ORDINARY = (
    "Grab the cube (red)!",
    "pick & place",
    "put it in the box/tray",
    "push the cube; then stop",
    'say "done": 50 % of 2 €, café, 推红色方块 🙂',
)


@pytest.mark.parametrize("task", ORDINARY)
def test_ordinary_punctuation_can_be_recorded_and_held_out(task: str) -> None:
    assert TypeAdapter(TaskText).validate_python(task) == task
    assert Recipe(never_train=(task,)).never_train == (task,)


@pytest.mark.parametrize(
    ("task", "why"),
    [
        ("push\nthe cube", r"U\+000A, at 5"),
        ("\x1b[2Jpush", r"U\+001B, at 1"),
        ("push \u202etfel", r"U\+202E"),
        ("x" * (TASK_LENGTH + 1), "301 characters, at most 300"),
    ],
)
def test_a_task_that_harms_a_terminal_or_is_a_page_is_refused_with_a_sentence(task: str, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        TypeAdapter(TaskText).validate_python(task)


@given(task=st.text(max_size=400))
@settings(deadline=None)
def test_what_is_told_of_any_task_passes_the_allow_list_and_holds_no_path_and_no_address(task: str) -> None:
    told = told_task(task)
    if told:
        assert TypeAdapter(ToldTask).validate_python(told) == told
    assert told_task(told) == told


@given(task=st.from_regex(r"^[\w ,.'-]{1,120}\Z"))
def test_what_could_always_be_told_is_told_as_it_is_and_what_is_told_can_be_run(task: str) -> None:
    try:
        TypeAdapter(ToldTask).validate_python(task)
    except ValidationError:
        return  # Python's \w has fractions and circled digits, too
    assert told_task(task) == task
    assert not why_unusable(task)


def test_words_are_told_without_their_punctuation_and_long_tasks_differ() -> None:
    told = [told_task(task) for task in ORDINARY[:4]]
    assert told == ["Grab the cube red", "pick place", "put it in the box tray", "push the cube then stop"]
    assert told_task("?!") == ""
    long = [told_task("push the cube " * 10 + side) for side in ("left", "right")]
    assert len(set(long)) == 2
    assert all(len(text) == 120 for text in long)


@pytest.mark.parametrize("task", ORDINARY)
def test_the_coordinator_finds_the_task_to_its_name(task: str) -> None:
    assert metric_name("", told_task(task)) == metric_name("", task)
