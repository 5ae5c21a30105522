"""Names of tasks on the wire."""

from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from shared.messages import Metric
from shared.tasks import START_LOSS, START_MSE, metric_name, plain_task

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
