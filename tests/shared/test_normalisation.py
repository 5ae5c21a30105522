"""Pooling gives what one data set of all frames would have given, and no report gives a frame away."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cli.demo.leak import Scanner, joint_canaries
from shared.normalisation import DIGITS, LARGEST, MIN_FRAMES, MIN_STD, Statistics, measured, pooled

STEP = 360 / 4096
"""Of a servo's encoder, degrees."""

parts = st.tuples(
    st.integers(MIN_FRAMES, 500),
    st.floats(-200, 200),
    st.sampled_from([0.0, STEP, 1.0, 30.0, 120.0]),
)
"""(frames, centre, spread) of one station's joints."""


def frames(rng: np.random.Generator, count: int, centre: float, spread: float) -> np.ndarray:
    centres = centre + rng.uniform(-20, 20, 6)
    return centres + spread * rng.standard_normal((count, 6)).clip(-3, 3)


@given(st.lists(parts, min_size=1, max_size=6), st.integers(0, 2**32 - 1))
def test_pooled_statistics_are_those_of_all_frames(drawn: list[tuple], seed: int) -> None:
    """To a tenth of an encoder step, although every report is rounded."""
    rng = np.random.default_rng(seed)
    states, actions = ([frames(rng, *part) for part in drawn] for _ in range(2))
    pool = pooled([measured(state, action) for state, action in zip(states, actions, strict=True)])
    for moments, rows in ((pool.state, np.concatenate(states)), (pool.action, np.concatenate(actions))):
        assert moments.count == len(rows)
        np.testing.assert_allclose(moments.mean, rows.mean(axis=0), atol=STEP / 10)
        np.testing.assert_allclose(moments.std, np.maximum(rows.std(axis=0), MIN_STD), atol=STEP / 10)


@given(st.permutations(range(4)))
def test_the_order_of_stations_changes_nothing_that_counts(order: list[int]) -> None:
    reports = []
    for number in range(4):
        rng = np.random.default_rng(number)
        rows = [frames(rng, 100 + number, centre, 20) for centre in (40.0 * number, 0)]
        reports.append(measured(*rows))
    first, other = pooled(reports), pooled([reports[at] for at in order])
    np.testing.assert_allclose(other.state.mean, first.state.mean, rtol=1e-4)
    np.testing.assert_allclose(other.state.std, first.state.std, rtol=1e-4)


def test_one_station_pools_to_itself() -> None:
    rng = np.random.default_rng(0)
    alone = measured(frames(rng, 300, 10, 30), frames(rng, 300, 10, 30))
    assert pooled([alone]) == alone


def test_a_joint_that_never_moved_has_the_floor() -> None:
    rows = np.random.default_rng(0).normal(0, 30, (200, 6))
    rows[:, 5] = 14.25
    assert measured(rows, rows).state.std[5] == MIN_STD
    assert measured(rows, rows).state.std[0] == pytest.approx(rows[:, 0].std(), rel=1e-4)


@given(st.integers(0, 2**32 - 1))
def test_a_report_holds_no_text_that_a_recorded_value_is_known_by(seed: int) -> None:
    """Also where a joint stood still, so that its mean is its value in every frame."""
    rng = np.random.default_rng(seed)
    rows = frames(rng, MIN_FRAMES, rng.uniform(-100, 100), 30).astype(np.float32)
    rows[:, 3] = rows[0, 3]
    report = measured(rows, rows)
    sent = json.dumps(report.model_dump(mode="json")).encode()
    assert Scanner(joint_canaries("episode", rows, text_every=1)).search([("reply", sent)]).records == 0


def test_numbers_from_elsewhere_are_shortened_too() -> None:
    rows = np.random.default_rng(0).normal(0, 30, (200, 6))
    fields = measured(rows, rows).model_dump()
    fields["state"]["mean"] = [12.3456789] * 6
    assert Statistics.model_validate(fields).state.mean == (float(f"{12.3456789:.{DIGITS}g}"),) * 6


@pytest.mark.parametrize(
    "change",
    [
        {"count": MIN_FRAMES - 1},
        {"count": 10**12},
        {"mean": [0.0] * 5},
        {"mean": [0.0] * 5 + [float("nan")]},
        {"mean": [0.0] * 5 + [2 * LARGEST]},
        {"m2": [0.0] * 7},
        {"m2": [0.0] * 5 + [-1.0]},
        {"m2": [0.0] * 5 + [float("inf")]},
        {"frames": [[1.0] * 6]},
    ],
)
def test_what_is_no_statistic_of_recordings_is_refused(change: dict) -> None:
    good = {"count": 200, "mean": [1.0] * 6, "m2": [2.0] * 6}
    assert Statistics.model_validate({"state": good, "action": good})
    with pytest.raises(ValidationError):
        Statistics.model_validate({"state": {**good, **change}, "action": good})


def test_the_digest_is_the_numbers() -> None:
    rows = np.random.default_rng(0).normal(0, 30, (200, 6))
    report = measured(rows, rows)
    assert Statistics.model_validate_json(report.model_dump_json()).digest == report.digest
    assert measured(rows, rows + 1).digest != report.digest
