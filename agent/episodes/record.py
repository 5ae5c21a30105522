"""What is known about one episode, as it stands in its own folder: `armfleet.json`, the truth about it.

Torch-free and LeRobot-free; the daemon, the gate, the trainer and the CLI read it.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.files import write_atomic

FILE = "armfleet.json"
SIDECAR = "sidecar.jsonl"

Verdict = Literal["unjudged", "admitted", "quarantined", "undecidable"]
Split = Literal["train", "eval"]
Label = Literal["success", "failure"]
Kind = Literal["recorded", "intervention", "imported"]
EPISODE_ID = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,79}$"
"""Ids name folders: 000012 recorded here, imported-1a2b3c4d-000012 from a dataset."""


class Reason(BaseModel):
    """One finding of the gate."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    check: str
    """Id from the fixed list in `agent.episodes.checks`."""
    value: float | None
    threshold: float | None
    frames: list[int] = []
    """Frames concerned, at most a few."""
    message: str


class Decision(BaseModel):
    """A person's verdict; it stands above the gate's until the person changes it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    verdict: Literal["admitted", "quarantined"]
    reason: str
    at: str = Field(description="ISO 8601, UTC")


class Origin(BaseModel):
    """Where an imported episode comes from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    """Folder name of the dataset, without the way to it."""
    dataset_digest: str
    """See `agent.episodes.sources.dataset_digest`."""
    episode: int
    """Its number in that dataset."""
    fps: float
    robot_type: str
    format: str
    """v3.0, or v2.1 when it was converted."""
    imported: str = Field(description="ISO 8601, UTC")
    reencoded: list[str] = []
    """Cameras whose video could not be cut at a key frame and was encoded again."""


class Intervention(BaseModel):
    """The rollout in which a person took over from the policy and recorded the episode."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rollout: str
    version: int | None
    """What the policy executed; None for the base alone."""


class EpisodeRecord(BaseModel):
    """One episode's own file. Verdict, reasons, notes, label and decision may change; the rest is only ever
    filled in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = 1
    id: str
    task: str
    frames: int
    fps: int
    created: str = Field(description="ISO 8601, UTC")
    verdict: Verdict = "unjudged"
    reasons: list[Reason] = []
    notes: list[Reason] = []
    split: Split | None = None
    """Set when admitted, once and for all: later episodes never change it."""
    digest: str = ""
    """Content digest; see `agent.episodes.split.content_digest`."""
    calibration_digest: str = ""
    label: Label | None = None
    """What the operator says of the attempt: no check can tell a failed one that moves normally."""
    decision: Decision | None = None
    origin: Origin | None = None
    """None for what was recorded here."""
    intervention: Intervention | None = None
    """None for a whole demonstration."""
    trace: str = ""
    """Coarse path of state and action that near-duplicates are told by; see `agent.episodes.leaks`."""

    @property
    def usable(self) -> bool:
        """Whether training and export may take it: admitted, and not labelled a failure."""
        return self.verdict == "admitted" and self.label != "failure"

    @property
    def kind(self) -> Kind:
        """How it came to be; an imported intervention is one."""
        if self.intervention is not None:
            return "intervention"
        return "recorded" if self.origin is None else "imported"


def now() -> str:
    """The present time as it is written in records."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def read_record(folder: Path) -> EpisodeRecord:
    """Read an episode's own file.

    Raises:
        ArmfleetError: EPISODE_DAMAGED.
    """
    try:
        return EpisodeRecord.model_validate_json((folder / FILE).read_bytes())
    except (OSError, ValidationError) as error:
        raise ArmfleetError(
            f"the episode {folder.name} can't be read: {error}",
            kept="all other episodes",
            do=f"look into {folder}; remove the folder if it is of no use",
            code=ExitCode.EPISODE_DAMAGED,
        ) from error


def write_record(folder: Path, record: EpisodeRecord) -> None:
    """Replace an episode's own file, durably."""
    write_atomic(folder / FILE, record.model_dump_json(indent=1) + "\n")


def findings_of(record: EpisodeRecord) -> list[tuple[str, list[Reason]]]:
    """Reasons and notes under their titles; what is empty is left out."""
    return [
        (title, found) for title, found in (("Reasons", record.reasons), ("Notes", record.notes)) if found
    ]


def facts(record: EpisodeRecord) -> list[tuple[str, str]]:
    """What is known of an episode, for people: (name, value)."""
    decided = record.decision
    return [
        ("recorded" if record.origin is None else "imported", record.created),
        ("length", f"{record.frames} frames at {record.fps} fps, {record.frames / record.fps:.1f} s"),
        ("label", record.label or "none"),
        ("split", record.split or "none"),
        ("decided by hand", f"{decided.verdict} {decided.at[:19]}: {decided.reason}" if decided else "no"),
        ("origin", _origin(record)),
        ("content digest", record.digest or "not known yet"),
        ("calibration", record.calibration_digest or "not known"),
    ]


def _origin(record: EpisodeRecord) -> str:
    """Where an episode comes from, in words."""
    origin, taken = record.origin, record.intervention
    here = "recorded here"
    if taken is not None:
        version = "the base alone" if taken.version is None else f"version {taken.version}"
        here = f"intervention: a person took over from {version} in rollout {taken.rollout}"
    if origin is None:
        return here
    again = f"; encoded again: {', '.join(origin.reencoded)}" if origin.reencoded else ""
    kind = f"{origin.format}, {origin.robot_type or 'robot unknown'}, {origin.fps:g} fps"
    text = f"episode {origin.episode} of {origin.source} ({kind}), imported {origin.imported[:19]}{again}"
    return f"{text}; {here}" if taken is not None else text
