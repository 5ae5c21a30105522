"""What crosses the wire between agent and coordinator, and nothing else.

These models are the allow-list: unknown fields are refused on both sides, every string has a pattern and
every list and map is bounded. What leaves a workstation has room for a sentence in two places only, and
neither takes a slash or an @: a task's (120 characters: `UpdateHeader.losses`, `FieldResult.task`; of an
instruction with other characters its words: `shared.tasks.told_task`), and `CheckInReply.refused` (300
characters: why a node did not accept what it was sent). A frame, a state or an action has no field to travel
in; mean and spread of all of a station's states and actions do, once, where the coordinator pools them
(`shared.normalisation`). Of rollouts only task, labels and two counts leave.
"""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.normalisation import Statistics
from shared.recipe import Recipe
from shared.tasks import TaskText, ToldTask

PROTOCOL = 1

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Id = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Metric = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,40}$")]
CodecName = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,20}$")]
RecipeDigest = Annotated[str, Field(pattern=r"^([0-9a-f]{16})?$")]
"""`shared.recipe.Recipe.digest`; empty: not told."""
OptionalDigest = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Later = Field(default=None, exclude_if=lambda given: given is None)
"""A field that came after the first release: it is written only when it says something, so that the other
side may be of that release."""


MAX_LABELS = 200
"""Labels of a version's first rollouts, per task, that a station reports. The first ones and not the newest:
which rollouts make a pair (`coordinator.field`) must not change when another is labelled."""
MAX_RESULTS = 64
"""Field results in one answer, of all versions and tasks together."""
MAX_WHY = 1000
MAX_COUNT = 10**9
"""Of whatever a station counts, and of a version's number: no honest one comes near (frames of a year of
recording at 30 Hz), and larger ones don't fit where they are counted, weighed or stored."""

Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Why = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f-\x9f]*$", max_length=MAX_WHY)]
"""A reason for people: one line that does nothing to their terminal."""


class Message(BaseModel):
    """Base of everything on the wire."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class JudgedVersion(Message):
    """A version whose rollouts on the arms the coordinator compares, or shows."""

    version: int = Field(ge=0)
    tensors_digest: Digest
    """A workstation that was in another fleet before has rollouts of other versions with the same numbers."""


class FieldResult(Message):
    """What became of a version's rollouts in one task on one arm, up to now: labels and counts."""

    version: Count
    task: ToldTask
    labels: str = Field(default="", pattern=r"^[01]*$", max_length=MAX_LABELS)
    """Of the first rollouts that a person labelled, in the order in which they ran: 1 success, 0 failure."""
    interventions: Count | None = None
    """How often the operator took over, in all rollouts; None: nobody counted."""
    unsafe: Count = 0
    """Rollouts, labelled or not, that ended because the arm was no longer safe to use."""


class StatisticsWanted(Message):
    """The coordinator asks for normalisation statistics."""

    stations: int = Field(ge=1)
    """How many more have to report before training begins."""
    never_train: tuple[TaskText, ...] = Field(default=(), max_length=64)
    """Tasks that the recipe keeps unseen: they don't count."""


class CheckIn(Message):
    """Coordinator to agent. Its envelope's blobs are the TUF metadata and targets that the node lacks."""

    protocol: Literal[1] = 1
    id: Id
    fleet: Name
    sent_at: datetime
    acknowledged: list[Id] = Field(default=[], max_length=1000)
    """Updates of this node that are durable at the coordinator."""
    buffered: bool = False
    """An update of this node is in no version yet: another one now would start without it."""
    recipe: Recipe | None = None
    """None: no training is wanted."""
    learning_rate: Finite = Field(default=0.0, ge=0)
    """The recipe's learning rate at the current round of its schedule."""
    base_digest: Digest
    promoted: int | None = None
    candidate: int | None = None
    statistics: StatisticsWanted | None = Later
    judged: Annotated[list[JudgedVersion], Field(max_length=3)] | None = Later
    """Report the rollouts of these. Like `why` only for a node whose last answer had `field`: one of an
    earlier release would refuse the whole check-in."""
    why: Why | None = Later
    """Why the promoted version is the promoted one."""


class Held(Message):
    """Which versions a node holds and runs: a hint for the coordinator, not a proof."""

    promoted: int | None = None
    candidate: int | None = None
    running: int | None = None
    """Version whose tensors the resident policy executes, by digest."""
    adapters: list[Digest] = Field(default=[], max_length=64)
    """SHA-256 of the packed adapters on disk."""
    tuf: dict[Literal["root", "timestamp", "snapshot", "targets", "candidate"], int] = {}


class Health(Message):
    """How a node is doing; counts and states only."""

    workers: dict[Name, Literal["ready", "starting", "failed", "stopped"]] = Field(default={}, max_length=16)
    episodes_admitted: int = Field(default=0, ge=0)
    episodes_quarantined: int = Field(default=0, ge=0)
    disk_free_mb: int = Field(default=0, ge=0)


class UpdateHeader(Message):
    """What an update is; its delta travels beside it in the blob `delta`."""

    protocol: Literal[1] = 1
    id: Id
    node: Name
    base_version: Count
    base_digest: Digest
    sha256: Digest
    """Of the encoded delta."""
    codec: CodecName = "fp16-zstd"
    """Of the delta. One that the coordinator does not know costs its sender this update, not every reply."""
    examples: int = Field(ge=1, le=MAX_COUNT)
    """Frames of admitted training episodes that the update could draw from."""
    steps: int = Field(ge=1, le=MAX_COUNT)
    losses: dict[ToldTask, Finite] = Field(default={}, max_length=64)
    """Mean training loss per task."""
    metrics: dict[Metric, Finite] = Field(default={}, max_length=64)
    calibrations: list[Digest] = Field(default=[], max_length=64)
    """Of the arms, when the training episodes were recorded."""
    seconds: Finite = Field(default=0.0, ge=0)
    recipe: RecipeDigest = Field(default="", exclude_if=lambda given: not given)
    """That it was trained with; nothing is decided by it. An earlier release does not tell."""
    base_tensors_digest: OptionalDigest = Field(default="", exclude_if=lambda given: not given)
    """Of the version that it began from (`shared.adapters.digest`): a number alone names another version in
    another fleet, or in a registry that was restored from a backup. An earlier release does not tell."""


class CheckInReply(Message):
    """Agent to coordinator, at once and from its own state; "nothing yet" is a normal answer."""

    protocol: Literal[1] = 1
    check_in: Id
    node: Name
    activity: Literal["record", "rollout", "evaluate", "train", "idle"]
    held: Held
    health: Health = Health()
    update: UpdateHeader | None = None
    refused: str | None = Field(default=None, pattern=r"^[\w ,.:;'()-]+$", max_length=300)
    """Why the node did not accept what the check-in carried."""
    statistics: Statistics | None = Later
    """Of its training episodes; only when the check-in asked for them."""
    field: Annotated[list[FieldResult], Field(max_length=MAX_RESULTS)] | None = Later
    """Of the versions that the check-in asked about; none, but there, where it asked about none."""
