"""Arbitration: the operator always wins, and every decision carries a sentence."""

from datetime import datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.activity import Activity, Claim, Verdict, decide, may_claim, training_window
from agent.config import Hours, WindowSection
from agent.machine import Machine
from shared.errors import ArmfleetError

NOW = datetime(2026, 11, 24, 12, 0)
verdicts = st.builds(Verdict, st.booleans(), st.text(min_size=1, max_size=20))
operator_claims = st.builds(
    Claim,
    st.sampled_from([Activity.RECORD, Activity.ROLLOUT, Activity.EVALUATE]),
    st.text(max_size=20),
    st.datetimes(),
)
clock = st.times().map(lambda t: t.strftime("%H:%M"))
rules = st.builds(
    WindowSection,
    idle_s=st.floats(0, 1e4),
    hours=st.lists(st.builds(Hours, start=clock, end=clock), max_size=3).map(tuple),
    max_load=st.none() | st.floats(0.1, 64),
)


@given(operator_claims, verdicts, verdicts)
def test_operator_always_wins(claim: Claim, window: Verdict, work: Verdict) -> None:
    assert decide(claim, window, work).activity is claim.activity


@given(verdicts, verdicts)
def test_trains_only_inside_the_window_with_work_and_says_why(window: Verdict, work: Verdict) -> None:
    decision = decide(None, window, work)
    assert (decision.activity is Activity.TRAIN) == (window.open and work.open)
    blocking = work if not work.open else window
    assert blocking.reason in decision.reason


@given(rules, st.datetimes(), st.floats(0, 1e5), st.floats(0, 100), st.floats(0, 1e5))
def test_window_that_is_open_stays_open_when_the_arm_rests_longer(
    rule: WindowSection, now: datetime, idle_s: float, load: float, more: float
) -> None:
    first = training_window(rule, now, idle_s, Machine(load), training=False)
    assert first.reason
    if first.open:
        assert training_window(rule, now, idle_s + more, Machine(load), training=False).open
        assert idle_s >= rule.idle_s
        assert rule.max_load is None or load <= rule.max_load


@given(rules, st.datetimes(), st.floats(0, 1e5), st.floats(0, 100))
def test_own_load_never_stops_training(
    rule: WindowSection, now: datetime, idle_s: float, load: float
) -> None:
    if training_window(rule, now, idle_s, Machine(load), training=False).open:
        assert training_window(rule, now, idle_s, Machine(1e9), training=True).open


@pytest.mark.parametrize(
    ("hour", "inside"),
    [
        (time(19, 59), False),
        (time(20, 0), True),
        (time(2, 0), True),
        (time(6, 59), True),
        (time(7, 0), False),
    ],
)
def test_hours_may_pass_midnight(hour: time, inside: bool) -> None:
    rule = WindowSection(idle_s=0, hours=(Hours(start="20:00", end="07:00"),))
    verdict = training_window(rule, datetime.combine(NOW, hour), 1, Machine(0.0), training=False)
    assert verdict.open is inside
    if not inside:
        assert "outside the hours 20:00-07:00" in verdict.reason


def test_recently_used_arm_is_named_as_the_reason() -> None:
    verdict = training_window(WindowSection(idle_s=600), NOW, 12, Machine(0.0), training=False)
    assert verdict == Verdict(False, "the arm was used 12 s ago, the window opens after 600 s")


@pytest.mark.parametrize(
    ("machine", "training", "reason"),
    [
        (Machine(0.0, on_battery=True), True, "the machine runs on battery"),
        (Machine(0.0, on_battery=False), False, ""),
        (Machine(0.0, gpu_temperature=75), False, "the GPU has 75 degrees, above 70"),
        (Machine(0.0, gpu_temperature=75), True, ""),
        (Machine(0.0, gpu_temperature=81), True, "the GPU has 81 degrees, above 80"),
        (
            Machine(0.0, gpu_others_mb=2100),
            True,
            "other programs use 2100 MB of the GPU's memory, above 2000",
        ),
        (Machine(0.0, gpu_others_mb=1900), False, ""),
    ],
)
def test_a_machine_that_others_need_is_left_alone(machine: Machine, training: bool, reason: str) -> None:
    rule = WindowSection(idle_s=0, max_gpu_c=80, max_gpu_others_mb=2000)
    verdict = training_window(rule, NOW, 1, machine, training)
    assert verdict.open is not bool(reason)
    assert reason in verdict.reason


def test_second_operator_learns_who_has_the_arm() -> None:
    may_claim(None, Activity.RECORD)
    claim = Claim(Activity.RECORD, "push the red cube to the left", NOW - timedelta(minutes=5))
    with pytest.raises(ArmfleetError, match=r"record since 11:55:00: push the red cube"):
        may_claim(claim, Activity.ROLLOUT)
