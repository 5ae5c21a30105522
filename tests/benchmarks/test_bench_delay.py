"""The delay table on the tiny base: every cell, the two adapters, and going on where it stopped."""

import json
from pathlib import Path

from benchmarks import bench_delay
from benchmarks.bench_delay import TICKS, TRAINED_DELAY, WAYS, Bench, Cell, figures, shown
from benchmarks.learning.arms import CENTRALISED
from benchmarks.learning.plan import Shown, Station
from sim.lockstep import RolloutResult

SMALL = CENTRALISED.model_copy(
    update={
        "stations": (
            Station(name="pool", shown=(Shown(verb="push_left", color="red", demonstrations=1, source=0),)),
        ),
        "recipe": CENTRALISED.recipe.model_copy(
            update={"rank": 2, "alpha": 4, "batch": 4, "draws": 1, "steps": 2}
        ),
        "tasks": CENTRALISED.tasks[:1],
    }
)


class Asked:
    """Stands in for rollouts: keeps how they were asked for."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int, bool, list[int]]] = []

    def __call__(self, predict, tasks, seeds, latency):
        chunker = predict.__self__.chunker
        self.calls.append((latency, chunker.delay, chunker.guidance.enabled, list(seeds)))
        return [RolloutResult(success=seed % 2 == 0, steps=10) for seed in seeds]


def test_every_cell_is_run_once_on_the_same_scenes(tiny_base: Path, tmp_path: Path, monkeypatch) -> None:
    asked, parts = Asked(), []
    monkeypatch.setattr(bench_delay, "rollout_batch", asked)

    def table() -> dict[str, list[Cell]]:
        bench = Bench(tmp_path, seed=1, scenes=3, updates=2, arm=SMALL, base=tiny_base)
        return bench.table(lambda what, count: lambda: parts.append((what, count)))

    found = table()
    assert {name: len(cells) for name, cells in found.items()} == dict.fromkeys(WAYS, len(TICKS))
    assert len({tuple(call[3]) for call in asked.calls}) == 1
    expected = {(ticks, way.delay, way.guidance.enabled) for way in WAYS.values() for ticks in TICKS}
    assert {call[:3] for call in asked.calls} == expected
    assert len(asked.calls) == len(expected)
    assert found["prefix"][0] == Cell(successes=2, rollouts=3, seconds=1.0)
    assert {what for what, _ in parts} == {
        "plain training",
        f"training for a delay of {TRAINED_DELAY}",
        "rollouts",
    }
    assert table() == found
    assert len(asked.calls) == len(expected)  # all cells were on disk


def cells(rate: int) -> list[Cell]:
    return [Cell(successes=rate, rollouts=60, seconds=1.5) for _ in TICKS]


def test_the_table_is_complete_or_not() -> None:
    table = {name: cells(30 + number) for number, name in enumerate(WAYS)}
    ok, found = figures(table)
    assert ok
    assert (found["none_0"], found["guidance_4"], found["prefix_8"]) == (0.5, 0.5167, 0.5333)
    assert found["rollouts_per_cell"] == 60
    json.dumps(found)
    assert shown(table).row_count == len(TICKS)
    table["none"] = [*table["none"][:-1], Cell(successes=1, rollouts=4, seconds=1.0)]
    assert not figures(table)[0]


def test_a_cell_shows_its_interval() -> None:
    assert Cell(successes=54, rollouts=60, seconds=2.04).words == "90% [80-95], 2.0 s"
