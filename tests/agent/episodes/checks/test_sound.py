"""What is sound is admitted, however odd: each oddity is one that real recordings have."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.episodes.gate import judge_data
from agent.episodes.history import History, signature
from tests.agent.episodes import scenes
from tests.agent.episodes.scenes import FPS, front, motion, moved, of, sound, wrist

REAL = Path(__file__).parents[5] / "shared/data/so101_teleop.parquet"


def refused(episode, **kwargs):
    return [(reason.check, reason.message) for reason in judge_data(episode, **kwargs).reasons]


def still_before(seconds):
    state, action = motion(6)
    count = round(seconds * FPS)
    return of(*(np.vstack([np.repeat(x[:1], count, axis=0), x]) for x in (state, action)))


def pause_in_the_middle(seconds):
    state, action = motion(8)
    count = round(seconds * FPS)
    at = int(np.argmin(np.abs(np.diff(action[60:180], axis=0)).sum(axis=1))) + 60
    joined = [np.vstack([x[:at], np.repeat(x[at : at + 1], count, axis=0), x[at:]]) for x in (state, action)]
    return of(*joined)


def held_at_once(where):
    """Rows repeated in the midst of motion: the lag keeps the state off its action meanwhile."""
    state, action = motion(8)
    busy = int(np.argmax(np.abs(np.diff(action, axis=0)).max(axis=1)))
    kept = {"before": slice(busy, None), "middle": slice(None), "after": slice(0, busy + 1)}[where]
    at = 0 if where == "before" else busy
    parts = (state[kept], action[kept])
    return of(*(np.vstack([x[:at], np.repeat(x[at : at + 1], 90, axis=0), x[at:]]) for x in parts))


def bare_table():
    """A wrist camera over a sheet of paper: for two seconds it shows nothing but its noise."""
    state, action = motion(8)
    state, action = (np.vstack([np.repeat(x[:1], 30, axis=0), x]) for x in (state, action))
    seen = wrist(state)
    paper = scenes.camera(np.linspace(130, 170, 64) + np.zeros(seen.thumbnails.shape), 5).thumbnails
    thumbnails = seen.thumbnails.copy()
    thumbnails[80:140] = paper[80:140]
    return of(state, action, videos={"front": front(state), "wrist": replace(seen, thumbnails=thumbnails)})


def snapped_jaws(units):
    state, action = motion(8)
    action[100:160, 5] = np.minimum(action[100:160, 5], action[99, 5] - units)
    state[:, 5] = np.maximum(state[:, 5], action[99, 5] - 4)
    return of(state, action)


def holding(units):
    """The gripper closes on something: its state stops, its action goes on by `units`."""
    state, action = motion(8)
    action[:, 5] = np.interp(
        np.arange(240), [0, 60, 80, 180, 200, 240], [40, 40, 20 - units, 20 - units, 40, 40]
    )
    state[:, 5] = np.maximum(np.interp(np.arange(240) - 4, np.arange(240), action[:, 5]), 20)
    return of(state, action)


def sagging(units):
    state, action = motion(8)
    return of(moved(state, (slice(None), 1), -units), action)


def only_the_gripper():
    state, action = motion(8)
    for array in (state, action):
        array[:, :5] = array[0, :5]
    state += np.random.default_rng(1).normal(0, 0.02, state.shape).astype(np.float32)
    return of(
        state, action, videos={"front": scenes.camera(np.repeat(scenes.texture(1)[None], 240, axis=0), 1)}
    )


def half_speed():
    state, action = motion(12, slowness=2.0, lag_s=0.27)
    return of(state, action)


def at_another_rate(fps):
    state, action = motion(8, fps)
    rows = len(state)
    return of(
        state,
        action,
        fps=fps,
        timestamps=np.arange(rows) / fps,
        sidecar=scenes.sidecar(rows, fps),
        layout=None,
        videos={"front": replace(front(state), stamps=np.arange(rows) / fps)},
    )


def hand_in_front(frames):
    episode = sound()
    seen = episode.videos["front"]
    thumbnails = seen.thumbnails.copy()
    thumbnails[100 : 100 + frames, 10:55, 5:60] = 150
    return replace(episode, videos=episode.videos | {"front": replace(seen, thumbnails=thumbnails)})


def exposure(change):
    episode = sound()
    seen = episode.videos["front"]
    gain = np.interp(np.arange(240), [0, 100, 140, 240], [1, 1, change, change])[:, None, None]
    thumbnails = np.clip(seen.thumbnails * gain, 0, 255).astype(np.uint8)
    return replace(episode, videos=episode.videos | {"front": replace(seen, thumbnails=thumbnails)})


def lamp_flicker():
    episode = sound()
    seen = episode.videos["front"]
    gain = (1 + 0.06 * np.sin(np.arange(240) * 2.1))[:, None, None]
    thumbnails = np.clip(seen.thumbnails * gain, 0, 255).astype(np.uint8)
    return replace(episode, videos=episode.videos | {"front": replace(seen, thumbnails=thumbnails)})


def repeated_states(share):
    """Each state holds until it has changed by more than the encoder's play, as in `share` of real frames."""
    state, action = motion(8, slowness=1.6)
    step = np.quantile(np.abs(np.diff(state, axis=0)).max(axis=1), share)
    held = state.copy()
    for i in range(1, len(held)):
        if np.abs(state[i] - held[i - 1]).max() <= min(step, 1.5):
            held[i] = held[i - 1]
    return of(held, action)


ODD = {
    "plain": lambda: sound(),
    "short": lambda: sound(2.5, seed=3),
    "no sidecar": lambda: sound(sidecar=None),
    "one camera": lambda: sound(videos={"top": front(motion(8)[0])}),
    "other names": lambda: sound(names=tuple(f"main_{n}" for n in scenes.POSITION_KEYS)),
    "task in Chinese": lambda: sound(task="抓取红色方块"),
    "short task": lambda: sound(task="Pick cube"),
    "lead-in": lambda: still_before(4.6),
    "pause": lambda: pause_in_the_middle(5),
    "holding by 10": lambda: holding(10),
    "sag of 5": lambda: sagging(5),
    "held before": lambda: held_at_once("before"),
    "held in the middle": lambda: held_at_once("middle"),
    "held after": lambda: held_at_once("after"),
    "bare table": bare_table,
    "snapped jaws": lambda: snapped_jaws(15),
    "only the gripper": only_the_gripper,
    "half speed": half_speed,
    "15 Hz": lambda: at_another_rate(15),
    "50 Hz": lambda: at_another_rate(50),
    "hand in front": lambda: hand_in_front(25),
    "exposure down": lambda: exposure(0.6),
    "exposure up": lambda: exposure(1.3),
    "dim": lambda: sound(
        videos={"front": front(motion(8)[0], gain=0.25), "wrist": wrist(motion(8)[0], gain=0.25)}
    ),
    "flicker": lamp_flicker,
    "repeats": lambda: repeated_states(0.6),
}


@pytest.mark.parametrize("name", ODD)
def test_a_sound_oddity_is_admitted(name):
    assert refused(ODD[name]()) == []


def test_a_plain_sound_episode_has_no_notes():
    judgement = judge_data(sound())
    assert judgement.verdict == "admitted"
    assert judgement.notes == []


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    slowness=st.floats(0.8, 2.0),
    lag=st.floats(0.09, 0.2),
    sag=st.floats(-3.5, 3.5),
)
def test_any_hand_is_admitted(seed, slowness, lag, sag):
    state, action = motion(7, FPS, seed, slowness, lag)
    episode = of(moved(state, (slice(None), slice(1, 3)), sag), action, videos={"front": front(state)})
    assert refused(episode) == []


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), begin=st.integers(0, 150), rows=st.integers(33, 180))
def test_what_begins_in_the_midst_of_motion_is_admitted(seed, begin, rows):
    """As a person's part of a rollout does, who took over from a policy."""
    state, action = motion(12, FPS, seed)
    steps = np.abs(np.diff(action, axis=0)).max(axis=1)
    begin += int(np.argmax(steps[begin : begin + 60]))
    state, action = state[begin : begin + rows], action[begin : begin + rows]
    assert refused(of(state, action, videos={"front": front(state)})) == []


def test_sound_episodes_of_one_workstation_are_admitted_beside_each_other():
    known = History(tuple(signature(sound(seed=seed, path=Path(f"h{seed}"))) for seed in (20, 21, 22)))
    for seed in (10, 11):
        assert refused(sound(seed=seed), history=known) == []
    for name in ("holding by 10", "sag of 5", "lead-in", "dim", "hand in front"):
        assert refused(ODD[name](), history=known) == []


@pytest.mark.skipif(not REAL.exists(), reason=f"no real traces at {REAL}")
@pytest.mark.parametrize(
    "variant", ["as it is", "mirrored", "cropped", "15 Hz", "half speed", "faster", "sagging", "held"]
)
def test_real_teleoperation_is_admitted(variant):
    import pyarrow.parquet as pq

    table = pq.read_table(REAL)
    number = table["episode_index"].to_numpy()
    arrays = [np.array(table[name].to_pylist(), np.float32) for name in ("observation.state", "action")]
    for episode in np.unique(number):
        state, action = (a[number == episode] for a in arrays)
        fps = 30
        if variant == "mirrored":
            state, action = (a * np.array([-1, 1, 1, 1, -1, 1], np.float32) for a in (state, action))
        elif variant == "cropped":
            state, action = state[100:300], action[100:300]
        elif variant == "15 Hz":
            state, action, fps = state[::2], action[::2], 15
        elif variant == "half speed":
            state, action = (warped(a, 2.0) for a in (state, action))
        elif variant == "faster":
            state, action = (warped(a, 0.75) for a in (state, action))
        elif variant == "sagging":
            state = moved(state, (slice(None), 1), -4)
        elif variant == "held":
            state, action = (
                np.vstack([np.repeat(a[120:121], 120, axis=0), a[120:]]) for a in (state, action)
            )
        rows = len(state)
        video = replace(front(state), stamps=np.arange(rows) / fps)
        timed = {"fps": fps, "timestamps": np.arange(rows) / fps, "sidecar": None, "layout": None}
        assert refused(of(state, action, videos={"front": video}, **timed)) == []


def warped(array, factor):
    places = np.linspace(0, len(array) - 1, int(len(array) * factor))
    return np.stack([np.interp(places, np.arange(len(array)), column) for column in array.T], 1).astype(
        np.float32
    )
