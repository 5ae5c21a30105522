"""The hand at the leader."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sim.person import Person, smooth_path

poses = st.lists(st.floats(-90, 90), min_size=6, max_size=6).map(np.array)


@given(poses, poses, st.floats(0.05, 10))
def test_a_smooth_path_begins_and_ends_at_rest_and_never_overshoots(
    start: np.ndarray, end: np.ndarray, seconds: float
) -> None:
    path = smooth_path(start, end, seconds)
    np.testing.assert_allclose([path[0], path[-1]], [start, end], atol=1e-9)
    low, high = np.minimum(start, end) - 1e-9, np.maximum(start, end) + 1e-9
    assert ((path >= low) & (path <= high)).all()


@given(poses, poses, st.floats(0.1, 5), st.floats(-1, 20))
def test_the_hand_is_always_somewhere_between(
    start: np.ndarray, end: np.ndarray, seconds: float, later: float
) -> None:
    person = Person(start)
    person.move(100.0, end, seconds)
    pose = person.pose(100.0 + later)
    assert (np.abs(pose - start) <= np.abs(end - start) + 1e-9).all()
    assert person.moving(100.0 + later) == (later < round(seconds * 30) / 30)


def test_a_demonstration_is_followed_at_30_hz_and_then_held() -> None:
    person = Person(np.zeros(6))
    path = np.arange(31)[:, None] * np.ones(6) * 0.1
    assert person.demonstrate(5.0, path) == 1.0
    np.testing.assert_allclose(person.pose(5.5), path[15])
    np.testing.assert_allclose(person.pose(5.0 + 1.5 / 30), (path[1] + path[2]) / 2)
    assert person.demonstrating(5.9)
    assert not person.demonstrating(6.01)
    assert person.seconds(99.0) == 1.0
    np.testing.assert_allclose(person.pose(99.0), path[-1])


def test_the_hand_approaches_before_a_demonstration_that_begins_elsewhere() -> None:
    person = Person(np.zeros(6))
    seconds = person.demonstrate(0.0, np.full((31, 6), 30.0))
    assert 1.5 - 0.05 <= seconds <= 1.5 + 0.05  # 30 units at 60 a second, then 1 s
    assert person.pose(0.01)[0] < 1.0


def test_moving_is_no_demonstration_and_replaces_one() -> None:
    person = Person(np.zeros(6))
    person.demonstrate(0.0, np.zeros((300, 6)))
    person.move(1.0, np.full(6, 5.0), 1.0)
    assert not person.demonstrating(1.5)
    assert person.moving(1.5)
