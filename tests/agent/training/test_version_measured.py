"""A version on the station's evaluation episodes before it trains: what is told, how often, after a kill."""

from collections.abc import Callable
from pathlib import Path

import pytest

from agent.training import checkpoint as checkpoint_module
from agent.training.data import Split
from agent.training.loop import Loop
from agent.training.update import Update
from shared.adapters import Tensors
from shared.policy.initial import initial_adapter
from shared.recipe import Recipe
from shared.tasks import metric_name
from tests.agent.training.conftest import TASKS


class Killed(BaseException):
    """Stands in for SIGKILL: nothing of the trainer runs after it."""


@pytest.fixture
def short(recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"steps": 2})


@pytest.fixture
def tensors(tiny_base: Path, short: Recipe) -> Tensors:
    return initial_adapter(tiny_base, short)[0]


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """An entry for each time that evaluation episodes were gone through."""
    calls: list[int] = []
    evaluate = Loop.evaluate

    def counted(loop: Loop, samples: object) -> dict[str, float]:
        calls.append(1)
        return evaluate(loop, samples)

    monkeypatch.setattr(Loop, "evaluate", counted)
    return calls


def other(tensors: Tensors, number: int) -> Tensors:
    return {name: array + number / 1000 for name, array in tensors.items()}


def test_it_is_what_an_update_that_changes_nothing_ends_with(
    trainer: Callable, tensors: Tensors, short: Recipe, tmp_path: Path
) -> None:
    update = trainer(tmp_path).train(other(tensors, 3), 3, short, learning_rate=0.0)
    record, metrics = update.record, update.header.metrics
    assert record.start_loss == record.eval_loss
    assert record.start_mse == record.action_mse
    assert set(record.start_loss) == {TASKS[0]}
    assert metrics[metric_name("start_loss_", TASKS[0])] == metrics["eval_loss"] > 0
    assert metrics[metric_name("start_mse_", TASKS[0])] == metrics["action_mse"] > 0


def test_short_updates_measure_it_seldom_and_no_version_twice(
    trainer: Callable,
    tensors: Tensors,
    short: Recipe,
    tmp_path: Path,
    evaluated: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each update measures itself, as ever; versions only from four steps after the last one on."""
    monkeypatch.setattr(checkpoint_module, "VERSION_STEPS", 4)
    trained = trainer(tmp_path)
    told = []
    for version in (0, 1, 2, 2, 2, 3):
        before = len(evaluated)
        update = trained.train(other(tensors, version), version, short, 1e-3)
        told.append((version, len(evaluated) - before, bool(update.record.start_loss)))
    assert told == [(0, 2, True), (1, 1, False), (2, 2, True), (2, 1, True), (2, 1, True), (3, 2, True)]


def test_a_kill_neither_loses_nor_repeats_it(
    trainer: Callable,
    tensors: Tensors,
    short: Recipe,
    tmp_path: Path,
    evaluated: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = trainer(tmp_path / "a").train(tensors, 0, short, 1e-3)

    def kill(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Loop, "action_errors", kill)
        trainer(tmp_path / "b").train(tensors, 0, short, 1e-3)
    evaluated.clear()
    with pytest.raises(Killed):
        trainer(tmp_path / "b").resume(on_step=kill)
    assert len(evaluated) == 1, "what the first kill interrupted is made up for"
    update: Update = trainer(tmp_path / "b").resume()
    assert len(evaluated) == 2, "after that only the update itself is measured"
    assert update.delta == expected.delta
    assert update.record.start_loss == expected.record.start_loss != update.record.eval_loss
    assert update.record.start_mse == expected.record.start_mse


def test_without_evaluation_episodes_there_is_none(
    trainer: Callable, tensors: Tensors, short: Recipe, split: Split, tmp_path: Path, evaluated: list[int]
) -> None:
    update = trainer(tmp_path, episodes=Split(split.train, ())).train(tensors, 0, short, 1e-3)
    assert evaluated == []
    assert update.record.start_loss == {}
    assert not [name for name in update.header.metrics if name.startswith("start_")]
