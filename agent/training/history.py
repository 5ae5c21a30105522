"""What was measured of each update, kept on the workstation in `history.jsonl`: a JSON object per line.

A line is appended and flushed before the trainer counts the update as delivered, so a kill loses no update;
one that is delivered twice after a kill is noted once. A line that a power cut left incomplete is passed
over. Free of torch: the daemon and the command read it too.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Literal

from loguru import logger
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from shared.files import write_atomic
from shared.messages import Id, RecipeDigest
from shared.tasks import START_LOSS, START_MSE

FILE = "history.jsonl"
KEEP = 1000
"""Updates that are kept at least: at one an hour, six weeks. A line takes about 1 kB."""


class UpdateRecord(BaseModel):
    """What was measured of one update.

    Losses and errors are per task; those of evaluation are empty where no episode is kept for it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    format: Literal[1] = 1
    update: Id
    version: int
    """That it began from."""
    finished: AwareDatetime
    steps: int
    total_steps: int
    """Steps that this node has trained, up to the end of this update."""
    examples: int
    seconds: float
    """Of its steps; differs between two runs of the same update, as memory does. Pauses, building of the
    cache and evaluation are not in it."""
    learning_rate: float
    train_loss: dict[str, float]
    """Mean over the update's samples, while the adapter changes."""
    eval_loss: dict[str, float] = {}
    action_mse: dict[str, float] = {}
    """Mean squared error of sampled actions, in normalised units (`Loop.action_errors`)."""
    start_loss: dict[str, float] = {}
    """As `eval_loss`, of the version that it began from; empty where that was not measured."""
    start_mse: dict[str, float] = {}
    """As `action_mse`, likewise."""
    gradient_norm: float
    """Mean over steps of the gradient's L2 norm, before it is clipped."""
    gradient_norm_max: float
    trainable_parameters: int
    peak_memory_bytes: int
    """Most that was resident of the trainer's process."""
    peak_gpu_memory_bytes: int = 0
    """Most that its tensors took on the GPU; 0 without one."""
    energy_joules: float | None = None
    """That the GPU took from the beginning of its first step to the end of its last, pauses and checkpoints
    included (`agent.training.energy`); None: not told."""
    recipe: RecipeDigest = ""
    """What it was trained with; empty in lines of earlier releases."""

    @property
    def per_task(self) -> dict[str, dict[str, float]]:
        """Metric to task to value, those that were measured."""
        found = {
            "train_loss": self.train_loss,
            "eval_loss": self.eval_loss,
            "action_mse": self.action_mse,
            START_LOSS: self.start_loss,
            START_MSE: self.start_mse,
        }
        return {name: values for name, values in found.items() if values}

    @property
    def scalars(self) -> dict[str, float]:
        """Metric to value, those that were measured; of a metric per task the mean over tasks."""
        found: dict[str, float] = {name: fmean(values.values()) for name, values in self.per_task.items()}
        found["learning_rate"] = self.learning_rate
        found["gradient_norm"] = self.gradient_norm
        found["gradient_norm_max"] = self.gradient_norm_max
        found["trainable_parameters"] = self.trainable_parameters
        if self.seconds:
            found["steps_per_second"] = self.steps / self.seconds
        found["peak_memory_bytes"] = self.peak_memory_bytes
        if self.peak_gpu_memory_bytes:
            found["peak_gpu_memory_bytes"] = self.peak_gpu_memory_bytes
        if self.energy_joules is not None:
            found["energy_joules"] = self.energy_joules
        return found

    def in_words(self) -> str:
        """One line for the journal."""
        now = self.scalars
        evaluated = [
            ("eval loss", "eval_loss"),
            ("action MSE", "action_mse"),
            ("the version's eval loss", START_LOSS),
            ("the version's action MSE", START_MSE),
        ]
        parts = [
            f"trained {self.steps} steps in {self.seconds:.1f} s: loss {now['train_loss']:.4f}",
            *(f"{words} {now[name]:.4f}" for words, name in evaluated if name in now),
            f"gradient norm {self.gradient_norm:.3g}, at most {self.gradient_norm_max:.3g}",
            f"{megabytes(self.peak_memory_bytes)} MB of memory",
        ]
        if self.peak_gpu_memory_bytes:
            parts.append(f"{megabytes(self.peak_gpu_memory_bytes)} MB on the GPU")
        if self.energy_joules is not None:
            parts.append(f"{self.energy_joules:.0f} J of the GPU")
        return ", ".join(parts)


def megabytes(size: int) -> int:
    """Bytes as MB of 10^6."""
    return round(size / 1e6)


class History:
    """The file in `folder`.

    Args:
        folder: The training folder.
        keep: Records that are kept at least; at twice as many the older half goes.
    """

    def __init__(self, folder: Path, keep: int = KEEP) -> None:
        self._path, self._keep = folder / FILE, keep

    def append(self, record: UpdateRecord) -> None:
        """Note an update, durably; one that was noted last already is not noted again.

        Raises:
            OSError: the disk is full, or the file may not be written.
        """
        data = self._read()
        lines = data.splitlines(keepends=True)
        last = next(_readable(reversed(lines)), None)
        if last is not None and last.update == record.update:
            return
        line = record.model_dump_json().encode() + b"\n"
        if data and not data.endswith(b"\n"):
            line = b"\n" + line  # what a power cut left incomplete becomes a line of its own
        if not data or len(lines) >= 2 * self._keep:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self._path, b"".join([*lines[len(lines) - self._keep + 1 :], line]))
            return
        with self._path.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def records(self) -> list[UpdateRecord]:
        """All updates that can be read, oldest first.

        Raises:
            OSError: this user may not read the file.
        """
        return list(_readable(self._read().splitlines()))

    def last(self) -> UpdateRecord | None:
        """The newest update that can be read. Raises as `records`."""
        return next(_readable(reversed(self._read().splitlines())), None)

    def _read(self) -> bytes:
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return b""


def _readable(lines: Iterable[bytes]) -> Iterator[UpdateRecord]:
    for line in lines:
        try:
            yield UpdateRecord.model_validate_json(line)
        except ValidationError:
            logger.debug("a line of the training history can't be read: {!r}", line[:80])
