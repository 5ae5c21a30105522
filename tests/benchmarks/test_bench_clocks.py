"""The pure parts of `make bench-clocks`."""

import argparse
import json

import pytest

from agent.evaluation.rollouts import RolloutFigures, RolloutRecord
from benchmarks import bench_clocks as clocks
from cli.demo.plan import LEFT
from shared.errors import ArmfleetError


def record(chunks=1, latency=50.0, digest=None):
    return RolloutRecord(
        id="x",
        task="touch the red cube",
        version=None,
        digest=digest,
        created="",
        reason="time_up",
        figures=RolloutFigures(chunks=chunks, latency_ms_mean=latency),
    )


def test_tasks_get_the_sentences_of_the_simulator():
    assert clocks.parse_tasks("push_left:red") == (LEFT,)
    assert [clocks.named(task) for task in clocks.parse_tasks("touch:red,hover:green")] == [
        "touch_red",
        "hover_green",
    ]


@pytest.mark.parametrize("text", ["", "touch", "touch:purple", "dance:red", "touch:red:green"])
def test_what_is_no_task_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="VERB:COLOUR"):
        clocks.parse_tasks(text)


@pytest.mark.parametrize(("latency", "ticks"), [(0, 1), (30, 1), (100, 1), (101, 2), (250, 3)])
def test_a_delay_is_counted_as_the_action_queue_counts_it(latency, ticks):
    assert clocks.ticks_of(latency) == ticks


def test_latency_is_the_mean_over_chunks_not_over_rollouts():
    assert clocks.latency_ms([record(1, 100.0), record(3, 20.0), record(0, 0.0)]) == 40.0
    assert clocks.latency_ms([]) == 0.0


def test_the_worst_task_decides():
    port = {"touch_red": [True] * 60, "hover_green": [True] * 53 + [False] * 7}
    lockstep = {"touch_red": [True] * 57 + [False] * 3, "hover_green": [True] * 60}
    found = clocks.figures(port, lockstep, 2, 123.45)
    assert json.loads(json.dumps(found)) == {
        "rollouts": 60,
        "port": {"touch_red": 60, "hover_green": 53},
        "lockstep": {"touch_red": 57, "hover_green": 60},
        "largest_difference_points": 11.7,
        "delay_ticks": 2,
        "port_latency_ms": 123.5,
    }


def test_ten_points_are_within_the_target():
    port, lockstep = {"touch_red": [True] * 60}, {"touch_red": [True] * 54 + [False] * 6}
    assert clocks.figures(port, lockstep, 1, 50.0)["largest_difference_points"] == clocks.MAX_POINTS


def test_a_rollout_that_never_got_to_its_first_chunk_is_a_failure_not_an_error():
    clocks.check_records([record(), record(chunks=0)], 2, None)


def test_a_rollout_of_another_policy_or_a_lost_one_is_no_measurement():
    for records in ([record(), record(digest="f" * 64)], [record()]):
        with pytest.raises(ArmfleetError, match="1 of 2 rollouts"):
            clocks.check_records(records, 2, None)
