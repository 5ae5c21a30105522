"""Sharp edges are told from blurred ones, also where noise has the steepest slopes."""

import cv2
import numpy as np
import pytest

from agent.episodes.pictures import edge_width


def picture(sigma, noise, rng):
    """Bright and dark blocks of 40 pixels, (240, 320), blurred, then with sensor noise."""
    grey = np.kron(rng.integers(30, 220, (6, 8)), np.ones((40, 40))).astype(np.float32)
    blurred = cv2.GaussianBlur(grey, (0, 0), sigma) if sigma else grey
    return np.clip(blurred + rng.normal(0, noise, grey.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("noise", [0, 3, 6])
@pytest.mark.parametrize(("sigma", "low", "high"), [(0, 1.5, 3.5), (14, 12.0, 60.0)])
def test_noise_does_not_make_a_blurred_picture_sharp(sigma, low, high, noise):
    widths = [edge_width(picture(sigma, noise, np.random.default_rng(seed))) for seed in range(5)]
    assert low < min(widths)
    assert max(widths) < high


def test_a_fine_weave_under_soft_light_is_sharp():
    light = np.tile(np.linspace(60, 200, 320), (240, 1))
    checks = np.kron(np.indices((120, 160)).sum(0) % 2, np.ones((2, 2)))
    assert edge_width((light * (0.8 + 0.2 * checks)).astype(np.uint8)) < 5


def test_a_plain_picture_has_no_edges():
    assert edge_width(np.full((240, 320), 128, np.uint8)) == np.inf
