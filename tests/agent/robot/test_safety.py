"""The policy as a table: which values, for how long, lead to a warning or a stop, and when it is over."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.robot.health import CURRENT, HEAT, OVERLOAD, SENSOR, VOLTAGE
from agent.robot.safety import Cause, Guard, Level, unfit
from shared.exit_codes import ExitCode
from tests.agent.robot.fakes import FINE

HZ = 5  # samples of one joint a second, as in the loop
GRIPPER = 5


def first(values, joint=1, supply_v=5.0, seconds=8.0):
    """Seconds until a warning and until a stop, None where there is none; `values` stand all the time."""
    guard, found = Guard(supply_v), {}
    for tick in range(round(seconds * HZ)):
        guard.see(joint, replace(FINE, **values), tick / HZ)
        for level in Level:
            if guard.findings(level):
                found.setdefault(level, (tick / HZ, guard.findings(level)[0]))
    return found


@pytest.mark.parametrize(
    ("values", "cause", "warn_s", "stop_s"),
    [
        ({"temperature": 59}, None, None, None),
        ({"temperature": 60}, Cause.HEAT, 1.0, None),
        ({"temperature": 65}, Cause.HEAT, None, 0.6),
        ({"temperature": 71, "errors": HEAT}, Cause.HEAT, None, 0.2),
        ({"load": 799}, None, None, None),
        ({"load": -800}, Cause.OVERLOAD, 1.0, 1.8),
        ({"errors": OVERLOAD}, Cause.OVERLOAD, None, 0.2),
        ({"errors": CURRENT}, Cause.CURRENT, None, 0.2),
        ({"errors": SENSOR}, Cause.SENSOR, None, 0.2),
        ({"voltage": 4.6}, None, None, None),
        ({"voltage": 4.3}, Cause.SAG, 2.0, None),
        ({"voltage": 3.9, "errors": VOLTAGE}, Cause.SAG, None, 0.6),
        ({"voltage": 5.6}, None, None, None),
        ({"voltage": 7.4}, Cause.SUPPLY, None, 0.4),
        ({"voltage": 12.0, "errors": VOLTAGE}, Cause.SUPPLY, None, 0.4),
    ],
)
def test_the_table_of_the_policy(values, cause, warn_s, stop_s):
    found = first(values)
    times = {level: round(at, 1) for level, (at, _) in found.items()}
    expected = {Level.WARN: warn_s, Level.STOP: stop_s}
    assert times == {level: at for level, at in expected.items() if at is not None}
    assert {finding.cause for _, finding in found.values()} <= {cause}


def test_a_12_v_arm_on_a_5_v_supply_and_on_its_own():
    assert first({"voltage": 5.0}, supply_v=12.0)[Level.STOP][1].cause is Cause.SUPPLY
    assert first({"voltage": 11.4}, supply_v=12.0) == {}
    assert first({"voltage": 9.0}, supply_v=12.0)[Level.STOP][1].cause is Cause.SAG
    low = first({"voltage": 12.0, "errors": VOLTAGE}, supply_v=12.0)[Level.STOP][1]
    assert low.cause is Cause.SUPPLY, "a 7.4 V servo says so itself"


def test_a_gripper_that_holds_something_may_be_in_overload_for_a_while():
    found = first({"errors": OVERLOAD}, joint=GRIPPER)
    assert found[Level.WARN][0] == pytest.approx(0.2)
    assert found[Level.STOP][0] == pytest.approx(5.0)


@settings(deadline=None)
@given(st.integers(-799, 799), st.floats(4.6, 5.7), st.integers(0, 59), st.floats(0, 3), st.integers(0, 5))
def test_nothing_is_found_below_the_limits(load, voltage, temperature, current, joint):
    values = {"load": load, "voltage": voltage, "temperature": temperature, "current": current}
    assert first(values, joint=joint, seconds=3.0) == {}


@settings(deadline=None)
@given(
    st.sampled_from(
        [{"load": 1000}, {"temperature": 90}, {"voltage": 12.0}, {"voltage": 3.0}, {"errors": 47}]
    ),
    st.lists(st.booleans(), min_size=4, max_size=40),
)
def test_single_samples_never_stop_the_arm(values, series):
    guard = Guard(5.0)
    for tick, bad in enumerate(series):
        alone = bad and not series[tick - 1]
        series[tick] = alone
        guard.see(2, replace(FINE, **values) if alone else FINE, tick / HZ)
        assert guard.stop is None


def test_samples_far_apart_are_no_uninterrupted_time():
    guard = Guard(5.0)
    for tick in range(5):
        guard.see(2, replace(FINE, load=900), tick * 10.0)
    assert guard.stop is None


def test_a_hot_arm_is_refused_until_it_has_cooled_and_an_overload_until_it_is_gone():
    guard = Guard(5.0)
    for tick in range(5):
        guard.see(2, replace(FINE, temperature=66), tick / HZ)
    assert guard.stop.cause is Cause.HEAT
    guard.see(2, replace(FINE, temperature=56), 1.2)
    assert guard.stop, "between the limits it stays refused"
    guard.see(2, replace(FINE, temperature=54), 1.4)
    assert guard.stop is None
    for tick in range(15):
        guard.see(2, replace(FINE, load=900), 2 + tick / HZ)
    assert guard.stop.cause is Cause.OVERLOAD
    guard.see(2, replace(FINE, load=0), 5.2)
    assert guard.stop is None


def test_bits_that_come_with_the_positions_stop_within_two_of_them():
    guard = Guard(5.0)
    guard.see_errors([0, OVERLOAD, 0, 0, 0, 0], 0.0)
    assert guard.stop is None, "nothing is known of that joint yet"
    for joint in range(6):
        guard.see(joint, FINE, 0.0)
    guard.see_errors([0, OVERLOAD, 0, 0, 0, 0], 0.033)
    assert guard.stop is None
    guard.see_errors([0, OVERLOAD, 0, 0, 0, 0], 0.1)
    assert (guard.stop.joint, guard.stop.cause) == (1, Cause.OVERLOAD)
    guard.see_errors([0] * 6, 0.133)
    assert guard.stop is None


def test_a_voltage_bit_waits_for_the_voltage_that_belongs_to_it():
    guard = Guard(5.0)
    for joint in range(6):
        guard.see(joint, FINE, 0.0)
    for tick in range(1, 31):
        guard.see_errors([VOLTAGE] * 6, tick / 30)
    assert guard.stop is None
    for tick in range(4):
        guard.see(2, replace(FINE, voltage=3.9, errors=VOLTAGE), 1.1 + tick / HZ)
        guard.see_errors([VOLTAGE] * 6, 1.15 + tick / HZ)
    assert (guard.stop.joint, guard.stop.cause) == (2, Cause.SAG)


def test_a_wrong_supply_goes_before_what_it_causes():
    guard = Guard(5.0)
    for tick in range(5):
        guard.see(0, replace(FINE, temperature=66), tick / HZ)
        guard.see(4, replace(FINE, voltage=12.0, errors=VOLTAGE), tick / HZ)
    assert guard.stop.cause is Cause.SUPPLY
    assert not guard.stop.lowers


@pytest.mark.parametrize(
    ("values", "code", "words"),
    [
        ({"temperature": 66}, ExitCode.SERVO_HOT, "joint 2 (shoulder_lift) of the follower is too hot: 66"),
        ({"load": 900}, ExitCode.SERVO_PROTECTION, "pushes with 90 % of its force for too long"),
        ({"errors": OVERLOAD}, ExitCode.SERVO_PROTECTION, "is in overload"),
        ({"errors": SENSOR}, ExitCode.SERVO_PROTECTION, "angle sensor"),
        ({"errors": CURRENT}, ExitCode.SERVO_PROTECTION, "too much current"),
        ({"voltage": 3.9}, ExitCode.SUPPLY_VOLTAGE, "broke down to 3.9 V (nominal 5 V)"),
        ({"voltage": 12.0}, ExitCode.SUPPLY_VOLTAGE, "the supply gives 12.0 V at joint 2 (shoulder_lift)"),
    ],
)
def test_the_operator_is_told_which_joint_and_what_to_do(values, code, words):
    error = first(values)[Level.STOP][1].error("follower")
    assert error.code is code
    assert words in error.what
    assert error.do
    assert error.kept


def test_an_arm_that_must_not_be_switched_on_is_known_from_one_sample():
    healths = [FINE] * 6
    assert unfit(healths, 5.0) is None
    assert unfit([replace(FINE, load=1000)] * 6, 5.0) is None, "a limp arm carries no load"
    hot = [*healths[:5], replace(FINE, temperature=80, errors=HEAT)]
    assert unfit(hot, 5.0).joint == 5
    assert unfit(healths, 12.0).cause is Cause.SUPPLY
    assert unfit(healths, None) is None, "a leader's supply is its servos' own business"
    assert unfit([replace(FINE, errors=VOLTAGE)] * 6, None).cause is Cause.SUPPLY
