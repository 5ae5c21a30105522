"""Training samples of the base."""

import numpy as np

from sim.pretrain.data import generate
from sim.pretrain.policy import ACTION_KEY, MIN_STD, statistics


def test_samples_hold_what_is_seen_and_what_the_person_does_next() -> None:
    told: list[int] = []
    samples = generate(4, told.append)
    assert told == [1, 2, 3, 4]
    assert samples.images.shape[1:] == (3, 96, 96)
    assert samples.images.dtype == np.uint8
    assert samples.actions.shape == (len(samples), 8, 6)
    assert set(samples.verbs) == {0, 1}
    assert set(samples.colors) == {0, 1}
    np.testing.assert_allclose(
        samples.cubes[np.arange(len(samples)), samples.colors, :2], samples.targets, atol=1e-6
    )
    assert (samples.cubes[..., 2].sum(1) == 3).all()
    ahead = np.abs(samples.actions[:, 0] - samples.states).max()
    assert 1 < ahead < 60


def test_statistics_leave_room_for_pushes() -> None:
    stats = statistics(generate(2))
    assert (stats[ACTION_KEY]["std"] >= MIN_STD).all()
