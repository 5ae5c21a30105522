"""An update: what a node has learnt since a version, and its folder in the outbox."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agent.training.checkpoint import Progress
from shared.codec import encode
from shared.files import durable_folder, sha256
from shared.messages import UpdateHeader

HEADER, DELTA = "header.json", "delta.bin"
_METRIC_LENGTH = 41
MAX_CALIBRATIONS = 64
"""As many as `shared.messages.UpdateHeader` lets pass."""


@dataclass(frozen=True)
class Update:
    """header: What it is. delta: The encoded change of the adapter (`shared.codec`)."""

    header: UpdateHeader
    delta: bytes


def make_update(
    progress: Progress,
    node: str,
    delta: Mapping[str, np.ndarray],
    examples: int,
    held_out: Mapping[str, float],
    calibrations: Iterable[str] = (),
) -> Update:
    """Encode a finished update.

    Args:
        delta: Change of each adapter tensor, float32.
        examples: Frames that training could draw from.
        held_out: Loss per task on evaluation episodes.
        calibrations: Digests with which the training episodes were recorded; empty ones are left out.

    Raises:
        ArmfleetError: UPDATE_REFUSED: the change is not finite.
    """
    data = encode(delta)
    metrics = {metric_name("eval_loss_", task): value for task, value in held_out.items()}
    if held_out:
        metrics["eval_loss"] = float(np.mean(list(held_out.values())))
    header = UpdateHeader(
        id=progress.update_id,
        node=node,
        base_version=progress.base_version,
        base_digest=progress.base_digest,
        sha256=sha256(data),
        examples=examples,
        steps=progress.step,
        losses={t: progress.loss_sums[t] / progress.loss_counts[t] for t in sorted(progress.loss_sums)},
        metrics=metrics,
        calibrations=sorted(set(filter(None, calibrations)))[:MAX_CALIBRATIONS],
        seconds=round(progress.seconds, 3),
    )
    return Update(header, data)


def metric_name(prefix: str, task: str) -> str:
    """A metric's name for an instruction: what `shared.messages` lets pass."""
    return (prefix + re.sub(r"[^a-z0-9]+", "_", task.lower()).strip("_"))[:_METRIC_LENGTH]


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
