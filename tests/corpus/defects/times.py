"""Stamps that are wrong, and recordings that did not keep time."""

from typing import Any

import numpy as np

from ..motion import FPS
from ..registry import Scene, defect
from ..stage import CAMERAS, sidecar

STAMPS = ("timing.", "container.")


def _lines(scene: Scene) -> list[dict[str, Any]]:
    """The shot's sidecar; these cases all have one."""
    if scene.shot.sidecar is None:
        scene.shot.sidecar = sidecar(len(scene.shot), scene.rng)
    return scene.shot.sidecar


def _delay(lines: list[dict[str, Any]], first: int, seconds: float) -> None:
    """From this row on, everything happened later."""
    for line in lines[first:]:
        line["wall"] = round(line["wall"] + seconds, 6)
        for shot in line["cameras"].values():
            shot["stamp"] = round(shot["stamp"] + seconds, 6)
    lines[first]["period"] = round(lines[first]["period"] + seconds, 6)
    lines[first]["late"] = round(lines[first]["late"] + seconds, 6)


@defect(*STAMPS)
def jittered_stamps(scene: Scene) -> None:
    """Time stamps that waver about their rate: by 3 ms, 8 ms, 25 ms."""
    sigma = scene.pick(0.003, 0.008, 0.025)
    times = scene.shot.timestamps
    times[1:] += np.clip(scene.rng.normal(0, sigma, len(times) - 1), -0.016, 0.016)


@defect(*STAMPS)
def wrong_rate(scene: Scene) -> None:
    """Time stamps of another rate than the declared 30 Hz: 28.5 Hz, 25 Hz, 10 Hz."""
    scene.shot.timestamps *= FPS / scene.pick(28.5, 25.0, 10.0)


@defect(*STAMPS)
def stamp_gap(scene: Scene) -> None:
    """A hole in the time stamps: of 3 frames, half a second, five seconds."""
    start = int(scene.rng.integers(40, len(scene.shot) - 40))
    scene.shot.timestamps[start:] += scene.pick(0.1, 0.5, 5.0)


@defect(*STAMPS)
def stamps_going_back(scene: Scene) -> None:
    """Time stamps that go back: two exchanged, the clock set back by 2 s, in random order."""
    times = scene.shot.timestamps
    middle = len(times) // 2
    if scene.level == 0:
        times[[middle, middle + 1]] = times[[middle + 1, middle]]
    elif scene.level == 1:
        times[middle:] -= 2.0
    else:
        scene.rng.shuffle(times)


@defect(*STAMPS)
def repeated_stamps(scene: Scene) -> None:
    """The same time stamp in several rows: one pair, every fourth, all zero."""
    times = scene.shot.timestamps
    if scene.level == 0:
        times[len(times) // 3] = times[len(times) // 3 - 1]
    elif scene.level == 1:
        times[4::4] = times[3:-1:4][: len(times[4::4])]
    else:
        times[:] = 0


@defect("timing.", "video.shifted")
def old_pictures(scene: Scene) -> None:
    """The sidecar: pictures came late, by 0.3 s for half the time, 0.7 s, 3 s; the video shows it."""
    age, share = scene.pick((0.3, 0.5), (0.7, 0.8), (3.0, 1.0))
    lines = _lines(scene)
    camera = CAMERAS[int(scene.rng.integers(2))]
    start = int(len(lines) * (1 - share))
    for line in lines[start:]:
        shot = line["cameras"][camera]
        shot["age"] = round(shot["age"] + age, 6)
        shot["stamp"] = round(shot["stamp"] - age, 6)
    at = np.arange(len(lines))
    at[start:] = np.maximum(at[start:] - round(age * FPS), 0)
    scene.shot.redraw(camera, scene.shot.motion.state[at])


@defect("timing.", "motion.teleport")
def stalled_loop(scene: Scene) -> None:
    """The sidecar: the loop stood still in the middle of a movement, 0.4 s, 0.9 s, 4 s; the arm went on."""
    seconds = scene.pick(0.4, 0.9, 4.0)
    speed = np.abs(np.diff(scene.shot.motion.action, axis=0)).max(axis=1)
    lost = min(round(seconds * FPS), 40)
    start = int(np.argmax(np.convolve(speed, np.ones(lost), mode="valid"))) + 1
    motion = scene.shot.motion
    keep = np.delete(np.arange(len(motion)), range(start, start + lost - 1))
    lines = _lines(scene)
    scene.shot.act(type(motion)(motion.action[keep], motion.state[keep], motion.origin))
    lines = _lines(scene)
    _delay(lines, start, seconds)


@defect("timing.", "video.frozen")
def repeated_pictures(scene: Scene) -> None:
    """The sidecar: a camera so slow that pictures were taken twice and more, 60 % of rows, 80 %, 97 %."""
    every = scene.pick(3, 5, 30)
    camera = CAMERAS[int(scene.rng.integers(2))]
    lines = _lines(scene)
    for row, line in enumerate(lines):
        behind = row % every
        shot = line["cameras"][camera]
        shot["repeat"] = behind > 0
        shot["age"] = round(shot["age"] + behind / FPS, 6)
        shot["stamp"] = round(shot["stamp"] - behind / FPS, 6)
    at = np.arange(len(lines)) // every * every
    scene.shot.redraw(camera, scene.shot.motion.state[at])


@defect("timing.")
def slow_loop(scene: Scene) -> None:
    """The sidecar: the loop ran at 25 Hz, 20 Hz, 9 Hz and was stamped at 30."""
    extra = 1 / scene.pick(25.0, 20.0, 9.0) - 1 / FPS
    lines = _lines(scene)
    for row, line in enumerate(lines):
        line["wall"] = round(line["wall"] + row * extra, 6)
        line["late"] = round(line["late"] + extra, 6)
        if line["period"] is not None:
            line["period"] = round(line["period"] + extra, 6)
        for shot in line["cameras"].values():
            shot["stamp"] = round(shot["stamp"] + row * extra, 6)


@defect("timing.")
def uneven_loop(scene: Scene) -> None:
    """The sidecar: the loop's periods are 33 ms on average and vary by 9 ms, 18 ms, 40 ms."""
    sigma = scene.pick(0.009, 0.018, 0.04)
    lines = _lines(scene)
    lateness = np.abs(scene.rng.normal(0, sigma * 1.3, len(lines)))
    before = lines[0]["wall"]
    for row, line in enumerate(lines[1:], 1):
        line["wall"] = round(max(line["wall"] + float(lateness[row]), before + 0.002), 6)
        line["late"] = round(float(lateness[row]), 6)
        line["period"] = round(line["wall"] - before, 6)
        before = line["wall"]
