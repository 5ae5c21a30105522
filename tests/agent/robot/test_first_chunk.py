"""A rollout's first chunk stays within what the version was trained on, whatever it says; a demonstration is
never cut, nonsense is. The table of docs/rollouts.md is made here; WRITE_FAULTS=1 writes it anew.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.inference.bounds import FASTER, ROOM, SLOWEST, SPREADS, Bounds, Spread, bounds
from agent.robot.first_chunk import CATCHES_UP_S, Cut, FirstChunk
from agent.robot.limits import Limits
from shared.normalisation import measured
from shared.policy.initial import initial_adapter
from shared.policy.rtc import CONTROL_HZ, STRIDE
from shared.recipe import Recipe
from sim.expert import UnreachableError, plan
from sim.lockstep import CHUNK, Interpolator, LockstepArm
from sim.plant import Plant
from sim.tasks import COLORS, VERBS, Task, draw_scene
from tests.agent.robot.fault_page import check_page, table

ROOT = Path(__file__).parents[3]
PAGE, BASE = ROOT / "docs/rollouts.md", ROOT / "sim/base"
REAL = ROOT.parent / "shared/data/so101_teleop.parquet"
ARM = Limits(np.full(6, -np.inf), np.full(6, np.inf), max_step=15.0, max_speed=270.0)
"""The limits of every rollout, as [arm] has them by default."""
SCENES = 6
"""Of each task."""

units = st.lists(st.floats(-200, 200, width=32), min_size=6, max_size=6).map(
    lambda values: np.array(values, np.float32)
)
TIGHT = Bounds(
    np.full(6, -40, np.float32),
    np.full(6, 40, np.float32),
    np.array([60, 90, 120, 150, 180, 300], np.float32),
)


class Held:
    """The goals that are sent when a policy wants `wanted`, one a tick, (n, 6)."""

    def __init__(self, wanted: np.ndarray, start: np.ndarray, within: Bounds, actions: int = CHUNK) -> None:
        self.cuts: list[Cut] = []
        self.chunk = FirstChunk(within, actions, CONTROL_HZ, self.cuts.append)
        sent = [start.astype(np.float32)]
        for goal in wanted.astype(np.float32):
            sent.append(ARM.clamp(self.chunk.within(goal, sent[-1]), sent[-1]))
        self.sent = np.array(sent)


@given(st.lists(units, min_size=1, max_size=CHUNK * STRIDE), units)
def test_no_goal_leaves_the_range_or_is_faster_and_a_joint_outside_only_comes_in(wanted, start):
    held = Held(np.array(wanted), start, TIGHT)
    steps = np.abs(np.diff(held.sent, axis=0))
    assert (steps <= TIGHT.speed / CONTROL_HZ + 1e-3).all()
    outside = np.maximum(held.sent - TIGHT.high, 0) + np.maximum(TIGHT.low - held.sent, 0)
    assert (np.diff(outside, axis=0) <= 1e-3).all()
    assert len(held.cuts) == (held.chunk.bounded > 0)


def test_what_a_cut_says_is_of_the_joint_that_lost_most():
    wanted = np.array([[50, 0, 0, -90, 0, 0]], np.float32)
    held = Held(np.repeat(wanted, 3, axis=0), np.zeros(6), TIGHT)
    assert held.cuts == [Cut(joint=3, wanted=-90.0, allowed=-5.0)]
    assert held.chunk.bounded == 3


def test_a_goal_that_is_soon_reached_is_slowed_and_does_not_count():
    ticks = round(CATCHES_UP_S * CONTROL_HZ)
    held = Held(np.tile([2 * ticks - 0.1, 0, 0, 0, 0, 0], (ticks, 1)), np.zeros(6), TIGHT)
    assert np.allclose(held.sent[:, 0], [*range(0, 2 * ticks, 2), 2 * ticks - 0.1])
    assert held.chunk.bounded == 0


def test_a_joint_outside_that_wants_to_stay_is_not_led_back():
    start = np.array([0, -70, 0, 0, 0, 0], np.float32)
    held = Held(np.tile(start, (CHUNK * STRIDE, 1)), start, TIGHT)
    assert (held.sent == start).all()
    assert held.chunk.bounded == 0


def test_after_the_time_of_the_first_chunk_nothing_is_held_back():
    chunk = FirstChunk(TIGHT, 1, CONTROL_HZ, lambda cut: None)
    far = np.full(6, 100, np.float32)
    given_ = [chunk.within(far, np.zeros(6, np.float32)) for _ in range(STRIDE + 1)]
    assert [bool((goal == far).all()) for goal in given_] == [False] * STRIDE + [True]
    assert chunk.bounded == STRIDE


def test_where_nothing_is_known_nothing_is_held_back():
    wanted = np.tile([8.0, -8, 8, -8, 8, -8], (5, 1)) * np.arange(1, 6)[:, None]
    held = Held(wanted, np.zeros(6), bounds(None, ()))
    assert np.allclose(held.sent[1:], wanted, atol=1e-3)
    assert held.cuts == []


def test_a_range_is_wherever_the_statistics_or_a_demonstration_lead():
    ramp = np.zeros((31, 6), np.float32)
    ramp[:, 0] = np.linspace(0, 90, 31)
    other = np.full((31, 7), 500, np.float32)
    found = bounds((np.full(6, 5.0), np.full(6, 2.0)), [ramp, ramp[:1], other])
    assert found.low.tolist() == [-ROOM] * 6
    assert found.high.tolist() == [90 + ROOM, *[5 + 2 * SPREADS] * 5]
    assert found.speed.tolist() == pytest.approx([FASTER * 90, *[SLOWEST] * 5])
    assert np.isinf(bounds(None, [other]).stacked()).all()


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 12))
def test_no_demonstration_of_this_workstation_is_cut_however_it_moved(seed, step):
    walk = np.random.default_rng(seed).normal(0, step, (60, 6)).cumsum(axis=0).astype(np.float32)
    assert replayed([walk], bounds((np.zeros(6), np.ones(6)), [walk]))[0] == 0


# ------------------------------------------------------------------------------------------------ the table


def demonstrated(verb: str) -> list[np.ndarray]:
    """Leader positions (frames, 6) of the scripted person, one for each scene within reach."""
    plant, found = Plant(), []
    for seed in range(12):
        task = Task(verb, COLORS[seed % 4])
        plant.reset(draw_scene(5000 + seed, task))
        with suppress(UnreachableError):
            found.append(plan(plant, task, np.random.default_rng(seed)).astype(np.float32))
    return found


def spread_of(episodes: list[np.ndarray]) -> Spread:
    """As stations report it, rounded."""
    told = measured(np.concatenate(episodes), np.concatenate(episodes)).action
    return np.array(told.mean), told.std


def goals(actions: np.ndarray) -> np.ndarray:
    """Goals of each tick (n, 6) for actions (T, 6) of 10 Hz, as the engine makes them."""
    interpolator, found = Interpolator(), []
    for action in actions:
        interpolator.add(action)
        while not interpolator.needs_action():
            found.append(interpolator.get())
    return np.array(found)


def replayed(episodes: list[np.ndarray], within: Bounds) -> tuple[int, int]:
    """Ticks in which demonstrations are cut, and all, when a policy wants exactly them, in every phase."""
    wanted = [goals(each[phase::STRIDE]) for each in episodes for phase in range(STRIDE)]
    cut = [Held(each, each[0], within, len(each)).chunk.bounded for each in wanted]
    return sum(cut), sum(map(len, wanted))


def turned(joint: int) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    return lambda states, chunks: np.where(np.arange(6) == joint, -chunks, chunks)


NONSENSE: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "it, joint 1 with its sign turned": turned(0),
    "it, joint 4 with its sign turned": turned(3),
    "it, all actions doubled": lambda states, chunks: 2 * chunks,
    "it, the way from the start doubled": lambda states, chunks: 2 * chunks - states[:, None],
}
NOISE = (0.2, 1.0)
"""Standard deviations of random numbers in LoRA's matrices B."""


class Policy:
    """The tiny base in one scene after the other."""

    def __init__(self) -> None:
        from shared.policy.chunker import Chunker

        self.chunker = Chunker(BASE)
        self._adapter = initial_adapter(BASE, Recipe())
        drawn = [
            draw_scene(900_000 + seed, Task(verb, COLORS[seed % 4]))
            for verb in VERBS
            for seed in range(SCENES)
        ]
        seen: list[dict[str, Any]] = [LockstepArm(scene).observe() for scene in drawn]
        self.states = np.stack([each["state"] for each in seen])
        self._pictures = {"front": np.stack([each["image"] for each in seen])}
        self._tasks = [each["task"] for each in seen]

    def chunks(self, noise: float = 0.0) -> np.ndarray:
        """The first chunk in each scene, (scenes, CHUNK, 6) units."""
        tensors, peft = self._adapter
        rng = np.random.default_rng(0)
        for name in sorted(name for name in tensors if ".lora_B." in name):
            tensors[name] = rng.normal(0, noise, tensors[name].shape).astype(np.float32)
        self.chunker.load_tensors(tensors, peft)
        self.chunker.reseed(0)
        return self.chunker.chunk(self.states, self._pictures, self._tasks)[1]

    def cut(self, chunks: np.ndarray, within: Bounds) -> list[int]:
        """Ticks cut of each; the engine begins with the second action, since the first one's time is over."""
        pairs = zip(self.states, chunks, strict=True)
        return [Held(goals(chunk[1:]), start, within).chunk.bounded for start, chunk in pairs]


def test_the_table_of_first_chunks():
    shown = {verb: demonstrated(verb) for verb in VERBS}
    policy, every = Policy(), [each for episodes in shown.values() for each in episodes]
    held_to = [
        bounds(spread_of(every), shown["push_left"]),
        bounds(policy.chunker.spread, shown["touch"]),
    ]
    rows = []
    for name, columns in (
        ("demonstrations recorded here, whole", [shown["push_left"], shown["touch"]]),
        ("demonstrations of all six tasks, whole", [every, every]),
    ):
        found = [replayed(episodes, within) for episodes, within in zip(columns, held_to, strict=True)]
        rows.append([name, *(f"{cut} of {ticks} ticks" for cut, ticks in found)])
        assert found[0][0] == 0
        assert found[1][0] <= (0.003 * found[1][1] if columns[1] is every else 0)
    sane = policy.chunks()
    cases = {"first chunks of `sim/base`": sane}
    cases |= {name: wrong(policy.states, sane) for name, wrong in NONSENSE.items()}
    cases |= {f"it, with LoRA weights of noise ({noise:g})": policy.chunks(noise) for noise in NOISE}
    caught = {}
    for name, chunks in cases.items():
        found = [policy.cut(chunks, within) for within in held_to]
        caught[name] = [sum(ticks > 0 for ticks in each) for each in found]
        rows.append(
            [
                name,
                *(f"{sum(t > 0 for t in each)} of {len(each)}, {np.mean(each):.1f} ticks" for each in found),
            ]
        )
    scenes = len(policy.states)
    assert caught["first chunks of `sim/base`"] == [0, 0]
    assert caught["it, joint 4 with its sign turned"] == caught["it, all actions doubled"] == [scenes] * 2
    assert min(caught["it, with LoRA weights of noise (1)"]) > 0.9 * scenes
    head = [
        "what the policy wants",
        "pooled statistics; pushes to the left recorded here",
        "the base's; touches",
    ]
    check_page("first chunk", table(head, rows), r"\d+(\.\d)?", PAGE)


@pytest.mark.skipif(not REAL.is_file(), reason=f"there are no recordings of a real arm at {REAL}")
def test_a_real_demonstration_is_not_cut_where_another_one_was_recorded():
    rows = pq.read_table(REAL, columns=["episode_index", "action"]).to_pydict()
    numbers, actions = np.array(rows["episode_index"]), np.array(rows["action"], np.float32)
    first, second = (actions[numbers == number] for number in np.unique(numbers)[:2])
    for here, other in ((first, second), (second, first)):
        assert replayed([other], bounds(spread_of([first, second]), [here]))[0] == 0
