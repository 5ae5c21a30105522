"""The trainer's state on disk: one safetensors file, replaced as a whole, with its JSON part in the metadata.

SIGKILL at any instant leaves the previous or the new state. Nothing else is needed to go on bit for bit:
samples and noise are functions of seed and step.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from loguru import logger
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from agent.training.precision import Precision, ScalerState
from shared.files import write_atomic
from shared.normalisation import Statistics
from shared.recipe import Recipe

FORMAT = 1
VERSION_STEPS = 32
"""Steps that a node trains at least from one measurement of a version to the next. By the default recipe that
is every second update, and on a CPU about a thirtieth of its computing for each task that is evaluated
(docs/training.md: 21 s against 32 steps of 20 s)."""


class VersionMeasured(BaseModel):
    """What a version did on the node's evaluation episodes, per task."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    digest: str
    """Of its tensors and normalisation (`shared.adapters.digest`)."""
    total_steps: int
    """Steps that the node had trained by then."""
    loss: dict[str, float]
    action_mse: dict[str, float]


class Progress(BaseModel):
    """How far training is."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="constants")

    format: int = FORMAT
    update_id: str
    base_digest: str
    base_version: int
    recipe: Recipe
    learning_rate: float
    normalisation: Statistics | None = None
    """Of the version: what its samples are made with; None: the base's own."""
    episodes: list[str]
    """Content digests of the training episodes, fixed when the update was begun."""
    prefixes: list[str] = []
    """Those of training and evaluation that the cache's second tier serves, fixed likewise."""
    precision: Precision = "fp32"
    """Fixed when the update was begun, so that it ends in the precision it began in."""
    micro_batch: int | None = None
    """Frames that go through the policy at once; None: the whole batch."""
    scaler: ScalerState = {}
    """Of fp16."""
    version: VersionMeasured | None = None
    """The version that was measured last: this update's, or one of before."""
    step: int = 0
    """Steps done of this update."""
    first_step: int
    """Steps that this node had trained before this update: numbers samples and noise."""
    loss_sums: dict[str, float] = {}
    """Sum over samples of the training loss, per task."""
    loss_counts: dict[str, int] = {}
    gradient_norm_sum: float = 0.0
    """Over steps, before clipping."""
    gradient_norm_max: float = 0.0
    peak_memory: int = 0
    """Bytes; the most that any process took that worked on this update."""
    peak_gpu_memory: int = 0
    seconds: float = 0.0
    energy_joules: float | None = None
    """Of the GPU; None: no step yet, or a step of which it was not told."""
    delivered: bool = False
    """The update lies in the outbox; only the optimiser's moments and the residual are still of use."""
    diverged: bool = False
    """It won't become an update: there are no moments, and going on would end where it ended."""

    @property
    def unfinished(self) -> bool:
        """There is something to go on with."""
        return not (self.delivered or self.diverged)

    def after_step(
        self,
        losses: Mapping[str, tuple[float, int]],
        norm: float,
        seconds: float,
        joules: float | None = None,
    ) -> "Progress":
        """One step further: what `Loop.step` gave, how long it took, and the energy, where it is known."""
        sums, counts = dict(self.loss_sums), dict(self.loss_counts)
        for task, (total, count) in losses.items():
            sums[task] = sums.get(task, 0.0) + total
            counts[task] = counts.get(task, 0) + count
        before = self.energy_joules if self.step else 0.0
        return self.model_copy(
            update={
                "step": self.step + 1,
                "loss_sums": sums,
                "loss_counts": counts,
                "gradient_norm_sum": self.gradient_norm_sum + norm,
                "gradient_norm_max": max(self.gradient_norm_max, norm),
                "seconds": self.seconds + seconds,
                "energy_joules": None if before is None or joules is None else before + joules,
            }
        )

    def version_is_due(self, digest: str) -> bool:
        """Whether the update's version, by its digest, is to be measured before the first step."""
        last = self.version
        if self.step or last is None:
            return self.step == 0
        return last.digest != digest and self.first_step - last.total_steps >= VERSION_STEPS

    def measured_of(self, digest: str) -> VersionMeasured | None:
        """What was measured of the version of this digest; None: nothing, or it was long ago."""
        return self.version if self.version is not None and self.version.digest == digest else None


State = dict[str, dict[str, torch.Tensor]]
"""Group ("start", "now", "residual", those of `agent.training.optimiser.MOMENTS`) to adapter tensor name to
tensor."""


def save_checkpoint(path: Path, progress: Progress, state: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
    """Replace the checkpoint, durably."""
    tensors = {
        f"{group}/{name}": tensor.detach().cpu().contiguous()
        for group, named in state.items()
        for name, tensor in named.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, save(tensors, metadata={"progress": progress.model_dump_json()}))


def load_checkpoint(path: Path) -> tuple[Progress, State] | None:
    """Read what `save_checkpoint` wrote; None when there is none, or none that can be read (logged)."""
    if not path.exists():
        return None
    state: State = {}
    try:
        with safe_open(path, "pt") as file:
            progress = Progress.model_validate_json((file.metadata() or {})["progress"])
            if progress.format != FORMAT:
                raise ValueError(f"format {progress.format}")
            for key in file.keys():  # noqa: SIM118  (safe_open is no mapping)
                group, _, name = key.partition("/")
                state.setdefault(group, {})[name] = file.get_tensor(key)
    except (SafetensorError, KeyError, ValueError, ValidationError, OSError) as error:
        logger.warning("the training checkpoint can't be used, training starts afresh: {}", error)
        return None
    return progress, state
