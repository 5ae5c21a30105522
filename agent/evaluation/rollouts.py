"""Rollouts on the arm and what they are worth: `rollout.json` in each rollout's own folder. Torch-free.

What a person labels here is what a robot reports about a version (`agent.evaluation.field`); frames and
traces stay on the workstation.
"""

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

from loguru import logger
from pydantic import BaseModel, ConfigDict, ValidationError

from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.files import remove_in_progress, write_atomic

FILE, TRACE, VIDEO = "rollout.json", "trace.jsonl", "video.mp4"

LATENCY_EDGES_MS = (10, 20, 30, 40, 60, 80, 100, 150, 200, 300, 400, 600, 800, 1000)
"""Bins of a rollout's latencies end below these; the last one has no end. A chunk of 8 actions at 10 Hz lasts
800 ms, one of 50 five seconds."""


def latency_counts(latencies_ms: Sequence[float]) -> list[int]:
    """How many latencies fall into each bin: one more number than there are edges."""
    counts = [0] * (len(LATENCY_EDGES_MS) + 1)
    for latency in latencies_ms:
        counts[bisect_right(LATENCY_EDGES_MS, latency)] += 1
    return counts


class RolloutFigures(BaseModel):
    """What happened, in numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ticks: int = 0
    """Control ticks under the policy, 30 a second."""
    chunks: int = 0
    starved: int = 0
    """Ticks without an action; the arm held."""
    bounded: int = 0
    """Ticks of the first chunk in which the goal was cut to what the version was trained on."""
    latency_ms_mean: float = 0.0
    latency_ms_max: float = 0.0
    latency_counts: list[int] = []
    """By `LATENCY_EDGES_MS`; empty in records of earlier versions of armfleet."""
    period_ms_mean: float = 0.0
    period_ms_max: float = 0.0


class SeriesPlace(BaseModel):
    """Where a rollout belongs in a series (`agent.sessions.series`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    series: str
    place: int
    """In the order that was drawn, from 0; of a comparison, 2 n and 2 n + 1 are a pair."""
    seed: int | None
    """Of the lots that drew it; None where that would tell which version ran."""
    paired: bool


class RolloutWanted(BaseModel):
    """What the agent asks of the arm worker."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rollout_id: str
    task: str
    start_pose: list[float] | None = None
    """(6,) units, where the arm goes first; None: from where it is."""
    max_s: float
    version: int | None = None
    """What the policy should execute; its answers say what it does."""
    not_after: float | None = None
    """Monotonic seconds of this machine: whoever asked waits no longer, so a later start would be unseen."""
    place: SeriesPlace | None = None

    @property
    def blinded(self) -> bool:
        """What executes is for nobody's eyes: two versions are compared."""
        return self.place is not None and self.place.paired


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
    """Why it ended: time_up, the operator's word, an exit code's name, or what was wrong with the policy
    (`agent.inference.fault`)."""
    why: str = ""
    """The sentence that belongs to it; empty where nothing failed."""
    figures: RolloutFigures = RolloutFigures()
    success: bool | None = None
    """The label; None until someone gave it."""
    interventions: int | None = None
    """How often the operator took over; None: nobody counted, as the rollout was no part of a series."""
    place: SeriesPlace | None = None
    """None: no part of a series."""
    blinded: bool = False
    """Version and digest are for nobody's eyes now: the comparison is not over."""
    discarded: bool = False
    """Was done again at once: it counts for nothing, and has no label."""

    @property
    def shown(self) -> "RolloutRecord":
        """What may be shown: while it is blinded nothing that tells the version."""
        if not self.blinded:
            return self
        place = self.place and self.place.model_copy(update={"seed": None})
        return self.model_copy(update={"version": None, "digest": None, "why": "", "place": place})


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
        stays decided.

        Raises:
            ArmfleetError: it was discarded; or a person took over in it, and it can't be a success of the
                version; or as `read`.
        """
        before = self.read(rollout_id)
        if before.discarded:
            raise ArmfleetError(f"the rollout {rollout_id} was discarded and done again", kept="its files")
        if success and before.interventions:
            raise ArmfleetError(
                f"the rollout {rollout_id} is no success of the policy: a person took over in it",
                kept="what was recorded meanwhile",
                do="label it a failure, or do it again",
            )
        record = self._update(rollout_id, success=success)
        logger.bind(rollout=rollout_id, version=record.version).info(
            "rollout {} is labelled {}", rollout_id, "a success" if success else "a failure"
        )
        return record

    def discard(self, rollout_id: str) -> RolloutRecord:
        """Take an attempt, and its label, out of the count; its files stay. Raises as `read`."""
        logger.bind(rollout=rollout_id).info("rollout {} is discarded", rollout_id)
        return self._update(rollout_id, success=None, discarded=True)

    def unblind(self) -> list[str]:
        """No comparison goes on: which version ran may be shown; the ids of those of which it was hidden."""
        blinded = [record.id for record in self.records() if record.blinded]
        for rollout_id in blinded:
            self._update(rollout_id, blinded=False)
        return blinded

    def _update(self, rollout_id: str, **fields: object) -> RolloutRecord:
        record = self.read(rollout_id).model_copy(update=fields)
        write_atomic(self.folder(rollout_id) / FILE, record.model_dump_json(indent=1) + "\n")
        return record
