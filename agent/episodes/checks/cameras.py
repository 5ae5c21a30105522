"""Are these the cameras that this workstation has: compared with its history."""

from collections.abc import Iterator, Mapping

import numpy as np

from agent.episodes.checks.evidence import Evidence
from agent.episodes.checks.registry import Finding, rule
from agent.episodes.footage import THUMBNAIL, TINT
from agent.episodes.history import LOOKS, Look
from agent.episodes.pictures import likeness

FEWEST = 2
"""Episodes of history needed."""
LIKE = 0.8
"""Likeness of a camera's background with that of its history: 0.85 to 1 in an unchanged scene."""
PART = 3
"""Pictures in a row that make a part of an episode."""
LIT, NOWHERE = 40.0, 12.0
"""Mean grey level from which on a colour can be missed, and level under which it is not there: coding a lost
plane leaves up to 8, sound pictures have 90 and more of each."""
DOUBLED_CONTRAST = 8.0
"""Grey levels of contrast from which on pictures can be told apart: two black ones are alike."""


@rule("video.swapped", 0.25, do="Give the cameras their names back (agent.toml); rename, or record again.")
def swapped(e: Evidence, limit: float) -> Iterator[Finding]:
    """Two cameras have changed places: each looks like the other one of the history.

    The likeness of backgrounds (correlation, -1..1) with the other's history must exceed that with its own
    by the threshold, summed over both. Sound pairs have it the other way round by 0.5 and more.
    """
    known = _known(e)
    mine = e.signature.looks if e.signature else {}
    names = [name for name in mine if len(known.get(name, ())) >= FEWEST]
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            gain = _gain(mine[one], mine[other], known[one], known[other])
            if gain > limit:
                yield Finding(f"cameras {one} and {other} have changed places", gain)
                continue
            for name, its in ((one, other), (other, one)):
                if _stands_in(mine[name], known[name], known[its], limit):
                    yield Finding(f"camera {name} shows what camera {its} used to show", gain)
            part = _part(e, one, other, known, limit)
            if part:
                yield Finding(f"cameras {one} and {other} change places within the episode", limit, part)


@rule("video.doubled", 3.0, do="Look which camera each name means (agent.toml); record it again.")
def doubled(e: Evidence, limit: float) -> Iterator[Finding]:
    """Two cameras show the same pictures: one stream was recorded twice.

    Two cameras at two places differ by 20 to 60 grey levels, one stream encoded twice by under 2. Threshold:
    grey levels, mean absolute difference of the thumbnails.
    """
    shown = [(name, v) for name, v in e.episode.videos.items() if v.frames and not v.fault]
    for i, (one, mine) in enumerate(shown):
        for other, its in shown[i + 1 :]:
            frames = np.linspace(0, min(mine.frames, its.frames) - 1, 4 * LOOKS).round().astype(int)
            pair = [video.thumbnails[frames].astype(np.float32) for video in (mine, its)]
            apart = float(np.abs(pair[0] - pair[1]).mean())
            if apart < limit and min(part.std(axis=(1, 2)).mean() for part in pair) > DOUBLED_CONTRAST:
                yield Finding(f"cameras {one} and {other} show the same pictures", apart)


@rule("video.camera_missing", None, do="Check the camera's cable; record with all cameras.")
def camera_missing(e: Evidence, limit: float) -> Iterator[Finding]:
    """A camera that every episode of the history has is not there.

    A policy's inputs are fixed: such an episode can't be trained with the others.
    """
    known = _known(e)
    total = len(e.history.episodes) if e.history else 0
    for name, looks in known.items():
        if total >= FEWEST and len(looks) == total and name not in e.episode.videos:
            yield Finding(f"camera {name}, which all {total} episodes of the history have, is not there")


@rule("video.view_changed", 0.5, do="Look whether the camera was moved.", outcome="noted")
def view_changed(e: Evidence, limit: float) -> Iterator[Finding]:
    """A camera's background is not that of the history: it was moved, or the scene is another one.

    Only said: a changed scene is no defect. Threshold: likeness (correlation); histories that are unlike each
    other are no reference.
    """
    mine = e.signature.looks if e.signature else {}
    for name, looks in _known(e).items():
        if name not in mine or len(looks) < FEWEST:
            continue
        usual = np.median([likeness(a.background, b.background) for a in looks for b in looks if a is not b])
        now = np.median([likeness(mine[name].background, seen.background) for seen in looks])
        if usual > 0.8 and now < limit:
            yield Finding(
                f"camera {name} shows another scene than the history (likeness {now:.2f})", float(now)
            )


@rule("video.colours", 1.0, do="Find out where the camera's colours are mixed up; record it again.")
def colours(e: Evidence, limit: float) -> Iterator[Finding]:
    """Red and blue are exchanged, compared with the history; or a colour is missing altogether.

    Exchanged: the colour map fits the history's once Cb and Cr change places, and does not as it is.
    Threshold: ratio of the misfits, of which the exchanged one must be under half. Missing: red, green or
    blue stays under 12 of 255 everywhere in a lit picture; sound ones have 90 and more of each somewhere.
    """
    mine = e.signature.looks if e.signature else {}
    for name, seen in mine.items():
        lost = _lost(seen)
        if lost:
            yield Finding(f"camera {name} has no {lost}")
    for name, looks in _known(e).items():
        if name not in mine or len(looks) < FEWEST:
            continue
        tints = [seen.tint for seen in looks if seen.tint.shape == mine[name].tint.shape]
        if len(tints) < FEWEST:
            continue
        usual = np.median(tints, axis=0)
        scatter = float(np.median([np.abs(tint - usual).mean() for tint in tints]))
        straight = float(np.abs(mine[name].tint - usual).mean())
        exchanged = float(np.abs(mine[name].tint[::-1] - usual).mean())
        if straight > 3 * limit + 2 * scatter and exchanged < 0.5 * straight:
            yield Finding(f"red and blue of camera {name} are exchanged", straight / max(exchanged, 0.1))


def _lost(seen: Look) -> str:
    """The colour that is nowhere in a lit picture, or "". BT.601, studio range, as cameras encode."""
    if seen.tint.shape != (2, TINT, TINT):
        return ""
    side = THUMBNAIL // TINT
    light = seen.background.astype(np.float32).reshape(TINT, side, TINT, side).mean(axis=(1, 3))
    if light.mean() < LIT:
        return ""
    blue, red = seen.tint * 255 / 224
    planes = {
        "red": light + 1.402 * red,
        "green": light - 0.344 * blue - 0.714 * red,
        "blue": light + 1.772 * blue,
    }
    return next((name for name, plane in planes.items() if plane.max() < NOWHERE), "")


def _known(e: Evidence) -> dict[str, list[Look]]:
    known: dict[str, list[Look]] = {}
    for seen in e.history.episodes if e.history else ():
        for name, shown in seen.looks.items():
            known.setdefault(name, []).append(shown)
    return known


def _gain(one: Look, other: Look, known_one: list[Look], known_other: list[Look]) -> float:
    """How much better the exchanged names fit; the mean of two likenesses more."""
    straight = _fit(one, known_one) + _fit(other, known_other)
    crossed = _fit(one, known_other) + _fit(other, known_one)
    return crossed - straight


def _fit(mine: Look, known: list[Look]) -> float:
    """Likeness in grey, less the distance in colour (a tenth for each level of Cb and Cr)."""
    values = [likeness(mine.background, seen.background) for seen in known]
    apart = [np.abs(mine.tint.mean(axis=(1, 2)) - seen.tint.mean(axis=(1, 2))).mean() for seen in known]
    return float(np.median(values)) - 0.1 * min(5.0, float(np.median(apart)))


def _stands_in(mine: Look, own: list[Look], others: list[Look], limit: float) -> bool:
    """Whether one camera looks like the other's history and not like its own."""
    alike = [[likeness(mine.background, seen.background) for seen in known] for known in (own, others)]
    return float(np.median(alike[1])) > LIKE and float(np.median(alike[1]) - np.median(alike[0])) > 2 * limit


def _part(e: Evidence, one: str, other: str, known: Mapping[str, list[Look]], limit: float) -> list[int]:
    """Frames, of LOOKS spread over the episode, in which the exchanged names fit better: PART in a row."""
    videos = [e.episode.videos[name] for name in (one, other)]
    frames = np.linspace(0, min(video.frames for video in videos) - 1, 4 * LOOKS).round().astype(int)
    backgrounds = [np.median([seen.background for seen in known[name]], axis=0) for name in (one, other)]
    gains = []
    for frame in frames:
        likes = [[likeness(v.thumbnails[frame], b) for b in backgrounds] for v in videos]
        gains.append(likes[0][1] + likes[1][0] - likes[0][0] - likes[1][1])
    flags = np.array(gains) > 2 * limit
    found = [i for i in range(len(flags) - PART + 1) if flags[i : i + PART].all()]
    return [int(frames[found[0]]), int(frames[found[-1] + PART - 1])] if found else []
