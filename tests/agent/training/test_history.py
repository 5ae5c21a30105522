"""The history of updates: durable, bounded, and readable whatever a crash left."""

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.training.history import FILE, History
from tests.agent.training.records import RED, made_record


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "training", keep=3)


def numbers(history: History) -> list[int]:
    return [record.version for record in history.records()]


def test_what_was_appended_is_read_again(history: History) -> None:
    assert (history.records(), history.last()) == ([], None)
    for number in range(3):
        history.append(made_record(number))
    assert history.records() == [made_record(number) for number in range(3)]
    assert history.last() == made_record(2)


def test_an_update_delivered_again_after_a_kill_is_noted_once(history: History) -> None:
    history.append(made_record(0))
    history.append(made_record(0, peak_memory_bytes=1))
    assert history.records() == [made_record(0)]


def test_the_file_does_not_grow_for_ever(history: History) -> None:
    lengths = []
    for number in range(20):
        history.append(made_record(number))
        lengths.append(len(numbers(history)))
        assert numbers(history)[-3:] == list(range(number + 1))[-3:]
    assert max(lengths) == 6


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_file_cut_anywhere_loses_its_last_line_at_most(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("history")
    for number in range(3):
        History(folder).append(made_record(number))
    whole = (folder / FILE).read_bytes()
    ends = [end + 1 for end, byte in enumerate(whole) if byte == ord("\n")]
    cut = data.draw(st.integers(0, len(whole)))
    (folder / FILE).write_bytes(whole[:cut])
    History(folder).append(made_record(9))
    complete = sum(cut >= end - 1 for end in ends)  # a line that lacks only its end is complete
    assert numbers(History(folder)) == [*range(complete), 9]
    History(folder).append(made_record(10))
    assert numbers(History(folder)) == [*range(complete), 9, 10]


def test_lines_of_another_format_are_passed_over(history: History, tmp_path: Path) -> None:
    history.append(made_record(0))
    path = tmp_path / "training" / FILE
    path.write_bytes(path.read_bytes() + b'{"format": 2}\n\xff\xfe\n[]\n')
    assert history.last() == made_record(0)
    history.append(made_record(1))
    assert numbers(history) == [0, 1]


def test_a_number_that_overflowed_is_kept(history: History) -> None:
    history.append(made_record(gradient_norm_max=math.inf))
    assert history.records() == [made_record(gradient_norm_max=math.inf)]


def test_metrics_per_task_are_summed_up_as_their_mean() -> None:
    assert made_record().scalars == {
        "train_loss": 0.375,
        "eval_loss": 0.75,
        "action_mse": 1.5,
        "learning_rate": 1e-3,
        "gradient_norm": 1.0,
        "gradient_norm_max": 2.0,
        "trainable_parameters": 1000,
        "steps_per_second": 4.0,
        "peak_memory_bytes": 900_000_000,
    }


def test_the_line_for_the_journal_leaves_out_what_was_not_measured() -> None:
    full = made_record(peak_gpu_memory_bytes=2_000_000_000, energy_joules=1234.5).in_words()
    assert full == (
        "trained 16 steps in 4.0 s: loss 0.3750, eval loss 0.7500, action MSE 1.5000, "
        "gradient norm 1, at most 2, 900 MB of memory, 2000 MB on the GPU, 1234 J of the GPU"
    )
    began = made_record(start_loss={RED: 1.0}, start_mse={RED: 2.0}).in_words()
    assert "action MSE 1.5000, the version's eval loss 1.0000, the version's action MSE 2.0000, " in began
    assert made_record(eval_loss={}, action_mse={}).in_words() == (
        "trained 16 steps in 4.0 s: loss 0.3750, gradient norm 1, at most 2, 900 MB of memory"
    )
