"""How sharp and how noisy a picture is, from the picture alone."""

import numpy as np

REACH = 10
"""Pixels either side of an edge in which its height is looked for."""
EDGES = 400
"""Pixels of steepest gradient that are looked at."""
COARSE, BROAD = 4, 16.0
"""Pixels that are averaged against noise, and the width, in pixels, from which an edge of the averaged
picture says more than the picture itself: sharp ones have 8 to 10 there, blurred with a sigma of 14 pixels
24 to 31."""
WEAK = 15.0
"""Grey levels per pixel that noise with a standard deviation of 7 reaches in one of 200 places; sharp edges
and weaves have more."""
REFERENCE_WIDTH = 320
"""Widths of edges are given for a picture of this width; smaller pictures are taken as they are."""


def edge_width(picture: np.ndarray) -> float:
    """Pixels over which the sharpest edges of a grey (H, W) picture rise; inf where it has none.

    A step has 2, a step blurred with a Gaussian of sigma s about 2.5 s (Marziliano et al., 2002, measure the
    same by following edges).
    """
    grey = picture.astype(np.float32)
    width, coarse = _width(grey), COARSE * _width(_reduced(grey))
    # What was found is noise then: averaged away, no sharp edge is left.
    if BROAD < coarse < np.inf and _steepest(grey) < WEAK:
        width = max(width, coarse)
    return width / max(1.0, picture.shape[1] / REFERENCE_WIDTH)


def _steepest(grey: np.ndarray) -> float:
    return float(np.percentile(np.abs(grey[:, 2:] - grey[:, :-2]) / 2, 99.5))


def _width(grey: np.ndarray) -> float:
    return min(_along_rows(grey), _along_rows(grey.T))


def _reduced(grey: np.ndarray) -> np.ndarray:
    """Means of COARSE x COARSE pixels."""
    rows, columns = (size // COARSE for size in grey.shape)
    blocks = grey[: rows * COARSE, : columns * COARSE].reshape(rows, COARSE, columns, COARSE)
    return blocks.mean(axis=(1, 3))


def _along_rows(grey: np.ndarray) -> float:
    width = grey.shape[1]
    if width < 2 * REACH + 3:
        return float("inf")
    slope = np.abs(grey[:, 2:] - grey[:, :-2]) / 2
    inner = slope[:, REACH - 1 : width - REACH - 1]
    count = min(EDGES, max(20, inner.size // 100))
    places = np.argpartition(inner.ravel(), -count)[-count:]
    rows, columns = np.unravel_index(places, inner.shape)
    steep = inner[rows, columns]
    columns = columns + REACH
    windows = grey[rows[:, None], columns[:, None] + np.arange(-REACH, REACH + 1)]
    heights = np.ptp(windows, axis=1)
    good = heights > 8.0
    if good.sum() < 10:
        return float("inf")
    return float(np.percentile(heights[good] / steep[good], 25))


def noise(picture: np.ndarray) -> float:
    """Standard deviation of the noise of a grey (H, W) picture, grey levels (Immerkaer, 1996).

    The median in place of the mean keeps texture and edges out.
    """
    grey = picture.astype(np.float32)
    across = grey[:, :-2] - 2 * grey[:, 1:-1] + grey[:, 2:]
    both = across[:-2] - 2 * across[1:-1] + across[2:]
    return float(np.median(np.abs(both)) / (0.6745 * 6.0))


def likeness(one: np.ndarray, other: np.ndarray) -> float:
    """Correlation of two grey pictures of one size, -1..1: independent of brightness and contrast."""
    left, right = one.astype(np.float32).ravel(), other.astype(np.float32).ravel()
    left, right = left - left.mean(), right - right.mean()
    norm = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / norm if norm > 1e-6 else 0.0
