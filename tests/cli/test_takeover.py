"""What a terminal shows of a rollout in which a person may take over."""

import pytest

from agent.sessions.series import Phase
from agent.sessions.series_messages import RolloutTold
from cli.rollout_picture import words
from cli.rollout_view import what
from tests.cli.test_rollout_picture import answer, drawn, told


@pytest.mark.parametrize(
    ("led", "fields", "said"),
    [
        (False, {"phase": "running", "policy_s": 12.0}, "0:12 of 0:20, the policy"),
        (False, {"phase": "to start pose"}, "to start pose"),
        (True, {"phase": "running"}, "taking over: the arm goes to the leader"),
        (True, {"phase": "taking over", "apart": "elbow by 95"}, "taking over: the arm holds"),
        (True, {"phase": "led", "recorded_s": 4.2}, "you, recording 4.2 s"),
    ],
)
def test_the_picture_says_who_moves_the_arm(led: bool, fields: dict, said: str) -> None:
    series = told(Phase.RUNNING, paired=False, led=led)
    assert said in what(series, RolloutTold(**fields))


def test_who_drives_is_a_line_of_its_own_in_a_log() -> None:
    lines = {words(answer(told(Phase.RUNNING, paired=False, led=led)), "")["phase"] for led in (False, True)}
    assert len(lines) == 2
    assert any(line.endswith(": taking over: the arm goes to the leader") for line in lines)


@pytest.mark.parametrize(("led", "shown"), [(False, "take over"), (True, "hand back")])
def test_the_key_is_shown_where_it_means_something(led: bool, shown: str) -> None:
    running = told(Phase.RUNNING, paired=False, led=led, segment="episode 000001 is kept: 4.2 s")
    lines = drawn(running)
    assert shown in lines[-1]
    assert "end" in lines[-1], "all keys are in one line of 80 columns"
    assert any("is kept: 4.2 s" in line for line in lines)
    assert " t " not in drawn(told(Phase.READY))[-1]
    assert " t " not in drawn(told(Phase.RUNNING, measures=True))[-1]
