"""The arithmetic of `make bench-async`, its synchronous engine, and its adapter."""

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from agent.config import InferenceSection
from agent.evaluation.rollouts import RolloutFigures
from agent.inference.engine import RolloutEngine
from agent.inference.resident import PolicyServer, ResidentPolicy
from agent.robot.features import dataset_features
from benchmarks.asynchronous import figures as bench
from benchmarks.asynchronous import pooled_adapter as pooled
from benchmarks.workers.either_arm import Inline, Selecting
from benchmarks.workers.slowed_policy import slow_down
from shared.adapters import read_adapter
from shared.policy.chunker import Chunker
from shared.policy.rtc import STRIDE

CHUNK, STEPS = 8, 4
CAMERAS = {"front": (96, 96, 3)}


def tried(mode, seed, seconds=None, delay_ms=100, latency_ms=50.0, starved=0):
    """A rollout that took `seconds`, or failed."""
    figures = RolloutFigures(starved=starved, latency_ms_mean=latency_ms, latency_ms_max=latency_ms)
    return bench.Tried(mode, delay_ms, ("push", seed), seconds is not None, seconds or 6.0, figures)


def both(sync_s, async_s, delay_ms=100, **fields):
    """Rollouts of both modes on scenes 0, 1, …"""
    return [
        tried(mode, seed, seconds, delay_ms, **fields)
        for mode, row in (("sync", sync_s), ("async", async_s))
        for seed, seconds in enumerate(row)
    ]


def test_time_is_compared_on_scenes_that_both_completed():
    rows = both([2.0, 4.0, 6.0, None], [1.0, 2.0, None, 1.0])
    assert bench.speedup(rows, 100) == pytest.approx(2.0)
    assert bench.speedup(both([None], [1.0]), 100) == 0.0
    assert bench.speedup(rows, 250) == 0.0


def test_throughput_counts_the_time_of_failures():
    rows = both([2.0, None], [2.0, 2.0])
    assert bench.per_minute(bench.of(rows, "sync")) == pytest.approx(60 / 8)
    assert bench.throughput_ratio(rows, 100) == pytest.approx((2 / 4) / (1 / 8))
    assert bench.throughput_ratio(both([None], [1.0]), 100) == 0.0


def test_starving_counts_where_every_inference_took_less_than_half_a_chunk():
    rows = [
        tried("async", 0, 1.0, latency_ms=399.0, starved=2),
        tried("async", 1, 1.0, latency_ms=401.0, starved=50),
        tried("sync", 2, 1.0, latency_ms=50.0, starved=7),
    ]
    assert bench.starved_in_time(rows, CHUNK) == (2, 1)


def test_less_success_than_chance_allows_is_worse():
    assert bench.not_worse(both([1.0] * 20, [1.0] * 20))
    assert bench.not_worse(both([1.0] * 20, [1.0] * 17 + [None] * 3))
    assert not bench.not_worse(both([1.0] * 20, [1.0] * 8 + [None] * 12))
    assert bench.not_worse(both([None] * 20, [1.0] * 20))


def test_the_lesser_of_the_two_delays_decides():
    rows = both([2.0], [1.0], 0) + both([3.0], [1.0], 100) + both([1.5], [1.0], 250)
    found = bench.figures(rows, CHUNK)
    assert found["speedup_completion"] == found["speedup_completion_250ms"] == 1.5
    assert found["throughput_ratio"] == 1.5
    assert (found["success_sync"], found["success_async"], found["rollouts"]) == (1.0, 1.0, 3)
    assert bench.met(found, rows)
    assert not bench.met(found | {"throughput_ratio": 1.29}, rows)
    assert not bench.met(found | {"speedup_completion": 1.29}, rows)
    assert not bench.met(found | {"starved_ticks": 1}, rows)
    assert bench.table(rows, 250).row_count == 2


class Counting:
    """Its chunks count: 100 for the first inference, 200 for the second, plus the action's number. It keeps
    what it saw."""

    cameras, spread = ("front",), None
    policy = SimpleNamespace(
        config=SimpleNamespace(
            image_features={"observation.images.front": SimpleNamespace(shape=(3, 96, 96))}
        )
    )

    def __init__(self):
        self.saw = []

    def reseed(self, seed):
        pass

    def compare_again(self):
        pass

    def chunk(self, state, images, tasks, inference_delay=0, prev_chunk=None):
        self.saw.append((float(state[0, 0]), inference_delay, prev_chunk))
        numbers = 100.0 * (len(self.saw) - 1) + np.arange(CHUNK, dtype=np.float32)  # the first is the probe
        actions = np.repeat(numbers[None, :, None], 6, axis=2)
        return actions, actions.copy()


def test_the_synchronous_engine_executes_its_steps_of_a_chunk_and_then_looks_anew(tmp_path):
    predictor = Counting()
    server = PolicyServer(ResidentPolicy(predictor), tmp_path / "policy.sock")
    threading.Thread(target=server.serve, daemon=True).start()
    device = SimpleNamespace(robot_type="so_follower", name="x", action_features={})
    arm = SimpleNamespace(device=device)
    engine = RolloutEngine(arm, tmp_path / "policy.sock", "push", CAMERAS, InferenceSection())
    engine._engine = Inline(Selecting(engine.proxy, STEPS), dataset_features(CAMERAS), "push")
    engine.start()
    goals = []
    for tick in range(2 * STEPS * STRIDE):
        images = {"front": np.zeros((96, 96, 3), np.uint8)}
        engine.notify(np.full(6, tick, np.float32), images, time.monotonic())
        goals.append(float(engine.action()[0]))
    figures = engine.stop()
    server.close()
    actions = goals[:1] + goals[STRIDE::STRIDE]  # the first is sent at once, others after the way to them
    assert actions == [100.0, 101.0, 102.0, 103.0, 200.0, 201.0, 202.0, 203.0]
    assert goals[1] == pytest.approx(100 + 1 / 3)
    asked_at = 1 + (STEPS - 1) * STRIDE
    assert predictor.saw[1:4] == [  # before them the probe, after them the comparison of both paths
        (0.0, 0, None),
        (float(asked_at), 0, None),
        (float(2 * asked_at + 2), 0, None),
    ]
    assert (figures.chunks, figures.starved) == (3, 0)


def test_the_pause_is_in_every_inference(monkeypatch):
    monkeypatch.setattr(Chunker, "chunk", lambda self, state, tasks: (state, tasks))
    slow_down(0.05)
    started = time.monotonic()
    assert Chunker.chunk(None, 1, tasks=2) == (1, 2)
    assert time.monotonic() - started >= 0.05


def test_the_adapter_is_trained_once_and_goes_on_where_it_was(tiny_base, tmp_path, monkeypatch):
    shown = pooled.Shown(verb="push_left", color="red", demonstrations=1, source=0)
    recipe = pooled.CENTRALISED.recipe.model_copy(update={"steps": 2, "batch": 4, "draws": 1})
    monkeypatch.setattr(pooled, "CENTRALISED", pooled.CENTRALISED.model_copy(update={"recipe": recipe}))
    monkeypatch.setattr(pooled, "STATION", pooled.Station(name="pool", shown=(shown,)))
    monkeypatch.setattr(pooled, "UPDATES", 2)
    said = []

    def killed(words):
        said.append(words)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pooled.pooled_adapter(tmp_path, tiny_base, 0, killed)
    home = pooled.pooled_adapter(tmp_path, tiny_base, 0, said.append)
    assert said == ["training, step 2", "training, step 2", "training, step 4"]
    tensors, _, manifest = read_adapter(home)
    assert any(array.any() for name, array in tensors.items() if ".lora_B." in name)
    assert manifest.version == pooled.VERSION
    assert pooled.pooled_adapter(tmp_path, tiny_base, 0, killed) == home
