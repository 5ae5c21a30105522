"""Each defect is found and named by its own check, the subtle ones too."""

from dataclasses import replace

import numpy as np
import pytest

from agent.episodes.footage import unreadable
from agent.episodes.gate import judge_data
from tests.agent.episodes import scenes
from tests.agent.episodes.scenes import FPS, edited, front, moved, of, sound, wrist

ROWS = 240
GOOD = sound()


def reasons(episode, **kwargs):
    return {reason.check for reason in judge_data(episode, **kwargs).reasons}


def notes(episode):
    return {note.check for note in judge_data(episode).notes}


def late(array, frames):
    return array[np.clip(np.arange(len(array)) - frames, 0, len(array) - 1)]


def flat(array, start, stop, column):
    copy = array.copy()
    copy[start:stop, column] = copy[start, column]
    return copy


def seen(camera="front", **changes):
    """Videos of the good episode, one of them changed."""
    return GOOD.videos | {camera: replace(GOOD.videos[camera], **changes)}


def thumbnails(change, camera="front"):
    copy = GOOD.videos[camera].thumbnails.astype(np.float64)
    return seen(camera, thumbnails=np.clip(change(copy), 0, 255).astype(np.uint8))


def still(start, stop):
    def change(pictures):
        pictures[start:stop] = pictures[start]
        return pictures

    return change


def level(start, stop, value):
    def change(pictures):
        pictures[start:stop] = value
        return pictures

    return change


def shaken():
    beat = 3 * np.sin(2 * np.pi * 7 * np.arange(ROWS) / FPS)
    return moved(GOOD.state, (slice(None), 3), beat)


def retried():
    state = GOOD.state.copy()
    for row in range(20, ROWS - 10, 14):
        state[row : row + 6] = state[row]
    return state


def stuttering():
    """Two rows lost now and then, in the midst of motion."""
    state = GOOD.state.copy()
    speed = np.abs(np.diff(state, axis=0)).max(axis=1)
    for row in np.argsort(-speed[3:-8])[:40:4] + 3:
        state[row : row + 3] = state[row]
    return state


def clamped():
    """Calibrated over too small a range: the wrist's turning points are lost."""
    state, action = GOOD.state.copy(), GOOD.action.copy()
    for array in (state, action):
        array[:, 3] = np.minimum(array[:, 3] + 100 - np.quantile(GOOD.state[:, 3], 0.5), 100)
    return {"state": state, "action": action}


def without_blue():
    video = GOOD.videos["front"]
    light = video.thumbnails.max(axis=0).reshape(16, 4, 16, 4).mean(axis=(1, 3))
    tint = np.stack([-light / 1.772 * 224 / 255, np.zeros_like(light)]).astype(np.float32)
    return seen(tint=tint)


def overloaded():
    state, action = GOOD.state.copy(), GOOD.action.copy()
    state[100:160, 2], action[100:160, 2] = 60.0, 78.0
    return {"state": state, "action": action}


def drifting(units):
    return moved(GOOD.state, (slice(None), 0), np.linspace(0, units, ROWS))


def blurred():
    picture = np.kron(scenes.texture(1), np.ones((4, 5)))
    for _ in range(40):
        picture = (picture + np.roll(picture, 1, 0) + np.roll(picture, 1, 1) + np.roll(picture, -1, 1)) / 4
    return seen(samples=tuple([picture.astype(np.uint8)] * 12))


def noisy():
    rng = np.random.default_rng(0)
    return seen(samples=tuple(rng.integers(0, 255, (256, 320)).astype(np.uint8) for _ in range(12)))


def counters(**changes):
    return replace(GOOD.layout, counters=GOOD.layout.counters | changes)


def timed(**changes):
    return [row | changes for row in GOOD.sidecar]


def aged(age):
    return [
        row | {"cameras": {"front": {"stamp": row["wall"] - age, "age": age, "repeat": False}}}
        for row in GOOD.sidecar
    ]


def slowed(rate):
    return [row | {"wall": 1000 + i / rate} for i, row in enumerate(GOOD.sidecar)]


def scattered():
    rng = np.random.default_rng(0)
    wall = 1000 + np.arange(ROWS) / FPS + rng.uniform(0, 0.05, ROWS)
    return [row | {"wall": float(t)} for row, t in zip(GOOD.sidecar, wall, strict=True)]


S, A = GOOD.state, GOOD.action
CASES = {
    "values.not_finite": [{"state": edited(S, (40, 2), np.nan)}, {"action": edited(A, (40, 2), np.inf)}],
    "values.shape": [{"action": A[:, :5]}, {"state": S[:, :5], "action": A[:, :5]}],
    "values.joint_order": [{"names": GOOD.names[::-1]}, {"action_names": GOOD.names[::-1]}],
    "values.out_of_range": [
        {"action": edited(A, (slice(50, 60), 1), 500)},
        {"state": edited(S, (slice(50, 56), 5), 118)},
        {"action": edited(A, (slice(50, 60), 5), -22)},
        {"action": edited(A, (slice(50, 54), 1), -118)},
    ],
    "values.unit": [
        {"state": S * np.float32(np.pi / 180), "action": A * np.float32(np.pi / 180)},
        {"state": S / 100, "action": A / 100},
        {"state": 2048 + S * 11, "action": 2048 + A * 11},
        {"state": S * np.array([1.2] * 5 + [1], np.float32)},
        {"state": S * np.array([1, np.pi / 180, 1, 1, 1, 1], np.float32)},
    ],
    "timing.stamps": [
        {"timestamps": np.arange(ROWS) / 25},
        {"timestamps": np.arange(ROWS) / FPS + np.random.default_rng(0).uniform(0, 0.004, ROWS)},
        {"timestamps": np.arange(ROWS) / FPS + 3.0},
        {"timestamps": np.arange(ROWS) / FPS + 0.1 * (np.arange(ROWS) > 99)},
    ],
    "timing.order": [
        {"timestamps": edited(GOOD.timestamps, 90, GOOD.timestamps[89])},
        {"timestamps": GOOD.timestamps[::-1]},
    ],
    "timing.sidecar": [{"sidecar": GOOD.sidecar[:-3]}, {"sidecar": None, "sidecar_fault": "damaged"}],
    "timing.rate": [{"sidecar": slowed(25)}, {"sidecar": slowed(27.5)}],
    "timing.jitter": [{"sidecar": scattered()}],
    "timing.camera_age": [{"sidecar": aged(0.3)}, {"sidecar": aged(0.17)}],
    "motion.none": [{"state": S * 0 + 5}, {"state": S * 0.04, "action": A * 0.04}],
    "motion.jump": [{"state": edited(S, (60, 3), S[60, 3] + 60)}],
    "motion.spike": [
        {"state": moved(S, (60, 3), 8)},
        {"action": moved(A, (90, 0), -8)},
        {"state": moved(S, (slice(60, 62), 1), 12)},
    ],
    "motion.teleport": [
        {"state": moved(S, (slice(120, None), 3), 14), "action": moved(A, (slice(120, None), 3), 14)}
    ],
    "motion.jerk": [{"state": retried()}, {"state": stuttering()}],
    "motion.shaking": [{"state": shaken()}],
    "motion.state_frozen": [
        {"state": edited(S, slice(60, 90), S[60])},
        {"state": edited(S, slice(None), S[60])},
    ],
    "motion.action_frozen": [{"action": edited(A, slice(60, 120), A[60])}],
    "motion.joint_stuck": [
        {"state": edited(S, (slice(None), 1), 12.0)},
        {"state": flat(S, 60, 130, 0)},
        {"state": edited(S, (slice(None), 5), 20.0)},
    ],
    "motion.overload": [overloaded()],
    "motion.saturated": [clamped()],
    "coupling.action_copied": [
        {"action": S.copy()},
        {"action": late(S, -1)},
        {"action": late(S, -4)},
        {"action": S + np.random.default_rng(0).normal(0, 0.3, S.shape).astype(np.float32)},
    ],
    "coupling.state_leads": [{"action": late(A, 10)}, {"action": late(A, 25)}],
    "coupling.lag": [{"state": late(S, 8)}, {"state": late(S, 15)}],
    "coupling.not_following": [{"state": sound(seed=9).state}],
    "coupling.sign": [
        {"state": S * np.array([1, 1, 1, 1, -1, 1], np.float32)},
        {"action": A * np.array([-1, -1, -1, -1, -1, 1], np.float32)},
    ],
    "coupling.permuted": [
        {"state": S[:, [1, 0, 2, 3, 4, 5]]},
        {"action": A[:, [5, 4, 3, 2, 1, 0]]},
        {"state": S[:, [5, 0, 1, 2, 3, 4]]},
        {"state": S[:, [0, 1, 3, 2, 4, 5]]},
    ],
    "coupling.offset": [
        {"state": moved(S, (slice(None), 0), 6)},
        {"state": moved(S, (slice(None), 2), -14)},
        {"state": moved(S, (slice(None), 5), 14)},
    ],
    "coupling.drift": [{"state": drifting(6)}, {"state": drifting(-20)}],
    "identity.task_empty": [{"task": "  "}],
    "identity.task_placeholder": [
        {"task": text} for text in ("task", "test 1", "TODO", "N/A", "your task here", "???")
    ],
    "identity.task_unusable": [
        {"task": text}
        for text in ("push the cube\nleft", "push \x1b[2J left", "push \u202etfel", "push " * 61)
    ],
    "container.length": [{"declared_frames": ROWS - 4}, {"layout": replace(GOOD.layout, to_index=ROWS + 9)}],
    "container.frame_index": [
        {"layout": counters(frame_index=np.delete(np.arange(ROWS + 1), 50))},
        {"layout": counters(index=np.delete(np.arange(ROWS + 1), 50))},
    ],
    "container.episode_index": [
        {"layout": counters(episode_index=np.full(ROWS, 3))},
        {"layout": replace(GOOD.layout, from_index=100, to_index=100 + ROWS)},
    ],
    "container.features": [
        {"layout": replace(GOOD.layout, shapes={"action": 7})},
        {"names": GOOD.names[:5]},
    ],
    "container.task_index": [{"layout": counters(task_index=np.full(ROWS, 2))}],
    "container.totals": [{"layout": replace(GOOD.layout, totals={"total_frames": (ROWS + 9, ROWS)})}],
    "container.video_span": [{"layout": replace(GOOD.layout, spans={"front": 4.0})}],
    "container.stats": [
        {"layout": replace(GOOD.layout, stats={("action", "max"): np.full(6, 900.0)})},
    ],
    "container.empty": [{"state": S[:0], "action": A[:0]}],
    "video.missing": [{"videos": {}}, {"videos": {"front": unreadable("gone", "missing")}}],
    "video.corrupt": [{"videos": {"front": unreadable("no moov", "corrupt")}}, {"videos": seen(errors=3)}],
    "video.size": [{"videos": seen(declared=(480, 640))}, {"videos": seen(declared=(320, 256))}],
    "video.frame_count": [
        {"videos": seen(frames=ROWS - 2, thumbnails=GOOD.videos["front"].thumbnails[:-2])},
    ],
    "video.stamps": [{"videos": seen(stamps=np.arange(ROWS) / 25)}],
    "video.black": [{"videos": thumbnails(level(100, 112, 3))}, {"videos": thumbnails(level(0, ROWS, 0))}],
    "video.white": [
        {"videos": thumbnails(level(0, ROWS, 252))},
        {"videos": thumbnails(lambda p: p * 1.8 + 80)},
    ],
    "video.flat": [{"videos": thumbnails(level(30, 90, 128))}],
    "video.blurred": [{"videos": blurred()}],
    "video.noise": [{"videos": noisy()}],
    "video.frozen": [
        {"videos": thumbnails(still(0, ROWS))},
        {"videos": thumbnails(still(60, 100), "wrist")},
    ],
    "video.rate": [{"videos": thumbnails(lambda p: p[np.arange(ROWS) // 6 * 6])}],
    "video.shifted": [
        {"videos": {"front": front(late(S, 12)), "wrist": wrist(late(S, 12))}},
        {"videos": {"wrist": wrist(late(S, -15))}},
        {"videos": {"front": front(late(S, 55)), "wrist": wrist(late(S, 55))}},
    ],
    "video.doubled": [{"videos": {"front": GOOD.videos["front"], "wrist": GOOD.videos["front"]}}],
    "video.colours": [{"videos": without_blue()}],
}


@pytest.mark.parametrize(
    ("check", "changes"),
    [
        pytest.param(check, case, id=f"{check}-{i}")
        for check, cases in CASES.items()
        for i, case in enumerate(cases)
    ],
)
def test_a_defect_is_found_and_named(check, changes):
    judgement = judge_data(replace(GOOD, **changes))
    assert judgement.verdict == "quarantined"
    found = {reason.check: reason for reason in judgement.reasons}
    assert check in found
    assert all(reason.message and len(reason.frames) <= 8 for reason in judgement.reasons)


def test_an_episode_of_under_a_second_is_too_short():
    assert "identity.too_short" in reasons(of(S[60:83], A[60:83]))


@pytest.mark.parametrize("end", ["motion.lead_in", "motion.tail"])
def test_what_training_trims_is_noted_and_not_punished(end):
    goals = scenes.leader(6)
    rest = np.repeat(goals[:1] if end == "motion.lead_in" else goals[-1:], 150, axis=0)
    joined = scenes.answer(np.vstack([rest, goals] if end == "motion.lead_in" else [goals, rest]))
    judgement = judge_data(of(*joined))
    assert judgement.verdict == "admitted"
    assert end in {note.check for note in judgement.notes}


def test_a_stall_in_which_much_moved_is_quarantined_a_quiet_one_noted():
    def held_up(seconds):
        return [row | {"wall": row["wall"] + seconds * (i >= 120)} for i, row in enumerate(GOOD.sidecar)]

    leap = moved(S, (slice(120, None), 1), 20)
    assert "timing.stalled" in reasons(replace(GOOD, sidecar=held_up(0.4), state=leap))
    assert "timing.stalled" in reasons(replace(GOOD, sidecar=held_up(1.4)))
    quiet = replace(GOOD, sidecar=held_up(0.3))
    assert "timing.gap" in notes(quiet)
    assert reasons(quiet) == set()


def test_bus_retries_and_repeated_pictures_are_noted():
    assert "timing.retries" in notes(replace(GOOD, sidecar=timed(retries=2)))
    shots = {"front": {"stamp": 1.0, "age": 0.05, "repeat": True}}
    assert "video.repeats" in notes(replace(GOOD, sidecar=timed(cameras=shots)))


def test_without_its_evidence_an_episode_is_undecidable():
    judgement = judge_data(replace(GOOD, videos={"front": unreadable("no decoder", "codec")}))
    assert judgement.verdict == "undecidable"
    assert [reason.check for reason in judgement.reasons] == ["video.codec"]


def test_unknown_joints_are_said_not_to_be_checked():
    judgement = judge_data(
        replace(GOOD, names=tuple("abcdef"), action_names=tuple("abcdef"), robot_type="other")
    )
    assert judgement.verdict == "admitted"
    assert [note.check for note in judgement.notes] == ["values.joint_names"]


def test_a_threshold_can_be_set_by_its_id():
    spiky = replace(GOOD, state=moved(S, (60, 3), 8))
    assert "motion.spike" in reasons(spiky)
    assert "motion.spike" not in reasons(spiky, thresholds={"motion.spike": 20.0})


def test_a_check_that_fails_lets_nothing_pass(monkeypatch):
    from agent.episodes.checks.registry import RULES

    def broken(e, limit):
        raise ZeroDivisionError

    monkeypatch.setitem(RULES, "motion.none", replace(RULES["motion.none"], check=broken))
    judgement = judge_data(GOOD)
    assert judgement.verdict == "undecidable"
    assert [reason.check for reason in judgement.reasons] == ["gate.failed"]
