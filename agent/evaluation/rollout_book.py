"""The rollouts of a workstation as its agent knows them: the one that runs, what became of the others."""

import uuid
from datetime import datetime
from typing import Any

from loguru import logger

from agent.episodes.record import now
from agent.evaluation.rollouts import RolloutRecord, RolloutWanted, SeriesPlace
from agent.state import Index
from shared.errors import ArmfleetError


class RolloutBook:
    """Keeps what the arm worker reports, and the labels.

    Attributes:
        running: The rollout that runs; None if none does.
        interventions: How often a person took over in it.

    Args:
        index: Of the rollouts' folders.
    """

    def __init__(self, index: Index) -> None:
        self._index = index
        self.running: RolloutWanted | None = None
        self.interventions = 0

    def begin(
        self,
        task: str,
        start_pose: list[float] | None,
        max_s: float,
        version: int | None,
        place: SeriesPlace | None,
    ) -> RolloutWanted:
        """The next rollout, under an id of its own; it counts as running from now on."""
        self.interventions = 0
        self.running = RolloutWanted(
            rollout_id=f"{datetime.now():%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}",
            task=task,
            start_pose=start_pose,
            max_s=max_s,
            version=version,
            place=place,
        )
        return self.running

    def record(self, rollout_id: str) -> RolloutRecord | None:
        """A finished rollout, with all that is known of it; None if there is none of that id."""
        found = self._index.rollout(rollout_id)
        return RolloutRecord.model_validate(found) if found else None

    def result(self, rollout_id: str) -> dict[str, Any]:
        """One rollout, as it may be shown; `state` is running or done.

        Raises:
            ArmfleetError: there is none of this id.
        """
        running = self.running
        if running is not None and rollout_id == running.rollout_id:
            version = None if running.blinded else running.version
            state = {"id": rollout_id, "state": "running", "task": running.task}
            return {**state, "version": version, "success": None}
        record = self.record(rollout_id)
        if record is None:
            raise ArmfleetError(f"there is no rollout {rollout_id}")
        return {**record.shown.model_dump(mode="json"), "state": "done"}

    def label(self, rollout_id: str, success: bool) -> dict[str, Any]:
        """Keep the operator's verdict on a finished rollout. Raises as `result`, and while it runs."""
        if self.running is not None and rollout_id == self.running.rollout_id:
            raise ArmfleetError("the rollout is still running", do="label it when it is done")
        self.result(rollout_id)
        self._index.label_rollout(rollout_id, success)
        return self.result(rollout_id)

    def discard(self, rollout_id: str) -> None:
        """Take a finished rollout out of the count. Raises as `result`."""
        self.result(rollout_id)
        self._index.discard_rollout(rollout_id)

    def over(self, rollout_id: str, reason: str) -> bool:
        """The arm worker reports the end of a rollout; False if it is not the one that ran."""
        if self.running is None or rollout_id != self.running.rollout_id:
            logger.warning("the end of a rollout that is not running was reported: {}", rollout_id)
            return False
        self.running = None
        logger.bind(rollout=rollout_id).info("the rollout is over: {}", reason)
        try:
            self._index.refresh_rollout(rollout_id)
        except ArmfleetError as error:
            logger.bind(rollout=rollout_id).error("{}", error)
        return True

    def lost(self, why: str) -> None:
        """The arm worker died: write what is known of the rollout that ran, if one did."""
        running, self.running = self.running, None
        if running is None:
            return
        record = RolloutRecord(
            id=running.rollout_id,
            task=running.task,
            version=running.version,
            digest=None,
            created=now(),
            reason=f"the arm worker {why}",
            interventions=self.interventions if running.place else None,
            place=running.place,
            blinded=running.blinded,
        )
        self._index.note_lost_rollout(record)

    def unblind(self) -> None:
        """No comparison goes on: versions may be shown again."""
        self._index.unblind_rollouts()
