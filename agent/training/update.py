"""An update: what a node has learnt since a version, and its folder in the outbox."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path

import numpy as np
from loguru import logger

from agent.training.checkpoint import Progress, VersionMeasured
from agent.training.history import UpdateRecord
from shared.codec import encode
from shared.files import durable_folder, sha256
from shared.messages import UpdateHeader
from shared.tasks import START_LOSS, START_MSE, metric_name, told_task

HEADER, DELTA = "header.json", "delta.bin"
MAX_CALIBRATIONS = MAX_METRICS = MAX_LOSSES = 64
"""As many as `shared.messages.UpdateHeader` lets pass."""
DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Update:
    """header: What it is. delta: The encoded change of the adapter (`shared.codec`). record: What was
    measured, for this workstation; what of it may leave is in the header."""

    header: UpdateHeader
    delta: bytes
    record: UpdateRecord


@dataclass(frozen=True)
class Measured:
    """After the last step: `eval_loss` and `action_mse` per task on evaluation episodes, empty without any;
    `trainable`, how many numbers trained; `version`, the same two of the version that the update began from,
    where it was measured."""

    finished: datetime
    eval_loss: Mapping[str, float]
    action_mse: Mapping[str, float]
    trainable: int
    version: VersionMeasured | None


def make_update(
    progress: Progress,
    node: str,
    base_tensors: str,
    delta: Mapping[str, np.ndarray],
    examples: int,
    measured: Measured,
    calibrations: Iterable[str] = (),
) -> Update:
    """Encode a finished update.

    Args:
        base_tensors: Digest of the version that it began from (`shared.adapters.digest`).
        delta: What of the change of each adapter tensor is to be sent, float32; the recipe says how.
        examples: Frames that training could draw from, however often their pictures were altered.
        calibrations: Digests with which the training episodes were recorded; what is none is left out.

    Raises:
        ArmfleetError: UPDATE_REFUSED: the change is not finite.
    """
    codec = progress.recipe.codec
    data = encode(delta, codec)
    record = UpdateRecord(
        update=progress.update_id,
        version=progress.base_version,
        finished=measured.finished,
        steps=progress.step,
        total_steps=progress.first_step + progress.step,
        examples=examples,
        seconds=round(progress.seconds, 3),
        learning_rate=progress.learning_rate,
        train_loss={t: progress.loss_sums[t] / progress.loss_counts[t] for t in sorted(progress.loss_sums)},
        eval_loss=dict(measured.eval_loss),
        action_mse=dict(measured.action_mse),
        start_loss=measured.version.loss if measured.version else {},
        start_mse=measured.version.action_mse if measured.version else {},
        gradient_norm=progress.gradient_norm_sum / progress.step,
        gradient_norm_max=progress.gradient_norm_max,
        trainable_parameters=measured.trainable,
        peak_memory_bytes=progress.peak_memory,
        peak_gpu_memory_bytes=progress.peak_gpu_memory,
        energy_joules=progress.energy_joules,
        recipe=progress.recipe.digest,
    )
    header = UpdateHeader(
        id=progress.update_id,
        node=node,
        base_version=progress.base_version,
        base_digest=progress.base_digest,
        sha256=sha256(data),
        codec=codec,
        examples=examples,
        steps=progress.step,
        losses=losses_of(record),
        metrics=metrics_of(record),
        calibrations=sorted(filter(DIGEST.fullmatch, set(calibrations)))[:MAX_CALIBRATIONS],
        seconds=record.seconds,
        recipe=record.recipe,
        base_tensors_digest=base_tensors,
    )
    return Update(header, data, record)


def losses_of(record: UpdateRecord) -> dict[str, float]:
    """What the header says of the losses: of each task as much of its sentence as may leave, of as many tasks
    as have room. The rest is left out, with a line in the log: a label is worth no update."""
    found: dict[str, float] = {}
    for task, loss in record.train_loss.items():
        if math.isfinite(loss) and (told := told_task(task)):
            found.setdefault(told, _short(loss))
    found = dict(islice(found.items(), MAX_LOSSES))
    if left := len(record.train_loss) - len(found):
        logger.bind(update=record.update).info(
            "the coordinator is told the losses of {} tasks; those of {} more are in the history",
            len(found),
            left,
        )
    return found


def metrics_of(record: UpdateRecord) -> dict[str, float]:
    """What the header says of `record` besides its losses: numbers for the whole update first, then as many
    tasks as have room, first those that the coordinator reads. What overflowed is left out: it is worth no
    update."""
    found = record.per_task
    per_task = {
        metric_name(f"{name}_", task): found[name][task]
        for pair in ((START_LOSS, START_MSE), ("eval_loss", "action_mse"))
        for task in sorted({*found.get(pair[0], ()), *found.get(pair[1], ())})
        for name in pair
        if task in found.get(name, ())
    }
    finite = ((name, _short(x)) for name, x in (record.scalars | per_task).items() if math.isfinite(x))
    return dict(islice(finite, MAX_METRICS))


def _short(value: float) -> float:
    """Four significant digits, a count in full: nobody reads more, and a number of eight digits on the wire
    can't be told from a recorded joint's value (steps/s and joints are both ratios of small integers)."""
    return value if float(value).is_integer() else float(f"{value:.4g}")


def write_update(outbox: Path, update: Update) -> Path:
    """Put `update` into the outbox as a folder named by its id, whole or not at all.

    After a crash the same update may be written twice; the folder that is there already stays.
    """
    outbox.mkdir(parents=True, exist_ok=True)
    final = outbox / update.header.id
    if not final.exists():
        with durable_folder(final) as folder:
            header = json.dumps(update.header.model_dump(mode="json"), indent=1, sort_keys=True)
            (folder / HEADER).write_text(header + "\n")
            (folder / DELTA).write_bytes(update.delta)
    return final
