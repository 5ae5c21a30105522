"""Killed anywhere and resumed, any number of times: bitwise the same update, whatever the recipe asks for and
however little memory there is.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agent.training import loop as loop_module
from agent.training import trainer as trainer_module
from agent.training.trainer import CHECKPOINT, LocalTrainer
from agent.training.update import Update
from shared.adapters import Tensors
from shared.errors import ArmfleetError
from shared.policy.initial import initial_adapter
from shared.recipe import PRESETS, Recipe
from tests.agent.training.records import repeatable

STEPS, BATCH = 4, 6
RECIPE = Recipe.model_validate(
    PRESETS["wide"] | {"rank": 4, "alpha": 8, "batch": BATCH, "draws": 1, "steps": STEPS}
)


class Killed(BaseException):
    """Stands in for SIGKILL: nothing of the trainer runs after it."""


class Memory:
    """Of a device on which a forward pass fails when it holds more than `limit` frames.

    once: Passes of training, counted through, that fail whatever their size: memory that another program
        took for a moment.
    """

    def __init__(self, limit: int, once: tuple[int, ...] = ()) -> None:
        self.limit, self.once, self.passes = limit, once, 0
        self._loss = loop_module.flow_matching_loss

    def __call__(self, policy: object, prefix: object, state: torch.Tensor, *rest: object) -> torch.Tensor:
        if torch.is_grad_enabled():
            self.passes += 1
            if len(state) > self.limit or self.passes in self.once:
                raise torch.OutOfMemoryError("CUDA out of memory")
        return self._loss(policy, prefix, state, *rest)


@pytest.fixture(scope="module")
def tensors(tiny_base: Path) -> Tensors:
    return initial_adapter(tiny_base, RECIPE)[0]


@pytest.fixture
def start(trainer: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., LocalTrainer]:
    """Start the trainer as a new process would; the cache is kept, the checkpoint only when told."""

    class Uuid:
        hex = "0" * 32

    monkeypatch.setattr(trainer_module.uuid, "uuid4", Uuid)

    def make(forget: bool = False, **options: object) -> LocalTrainer:
        if forget:
            (tmp_path / CHECKPOINT).unlink(missing_ok=True)
        return trainer(tmp_path, **options)

    return make


def kill_after(steps: int) -> dict[str, Callable]:
    """Callbacks that end a life after so many steps; where more are asked for than are left, before the
    update counts as delivered."""
    left = [steps]

    def on_step(_step: int, _steps: int, _loss: float) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    def deliver(_update: Update) -> None:
        raise Killed

    return {"on_step": on_step, "deliver": deliver}


@given(
    lives=st.lists(st.integers(1, STEPS + 1), min_size=1, max_size=3),
    asked=st.fixed_dictionaries(
        {
            "mu": st.sampled_from([0.0, 0.5]),
            "keep_optimiser": st.booleans(),
            "optimiser": st.sampled_from(["adamw", "sgd"]),
            "mask_padding": st.booleans(),
            "delay": st.sampled_from([0, 3]),
            "augmentations": st.sampled_from([0, 1]),
            "codec": st.sampled_from(["fp16-zstd", "int4-zstd"]),
        }
    ),
    options=st.fixed_dictionaries(
        {
            "precision": st.sampled_from(["fp32", "bf16", "fp16"]),
            "micro_batch": st.sampled_from([None, 4]),
            "checkpoint_s": st.sampled_from([0.0, 1000.0]),
        }
    ),
    limit=st.integers(1, BATCH),
)
@example(
    lives=[2, 1, STEPS + 1],
    asked={
        "mu": 0.5,
        "keep_optimiser": True,
        "optimiser": "adamw",
        "mask_padding": True,
        "delay": 3,
        "augmentations": 1,
        "codec": "int4-zstd",
    },
    options={"precision": "fp16", "micro_batch": 4, "checkpoint_s": 0.0},
    limit=3,
)
@example(
    lives=[3],
    asked={"optimiser": "sgd"},
    options={"precision": "fp16", "micro_batch": None, "checkpoint_s": 0.0},
    limit=BATCH,
)
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_update_is_resumed_to_the_same_bytes(
    start: Callable[..., LocalTrainer],
    tensors: Tensors,
    tmp_path: Path,
    lives: list[int],
    asked: dict[str, Any],
    options: dict[str, Any],
    limit: int,
) -> None:
    """The node's second update, which goes on from the first one's moments, steps, residual and loss scale.
    The scale grows so often that some gradients overflow."""
    scaler = partial(torch.amp.GradScaler, init_scale=2.0**17, growth_interval=2)
    recipe = RECIPE.model_copy(update=asked)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop_module, "flow_matching_loss", Memory(limit))
        patch.setattr(torch.amp, "GradScaler", scaler)
        whole = start(forget=True, **options)
        whole.train(tensors, 0, recipe, 2e-3)
        first = (tmp_path / CHECKPOINT).read_bytes()
        expected = whole.train(tensors, 1, recipe, 1e-3)
        (tmp_path / CHECKPOINT).write_bytes(first)
        work = partial(start(**options).train, tensors, 1, recipe, 1e-3)
        for steps in lives:
            with pytest.raises(Killed):
                work(**kill_after(steps))
            work = start(**options).resume
        got = work()
    assert got.delta == expected.delta
    assert got.header.losses == expected.header.losses
    assert repeatable(got) == repeatable(expected)


def test_memory_that_ran_out_once_is_remembered_by_a_resumed_update(
    start: Callable[..., LocalTrainer], tensors: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A smaller micro-batch is in the checkpoint at once, however seldom checkpoints are written."""
    for kill in (False, True):
        monkeypatch.setattr(loop_module, "flow_matching_loss", Memory(BATCH, once=(2,)))
        trainer = start(forget=True, checkpoint_s=1000)
        if not kill:
            expected = trainer.train(tensors, 0, RECIPE, 2e-3)
            continue
        with pytest.raises(Killed):
            trainer.train(tensors, 0, RECIPE, 2e-3, **kill_after(3))
        resumed = start(checkpoint_s=1000)
        unfinished = resumed.unfinished()
        assert unfinished is not None
        assert (unfinished.step, unfinished.micro_batch) == (2, BATCH // 2)
        assert resumed.resume().delta == expected.delta


def test_a_new_update_begins_with_the_whole_batch_again(
    start: Callable[..., LocalTrainer], tensors: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(BATCH, once=(1,))
    monkeypatch.setattr(loop_module, "flow_matching_loss", memory)
    trainer = start()
    trainer.train(tensors, 0, RECIPE, 2e-3)
    passes = memory.passes
    trainer.train(tensors, 1, RECIPE, 2e-3)
    assert passes > 2 * STEPS
    assert memory.passes - passes < 2 * STEPS + 1


def test_a_workstation_on_which_no_frame_fits_says_so_and_keeps_its_checkpoint(
    start: Callable[..., LocalTrainer], tensors: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "flow_matching_loss", Memory(0))
    with pytest.raises(ArmfleetError, match="single frame"):
        start(forget=True).train(tensors, 0, RECIPE, 2e-3)
    unfinished = start().unfinished()
    assert unfinished is not None
    assert unfinished.step == 0
