"""Training on a GPU: the CPU's update up to rounding, mixed precision, and memory that runs out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loguru import logger

from agent.training.data import Split, separate
from agent.training.energy import counter_of
from agent.training.trainer import LocalTrainer
from agent.training.update import Update
from shared.adapters import Tensors
from shared.codec import decode
from shared.policy.initial import initial_adapter
from shared.recipe import PRESETS, Recipe
from tests.agent.training.conftest import TASKS, make_episode

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA GPU")

RECIPE = Recipe.model_validate(PRESETS["wide"] | {"rank": 4, "alpha": 8, "batch": 16, "draws": 2, "steps": 6})

LIKENESS = {"fp32": 0.9999, "bf16": 0.99, "fp16": 0.5, "auto": 0.99}
"""Least cosine of the CPU's update in float32 and the GPU's. In fp16 the first steps are left out, until the
loss's scale has come down."""


@pytest.fixture(scope="module")
def split() -> Split:
    return separate([make_episode(i, TASKS[i % 2]) for i in range(4)], [make_episode(10, TASKS[0])])


def on_gpu(base: Path, split: Split, folder: Path, **options: Any) -> LocalTrainer:
    return LocalTrainer(base, split, folder, node="station-a", **({"device": "cuda"} | options))


def trained(base: Path, split: Split, folder: Path, **options: Any) -> tuple[Update, Tensors]:
    tensors = initial_adapter(base, RECIPE)[0]
    trainer = on_gpu(base, split, folder, **options)
    update = trainer.train(tensors, 0, RECIPE, 2e-3)
    return update, decode(update.delta, tensors, update.header.codec)


def cosine(a: Tensors, b: Tensors) -> float:
    x, y = (np.concatenate([each[name].ravel() for name in sorted(a)]).astype(np.float64) for each in (a, b))
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


@pytest.mark.parametrize(("precision", "likeness"), LIKENESS.items())
def test_an_update_is_that_of_the_cpu_up_to_rounding(
    tiny_base: Path, split: Split, tmp_path: Path, precision: str, likeness: float
) -> None:
    wanted, cpu = trained(tiny_base, split, tmp_path / "cpu", device="cpu", precision="fp32")
    update, gpu = trained(tiny_base, split, tmp_path / "gpu", precision=precision)
    assert update.header.metrics["peak_gpu_memory_bytes"] > 1e6
    for task, loss in wanted.header.losses.items():
        assert update.header.losses[task] == pytest.approx(loss, rel=1.01 - likeness)
    assert cosine(cpu, gpu) > likeness


def test_an_update_is_resumed(tiny_base: Path, split: Split, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def kill(step: int, *_rest: object) -> None:
        if step == 3:
            raise Killed

    tensors = initial_adapter(tiny_base, RECIPE)[0]
    _, whole = trained(tiny_base, split, tmp_path / "whole", precision="bf16")

    def trainer() -> LocalTrainer:
        return on_gpu(tiny_base, split, tmp_path / "cut", precision="bf16", checkpoint_s=0)

    with pytest.raises(Killed):
        trainer().train(tensors, 0, RECIPE, 2e-3, on_step=kill)
    update = trainer().resume()
    # Not to the byte, as on a CPU: some sums on a GPU have no fixed order.
    assert cosine(whole, decode(update.delta, tensors, update.header.codec)) > 0.999


def test_the_energy_of_an_update_is_told(tiny_base: Path, split: Split, tmp_path: Path) -> None:
    counter = counter_of("cuda")
    before = counter()
    if before is None:
        pytest.skip("the driver of this GPU does not tell its energy")
    update, _ = trained(tiny_base, split, tmp_path)
    after, joules = counter(), update.record.energy_joules
    assert after is not None
    assert joules is not None
    assert 0 <= joules <= after - before, "an update is part of what the card took"
    assert after > before, "the counter stands still"


def test_memory_that_runs_out_halves_the_pieces(tiny_base: Path, split: Split, tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"batch": 512, "draws": 16, "steps": 2})
    tensors = initial_adapter(tiny_base, recipe)[0]

    def update(folder: str) -> tuple[Tensors, float]:
        made = on_gpu(tiny_base, split, tmp_path / folder, precision="fp32").train(tensors, 0, recipe, 2e-3)
        return decode(made.delta, tensors, made.header.codec), made.header.metrics["peak_gpu_memory_bytes"]

    whole, peak = update("whole")
    assert peak > 200e6, "too little for the limit to mean a step"
    torch.cuda.empty_cache()
    there, total = torch.cuda.memory_reserved(), torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((there + 0.6 * (peak - there)) / total)
    lines: list[str] = []
    sink = logger.add(lines.append, level="WARNING", format="{message}")
    try:
        pieces, less = update("pieces")
    finally:
        logger.remove(sink)
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert any("256 frames at once" in line for line in lines)
    assert less < peak
    assert cosine(whole, pieces) > 0.999
