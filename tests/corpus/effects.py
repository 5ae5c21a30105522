"""What can happen to pictures between the scene and the encoder."""

from collections.abc import Callable, Iterator, Sequence

import cv2
import numpy as np

from .scene import Effect

Image = np.ndarray
"""(height, width, 3) uint8 RGB."""


def each(change: Callable[[Image, int], Image]) -> Effect:
    """The change for every picture by itself; it gets the picture and its number."""

    def effect(frames: Iterator[Image]) -> Iterator[Image]:
        for row, image in enumerate(frames):
            yield change(image, row)

    return effect


def within(start: int, stop: int, change: Callable[[Image, int], Image]) -> Effect:
    """The change for the pictures from start to stop only."""
    return each(lambda image, row: change(image, row) if start <= row < stop else image)


def freeze(start: int, stop: int) -> Effect:
    """The picture at start stays until stop."""

    def effect(frames: Iterator[Image]) -> Iterator[Image]:
        held = None
        for row, image in enumerate(frames):
            if row == start:
                held = image
            yield held if held is not None and start <= row < stop else image

    return effect


def slow(every: int) -> Effect:
    """A camera that delivers a new picture only every so many rows."""

    def effect(frames: Iterator[Image]) -> Iterator[Image]:
        held = None
        for row, image in enumerate(frames):
            if row % every == 0:
                held = image
            yield held if held is not None else image

    return effect


def drop(rows: Sequence[int]) -> Effect:
    """These pictures are lost; the video gets shorter."""
    lost = set(rows)

    def effect(frames: Iterator[Image]) -> Iterator[Image]:
        return (image for row, image in enumerate(frames) if row not in lost)

    return effect


def padded(count: int) -> Effect:
    """The last picture once more, `count` times."""

    def effect(frames: Iterator[Image]) -> Iterator[Image]:
        image = None
        for image in frames:
            yield image
        if image is not None:
            yield from [image] * count

    return effect


def brightness(gain: Callable[[int], float], offset: float = 0.0) -> Effect:
    """Factor by row and an offset in grey levels."""
    return each(
        lambda image, row: np.clip(image.astype(np.float32) * gain(row) + offset, 0, 255).astype(np.uint8)
    )


def blur(sigma: float) -> Callable[[Image, int], Image]:
    """Out of focus, sigma in pixels; the sensor's noise stays."""

    def change(image: Image, row: int) -> Image:
        soft = cv2.GaussianBlur(image, (0, 0), sigma)
        grain = np.random.default_rng(row).normal(0, 2.0, image.shape[:2])[..., None]
        return np.clip(soft + grain, 0, 255).astype(np.uint8)

    return change


def smear(length: int) -> Callable[[Image, int], Image]:
    """Motion blur along the rows of pixels."""
    kernel = np.full((1, length), 1 / length, np.float32)
    return lambda image, row: cv2.filter2D(image, -1, kernel)


def noise(sigma: float, keep: float, seed: int) -> Callable[[Image, int], Image]:
    """Static: `keep` of the picture remains under noise of `sigma` grey levels around middle grey."""

    def change(image: Image, row: int) -> Image:
        rng = np.random.default_rng([seed, row])
        static = rng.normal(128, sigma, image.shape)
        return np.clip(image * keep + static * (1 - keep * 0.5) - 64 * keep, 0, 255).astype(np.uint8)

    return change


def flat(level: int, sigma: float = 0.0) -> Callable[[Image, int], Image]:
    """One grey level, with the sensor's noise."""

    def change(image: Image, row: int) -> Image:
        rng = np.random.default_rng(row)
        return np.clip(np.full(image.shape, level) + rng.normal(0, sigma, image.shape), 0, 255).astype(
            np.uint8
        )

    return change
