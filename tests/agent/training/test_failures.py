"""Updates that end in an error: what diverged is not gone on with, all else goes on where it was."""

import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loguru import logger

from agent.training import trainer as trainer_module
from agent.training.checkpoint import load_checkpoint, save_checkpoint
from agent.training.data import Split
from agent.training.history import History
from agent.training.loop import DivergedError
from agent.training.trainer import CHECKPOINT
from agent.training.update import Update
from agent.training.worker import TrainingWorker
from shared.adapters import Manifest, Tensors, digest, write_adapter
from shared.errors import ArmfleetError
from shared.policy.adapter import adapter_parameters
from shared.policy.digest import base_digest
from shared.policy.initial import initial_adapter, peft_config
from shared.recipe import Recipe
from tests.agent.training.records import repeatable

FULL = OSError(28, "No space left on device")
PATIENCE_S = 60.0


@pytest.fixture
def tensors(tiny_base: Path, recipe: Recipe) -> Tensors:
    return initial_adapter(tiny_base, recipe)[0]


@pytest.fixture
def fixed_id(monkeypatch: pytest.MonkeyPatch) -> None:
    class Uuid:
        hex = "0" * 32

    monkeypatch.setattr(trainer_module.uuid, "uuid4", Uuid)


@pytest.fixture
def logged() -> Iterator[list[str]]:
    said: list[str] = []
    sink = logger.add(lambda message: said.append(message.record["message"]), level="INFO")
    yield said
    logger.remove(sink)


class Once:
    """A callback that raises the first time it is called with `at` (any step or update: None)."""

    def __init__(self, error: BaseException, at: int | None = None) -> None:
        self._error, self._at = error, at
        self._raised = False

    def __call__(self, first: Any, *_rest: object) -> None:
        if not self._raised and self._at in (None, first):
            self._raised = True
            raise self._error


def diverge(trained: Any, tensors: Tensors, recipe: Recipe, version: int) -> None:
    """An update of which the gradient of the third step is infinite."""

    def poison(step: int, *_rest: object) -> None:
        if step == 2:
            parameter = next(iter(adapter_parameters(trained._model).values()))
            hooks.append(parameter.register_hook(lambda gradient: gradient * torch.inf))

    hooks: list[Any] = []
    with pytest.raises(DivergedError, match="the gradient of step"):
        trained.train(tensors, version, recipe, 2e-3, on_step=poison)
    hooks[0].remove()


@pytest.mark.parametrize("restarted", [False, True])
def test_after_divergence_the_next_update_begins_with_fresh_moments(
    trainer: Callable, tensors: Tensors, recipe: Recipe, tmp_path: Path, restarted: bool
) -> None:
    trained = trainer(tmp_path, checkpoint_s=0)
    trained.train(tensors, 0, recipe, 2e-3)
    diverge(trained, tensors, recipe, 1)
    if restarted:
        trained = trainer(tmp_path)
    assert trained.unfinished() is None, "it would diverge again"
    update = trained.train(tensors, 1, recipe, 2e-3)
    assert update.record.total_steps == 2 * recipe.steps + 2, "new draws"
    _, state = load_checkpoint(tmp_path / CHECKPOINT)  # type: ignore[misc]
    assert {float(count) for count in state["count"].values()} == {recipe.steps}
    assert all(torch.isfinite(t).all() for group in state.values() for t in group.values())


def test_moments_that_are_not_finite_are_not_taken_over(
    trainer: Callable, tensors: Tensors, recipe: Recipe, tmp_path: Path
) -> None:
    trainer(tmp_path).train(tensors, 0, recipe, 2e-3)
    progress, state = load_checkpoint(tmp_path / CHECKPOINT)  # type: ignore[misc]
    next(iter(state["mean"].values()))[0] = torch.nan  # as releases before left it behind
    save_checkpoint(tmp_path / CHECKPOINT, progress, state)
    update = trainer(tmp_path).train(tensors, 1, recipe, 2e-3)
    assert np.isfinite(update.record.gradient_norm_max)


def test_an_update_with_numbers_that_are_not_finite_starts_again(
    trainer: Callable, tensors: Tensors, recipe: Recipe, tmp_path: Path
) -> None:
    with pytest.raises(OSError, match="No space"):
        trainer(tmp_path, checkpoint_s=0).train(tensors, 0, recipe, 2e-3, on_step=Once(FULL, 3))
    progress, state = load_checkpoint(tmp_path / CHECKPOINT)  # type: ignore[misc]
    next(iter(state["now"].values()))[0] = torch.nan
    save_checkpoint(tmp_path / CHECKPOINT, progress, state)
    assert trainer(tmp_path).resume().header.steps == recipe.steps


@pytest.mark.parametrize("at", [3, None], ids=["in a step", "when it is delivered"])
@pytest.mark.parametrize("checkpoint_s", [0, 1000])
@pytest.mark.usefixtures("fixed_id")
def test_after_an_error_the_same_process_goes_on_bit_for_bit(
    trainer: Callable, tensors: Tensors, recipe: Recipe, tmp_path: Path, at: int | None, checkpoint_s: float
) -> None:
    expected = trainer(tmp_path / "a").train(tensors, 0, recipe, 2e-3)
    trained = trainer(tmp_path / "b", checkpoint_s=checkpoint_s)
    once = Once(FULL, at)
    with pytest.raises(OSError, match="No space"):
        trained.train(tensors, 0, recipe, 2e-3, **{"deliver" if at is None else "on_step": once})
    update = trained.resume()
    assert update.delta == expected.delta
    assert repeatable(update) == repeatable(expected)
    assert trained.unfinished() is None


def test_a_delivered_update_that_cannot_be_noted_is_not_trained_again(
    trainer: Callable, tensors: Tensors, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object) -> None:
        raise FULL

    def deliver(update: Update) -> None:
        delivered.append(update.header.id)
        monkeypatch.setattr(trainer_module, "save_checkpoint", full)

    delivered: list[str] = []
    trained = trainer(tmp_path)
    update = trained.train(tensors, 0, recipe, 2e-3, deliver)
    assert trained.unfinished() is None
    monkeypatch.undo()
    again = trainer(tmp_path).resume()
    assert delivered == [update.header.id] == [again.header.id]
    assert again.delta == update.delta


def test_why_an_update_starts_again_is_in_the_log(
    trainer: Callable, tensors: Tensors, recipe: Recipe, tmp_path: Path, split: Split, logged: list[str]
) -> None:
    with pytest.raises(OSError, match="No space"):
        trainer(tmp_path).train(tensors, 0, recipe, 2e-3, on_step=Once(FULL, 1))
    trainer(tmp_path, episodes=Split(split.train[:3], split.eval)).resume()
    assert "the update starts again: 1 of its 4 episodes no longer train" in logged


class Channel:
    """The daemon's end of a worker's channel."""

    def __init__(self) -> None:
        self.events: queue.Queue[tuple[str, dict]] = queue.Queue()

    def emit(self, name: str, **fields: object) -> None:
        self.events.put((name, fields))

    def until(self, *names: str) -> tuple[str, dict]:
        while (event := self.events.get(timeout=PATIENCE_S))[0] not in names:
            pass
        return event


def test_the_worker_goes_on_with_an_update_whose_delivery_failed_and_not_with_one_that_diverged(
    trainer: Callable,
    tiny_base: Path,
    tensors: Tensors,
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "version").mkdir()
    manifest = Manifest(
        version=0,
        parent=None,
        base_digest=base_digest(tiny_base),
        tensors_digest=digest(tensors),
        recipe=recipe,
        created="2026-01-01T00:00:00Z",
    )
    write_adapter(tmp_path / "version", tensors, peft_config(tiny_base, recipe), manifest)
    order = {"version": 0, "folder": tmp_path / "version", "recipe": recipe.model_dump(mode="json")}
    order["learning_rate"] = 2e-3
    channel, trained, outbox = Channel(), trainer(tmp_path / "training"), tmp_path / "outbox"
    worker = TrainingWorker(trained, outbox, channel, History(tmp_path), [])  # type: ignore[arg-type]

    outbox.write_bytes(b"")  # no folder can be made there
    assert worker.train(order) == {"started": True}
    assert channel.until("failed", "update")[0] == "failed"
    begun = trained.unfinished()
    assert begun is not None
    outbox.unlink()
    assert worker.train(order) == {"started": True}
    name, fields = channel.until("failed", "update", "progress")
    assert (name, fields["id"]) == ("update", begun.update_id), "no step is taken again"
    assert [path.name for path in outbox.iterdir()] == [begun.update_id]

    diverged = Once(DivergedError("the loss is gone"), None)
    monkeypatch.setattr(trained._loop, "step", diverged)
    worker.train(order)
    assert channel.until("failed", "update")[0] == "failed"
    monkeypatch.undo()
    worker.train(order)
    assert channel.until("failed", "update")[0] == "update"
    assert [record.steps for record in History(tmp_path).records()] == [5, 5]


def test_a_change_that_cannot_be_encoded_is_not_gone_on_with(
    trainer: Callable, tensors: Tensors, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> None:
        raise ArmfleetError("it is too large for half precision")

    monkeypatch.setattr(trainer_module, "make_update", refuse)
    trained = trainer(tmp_path)
    with pytest.raises(ArmfleetError, match="half precision"):
        trained.train(tensors, 0, recipe, 2e-3)
    assert trained.unfinished() is None


def test_a_recipe_that_trains_what_is_frozen_is_refused_and_the_next_one_trains(
    trainer: Callable, tensors: Tensors, recipe: Recipe, tmp_path: Path
) -> None:
    trained = trainer(tmp_path)
    expected = trained.train(tensors, 0, recipe, 2e-3)
    with pytest.raises(ArmfleetError, match="reaches into the frozen"):
        trained.train(tensors, 1, recipe.model_copy(update={"target_modules": r".*\.q_proj"}), 2e-3)
    again = trained.train(tensors, 1, recipe, 2e-3)
    assert again.record.total_steps == 2 * expected.record.steps
