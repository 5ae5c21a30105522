"""Compared with other episodes: copies, exchanged cameras, a lag or a pose that this workstation never
has."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.episodes.gate import judge_data
from agent.episodes.history import FILE, History, load, save, signature, trace
from agent.episodes.twins import compare
from tests.agent.episodes.scenes import FPS, motion, moved, of, sound

KNOWN = [sound(seed=seed, path=Path(f"known{seed}")) for seed in (1, 2, 3)]
HISTORY = History(tuple(signature(episode) for episode in KNOWN))


def reasons(episode, **kwargs):
    return {reason.check for reason in judge_data(episode, **kwargs).reasons}


def test_a_copy_is_found_in_the_history_and_in_the_same_call():
    copy = replace(KNOWN[1], path=Path("copy"), task="another text")
    assert "identity.duplicate" in reasons(copy, history=HISTORY)
    assert "identity.duplicate" in reasons(copy, earlier=[HISTORY.episodes[1]])
    assert reasons(KNOWN[1], history=HISTORY) == set()  # itself is no copy


@pytest.mark.parametrize("how", ["noise", "trimmed", "late", "slower"])
def test_a_near_copy_is_found(how):
    state, action = motion(8, seed=2)
    if how == "noise":
        rng = np.random.default_rng(1)
        state = state + rng.normal(0, 0.5, state.shape).astype(np.float32)
    elif how == "trimmed":
        state, action = state[25:-20], action[25:-20]
    elif how == "late":
        state, action = (np.vstack([np.repeat(x[:1], 20, axis=0), x]) for x in (state, action))
    else:
        at = np.linspace(0, 239, 252)
        state, action = (
            np.stack([np.interp(at, np.arange(240), c) for c in x.T], axis=1).astype(np.float32)
            for x in (state, action)
        )
    found = reasons(of(state, action, path=Path("copy")), history=HISTORY)
    assert found & {"identity.duplicate", "identity.near_duplicate"}


@settings(max_examples=15, deadline=None)
@given(one=st.integers(0, 5000), other=st.integers(5001, 10_000))
def test_two_demonstrations_are_no_copies(one, other):
    traces = [trace(motion(6, seed=seed)[0].astype(np.float64), FPS) for seed in (one, other)]
    assert compare(*traces)[0] > 1.5


def test_exchanged_cameras_are_found_also_from_the_middle_on():
    good = sound(seed=7)
    front, wrist = good.videos["front"], good.videos["wrist"]
    swapped = replace(good, videos={"front": wrist, "wrist": front})
    assert "video.swapped" in reasons(swapped, history=HISTORY)
    assert reasons(good, history=HISTORY) == set()
    mixed = {
        name: replace(own, thumbnails=np.concatenate([own.thumbnails[:120], other.thumbnails[120:]]))
        for name, own, other in (("front", front, wrist), ("wrist", wrist, front))
    }
    assert "video.swapped" in reasons(replace(good, videos=mixed), history=HISTORY)


def test_a_missing_camera_and_exchanged_colours_are_found():
    good = sound(seed=7)
    assert "video.camera_missing" in reasons(
        replace(good, videos={"front": good.videos["front"]}), history=HISTORY
    )
    blue = replace(good.videos["front"], tint=good.videos["front"].tint[::-1].copy())
    assert "video.colours" in reasons(replace(good, videos=good.videos | {"front": blue}), history=HISTORY)


def test_joints_exchanged_or_turned_on_both_sides_are_found():
    state, action = motion(8, seed=7)
    order = [4, 1, 2, 3, 0, 5]
    assert "coupling.reordered" in reasons(of(state[:, order], action[:, order]), history=HISTORY)
    turn = np.array([1, 1, 1, 1, -1, 1], np.float32)
    assert "coupling.mirrored" in reasons(of(state * turn, action * turn), history=HISTORY)


def test_a_small_lag_too_much_and_an_offset_show_beside_the_history():
    state, action = motion(8, seed=7)
    late = state[np.clip(np.arange(240) - 4, 0, 239)]
    assert "coupling.lag" in reasons(of(late, action), history=HISTORY)
    off = judge_data(of(moved(state, (slice(None), 2), -6), action), history=HISTORY)
    assert "coupling.offset_history" in {note.check for note in off.notes}


def test_a_signature_is_kept_and_read_back(tmp_path):
    save(tmp_path, HISTORY.episodes[0])
    again = load(tmp_path)
    assert again is not None
    assert again.digest == HISTORY.episodes[0].digest
    assert np.array_equal(again.trace, HISTORY.episodes[0].trace)
    assert np.array_equal(again.looks["wrist"].background, HISTORY.episodes[0].looks["wrist"].background)
    (tmp_path / FILE).write_bytes(b"damaged")
    assert load(tmp_path) is None
