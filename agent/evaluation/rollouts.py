"""Rollouts on the arm and what they are worth: `rollout.json` in each rollout's own folder. Torch-free.

What a person labels here is what a robot reports about a version (`agent.evaluation.field`); frames and
traces stay on the workstation.
"""

from pathlib import Path

from loguru import logger
from pydantic import BaseModel, ConfigDict, ValidationError

from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.files import remove_in_progress, write_atomic

FILE, TRACE, VIDEO = "rollout.json", "trace.jsonl", "video.mp4"


class RolloutFigures(BaseModel):
    """What happened, in numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ticks: int = 0
    """Control ticks under the policy, 30 a second."""
    chunks: int = 0
    starved: int = 0
    """Ticks without an action; the arm held."""
    latency_ms_mean: float = 0.0
    latency_ms_max: float = 0.0
    period_ms_mean: float = 0.0
    period_ms_max: float = 0.0


class RolloutRecord(BaseModel):
    """One autonomous attempt at a task."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = 1
    id: str
    task: str
    version: int | None
    """The version the policy process said it ran; None for the base alone."""
    digest: str | None
    """Digest of the live tensors during the rollout."""
    created: str
    reason: str
    """Why it ended: time_up, the operator's word, or an exit code's name."""
    figures: RolloutFigures = RolloutFigures()
    success: bool | None = None
    """The label; None until someone gave it."""
    interventions: int | None = None
    """How often the operator took over; None: nobody counted."""


class RolloutStore:
    """The rollouts of one workstation.

    Args:
        root: Folder of rollout folders.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def recover(self) -> list[str]:
        """At start-up: remove what a killed process left half-written; the names."""
        return remove_in_progress(self.root)

    def folder(self, rollout_id: str) -> Path:
        """Where a rollout's files are."""
        return self.root / rollout_id

    def read(self, rollout_id: str) -> RolloutRecord:
        """One rollout.

        Raises:
            ArmfleetError: there is none of this id, or its file is damaged.
        """
        try:
            return RolloutRecord.model_validate_json((self.folder(rollout_id) / FILE).read_bytes())
        except (OSError, ValidationError) as error:
            raise ArmfleetError(
                f"the rollout {rollout_id} can't be read: {error}", code=ExitCode.EPISODE_DAMAGED
            ) from error

    def records(self) -> list[RolloutRecord]:
        """All finished rollouts by id; a damaged one is logged and left out."""
        records = []
        for path in sorted(self.root.iterdir()):
            if path.name.startswith(".") or not path.is_dir():
                continue
            try:
                records.append(self.read(path.name))
            except ArmfleetError as error:
                logger.bind(rollout=path.name).error("{}", error)
        return records

    def label(self, rollout_id: str, success: bool) -> RolloutRecord:
        """Say whether the attempt succeeded; durable when it returns. A later label replaces an earlier
        one, also in the next report to the coordinator, which then judges by it; what was decided before
        stays decided."""
        record = self.read(rollout_id).model_copy(update={"success": success})
        write_atomic(self.folder(rollout_id) / FILE, record.model_dump_json(indent=1) + "\n")
        logger.bind(rollout=rollout_id, version=record.version).info(
            "rollout {} is labelled {}", rollout_id, "a success" if success else "a failure"
        )
        return record
