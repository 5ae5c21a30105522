"""Cameras that show nothing, something else, or at another time."""

import numpy as np

from ..effects import blur, brightness, drop, each, flat, freeze, noise, padded, slow, within
from ..registry import Scene, defect
from ..scene import View
from ..stage import CAMERAS

COUNT = ("video.frame_count", "video.stamps", "container.video_span")


def _busy(scene: Scene, length: int) -> int:
    """Where a stretch of this length begins in which the arm moves most."""
    speed = np.abs(np.diff(scene.shot.motion.state, axis=0)).sum(axis=1)
    return int(np.argmax(np.convolve(speed, np.ones(length), mode="valid")))


def _cameras(scene: Scene) -> tuple[str, ...]:
    """One camera, or both when blatant."""
    return CAMERAS if scene.level == 2 else (CAMERAS[int(scene.rng.integers(2))],)


@defect("video.size", "container.features")
def wrong_size(scene: Scene) -> None:
    """The metadata declares another size than the pictures have: height and width exchanged, twice the size,
    and a thumbnail beside a full declaration."""
    shot = scene.shot
    if scene.level == 2:
        shot.size, shot.declared, shot.stock = (48, 64), (240, 320), {}
    else:
        shot.declared = scene.pick((320, 240), (480, 640), (0, 0))


@defect(*COUNT)
def fewer_frames(scene: Scene) -> None:
    """The video ends before the rows: by 2 frames, by 15, at half."""
    rows = len(scene.shot)
    count = scene.pick(2, 15, rows // 2)
    scene.shot.film(drop(range(rows - count, rows)), *_cameras(scene))


@defect(*COUNT)
def more_frames(scene: Scene) -> None:
    """The video goes on after the rows: by 3 frames, by 20, twice as long."""
    scene.shot.film(padded(scene.pick(3, 20, len(scene.shot))), *_cameras(scene))


@defect(*COUNT, "video.shifted")
def dropped_in_the_middle(scene: Scene) -> None:
    """The encoder fell behind: frames lost in the middle, later ones at earlier rows; 3, 12, 45 frames."""
    count = scene.pick(3, 12, 45)
    start = _busy(scene, count)
    scene.shot.film(drop(range(start, start + count)), CAMERAS[int(scene.rng.integers(2))])


@defect("video.shifted", "video.frozen")
def dropped_and_padded(scene: Scene) -> None:
    """Frames lost in the middle, the end filled up so that the count is right; 8, 20, 75."""
    count = scene.pick(8, 20, 75)
    start = _busy(scene, count)
    for effect in (drop(range(start, start + count)), padded(count)):
        scene.shot.film(effect, *(CAMERAS if scene.level else CAMERAS[:1]))


@defect("video.frozen")
def frozen_camera(scene: Scene) -> None:
    """One picture for the whole episode: the front camera's, the wrist camera's, both."""
    scene.shot.film(freeze(0, len(scene.shot)), *scene.pick(CAMERAS[:1], CAMERAS[1:], CAMERAS))


@defect("video.frozen")
def frozen_stretch(scene: Scene) -> None:
    """The picture stands still while the arm moves: 0.8 s, 2 s, 5 s."""
    length = scene.pick(24, 60, 150)
    start = _busy(scene, length)
    scene.shot.film(freeze(start, start + length), *_cameras(scene))


@defect("video.frozen", "video.rate", "timing.camera")
def slow_camera(scene: Scene) -> None:
    """A camera with a new picture only every 5th row (6 Hz), 8th, 20th."""
    scene.shot.film(slow(scene.pick(5, 8, 20)), *_cameras(scene))


@defect("video.black", "video.flat")
def black(scene: Scene) -> None:
    """A black picture: the lens cap falls after two thirds, one camera, both."""
    rows = len(scene.shot)
    start = scene.pick(rows * 2 // 3, 0, 0)
    scene.shot.film(
        within(start, rows, flat(scene.pick(4, 2, 0), scene.pick(1.2, 0.5, 0.0))), *_cameras(scene)
    )


@defect("video.white", "video.flat")
def white(scene: Scene) -> None:
    """Over-exposed: most of the picture clipped, nearly all, plain white."""
    gain, offset = scene.pick((1.8, 70.0), (2.5, 130.0), (1.0, 255.0))
    scene.shot.film(brightness(lambda row: gain, offset), *_cameras(scene))


@defect("video.blurred", "video.flat")
def blurred(scene: Scene) -> None:
    """Out of focus all along: sigma 3 pixels, 6, 14."""
    scene.shot.film(each(blur(scene.pick(3.0, 6.0, 14.0))), *_cameras(scene))
    scene.history = True


@defect("video.noise")
def noise_only(scene: Scene) -> None:
    """Static: a third of the picture still to be seen, a tenth, none."""
    keep, sigma = scene.pick((0.35, 60.0), (0.1, 60.0), (0.0, 90.0))
    scene.shot.film(each(noise(sigma, keep, int(scene.rng.integers(1000)))), *_cameras(scene))


@defect("video.swapped")
def swapped_cameras(scene: Scene) -> None:
    """Front and wrist exchanged: from the middle on, under another light, from the start."""
    shot, rows = scene.shot, len(scene.shot)
    scene.history = True
    if scene.level == 2:
        shot.stock = {CAMERAS[0]: shot.stock[CAMERAS[1]], CAMERAS[1]: shot.stock[CAMERAS[0]]}
        return
    start = scene.pick(rows // 2, 0, 0)
    for camera in CAMERAS:
        other = CAMERAS[1 - CAMERAS.index(camera)]
        view = View(shot.rig, other, shot.props, shot.size)  # type: ignore[arg-type]
        theirs = list(view.frames(shot.motion.state, shot.seed))
        shot.film(within(start, rows, lambda image, row, theirs=theirs: theirs[row]), camera)
        if scene.level == 1:
            shot.film(brightness(lambda row: 0.8, 6.0), camera)


@defect("video.shifted")
def shifted_video(scene: Scene) -> None:
    """The pictures belong to rows before or after theirs: by 9 frames, 20, 60."""
    shift = scene.pick(9, 20, 60) * int(scene.rng.choice([-1, 1]))
    state = scene.shot.motion.state
    at = np.clip(np.arange(len(state)) - shift, 0, len(state) - 1)
    for camera in CAMERAS:
        scene.shot.redraw(camera, state[at])


@defect("video.colours")
def wrong_colours(scene: Scene) -> None:
    """Red and blue exchanged in one camera, in both; the last plane lost in both."""

    def change(image: np.ndarray, row: int) -> np.ndarray:
        if scene.level == 2:
            return image * np.array([1, 1, 0], np.uint8)
        return np.ascontiguousarray(image[..., ::-1])

    scene.shot.film(each(change), *scene.pick(CAMERAS[:1], CAMERAS, CAMERAS))
    scene.history = True
