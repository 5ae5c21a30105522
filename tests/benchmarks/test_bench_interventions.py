"""Interventions in lockstep: when the person takes over, what is kept, and the three ways on a tiny base."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import bench_interventions
from benchmarks.assisted import PATIENCE_S, gone_wrong, interventions, taken_over
from benchmarks.bench_interventions import ADDED, WAYS, Bench, figures, table
from benchmarks.learning.arms import CENTRALISED
from sim.expert import CONTROL_HZ, plan
from sim.lockstep import CHUNK, POLICY_HZ, SUBTICKS, LockstepArm
from sim.tasks import Task, draw_scene

PULL = Task("pull", "yellow")
SCENE = 5
SMALL = CENTRALISED.model_copy(
    update={
        "recipe": CENTRALISED.recipe.model_copy(
            update={"rank": 2, "alpha": 4, "batch": 4, "draws": 1, "steps": 2}
        ),
    }
)


def standing(observations, delay, running):
    """A policy that stays where it is."""
    chunk = np.stack([np.repeat(seen["state"][None], CHUNK, axis=0) for seen in observations])
    return chunk, chunk


class Knowing:
    """A policy that does what the person would, from the beginning."""

    def __init__(self, arm: LockstepArm) -> None:
        self._path = plan(arm.plant, PULL, np.random.default_rng(SCENE))[::SUBTICKS]
        self._asked = 0

    def __call__(self, observations, delay, running):
        begin = min(self._asked, len(self._path) - CHUNK)
        self._asked += CHUNK // 2
        return self._path[None, begin : begin + CHUNK], self._path[None, begin : begin + CHUNK]


def test_who_watches_takes_over_when_nothing_comes_nearer_and_not_before() -> None:
    arm = LockstepArm(draw_scene(SCENE, PULL))
    assert gone_wrong(standing, arm, SUBTICKS)
    assert arm.judgements == pytest.approx(PATIENCE_S * POLICY_HZ, abs=3)
    arm = LockstepArm(draw_scene(SCENE, PULL))
    assert not gone_wrong(Knowing(arm), arm, 0)


def test_the_person_does_it_from_where_the_arm_is() -> None:
    arm = LockstepArm(draw_scene(SCENE, PULL))
    gone_wrong(standing, arm, SUBTICKS)
    here = arm.plant.positions_units()
    shown = taken_over(arm, np.random.default_rng(0))
    assert shown.success
    assert np.allclose(shown.states[0], here, atol=1e-3)
    assert len(shown.images) == len(shown.states) == len(shown.actions) > CONTROL_HZ


def test_no_more_rollouts_are_watched_than_needed_or_allowed() -> None:
    done: list[None] = []
    found, watched = interventions(standing, PULL, SCENE, 2, 9, SUBTICKS, lambda: done.append(None))
    assert len(found) == len(done) == 2
    assert watched < 9
    assert all(shown.success for shown in found)
    none, watched = interventions(standing, PULL, SCENE, 2, 0, SUBTICKS, lambda: None)
    assert (none, watched) == ([], 0)


def test_each_way_is_trained_and_run_once(tiny_base: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(bench_interventions, "ADDED", 1)
    monkeypatch.setattr(bench_interventions, "MOST", 20)
    parts: list[str] = []

    def result() -> dict:
        bench = Bench(tmp_path, seed=1, few=1, scenes=1, updates=1, arm=SMALL, base=tiny_base)
        return bench.result(lambda what, count: lambda: parts.append(what))

    found = result()
    assert found["segments"] == 1
    assert found["before"]["frames"] < min(found[way]["frames"] for way in WAYS[1:])
    assert {found[way]["rollouts"] for way in WAYS} == {1}
    asked = len(parts)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*-*") if path.is_file()}
    assert result() == found
    assert files == {path: path.stat().st_mtime_ns for path in files}, "nothing is trained or shown twice"
    assert len(parts) == asked + len(WAYS), "only the trained updates are read again"


def test_the_figures_are_of_all_seeds_together() -> None:
    def cell(successes: int, frames: int) -> dict:
        return {"successes": successes, "rollouts": 60, "frames": frames}

    results = [
        {
            "before": cell(30 + seed, 1000),
            "demonstrations": cell(45, 1500),
            "interventions": cell(48, 1400),
            "segments": ADDED,
            "watched": 40,
            "seed": seed,
        }
        for seed in (0, 2)
    ]
    ok, found = figures(results)
    assert ok
    assert (found["success_before"], found["success_interventions"], found["rollouts"]) == (0.5167, 0.8, 120)
    assert (found["frames_before"], found["frames_demonstrations"]) == (1000, 1500)
    assert table(json.loads(json.dumps(found))).row_count == len(WAYS)
    assert not figures([results[0], results[1] | {"segments": 3}])[0]
