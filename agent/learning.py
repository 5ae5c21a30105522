"""When the trainer runs, and on what: opens and closes with the window, gives way to the operator at once.

The trainer is a worker like any other, but killable at any instant: it checkpoints, and resumes exactly
from there when it is started again. It trains one update from the newest version it has not trained on yet,
and none before a version contains the last one: a slow station that did not wait was seen to stay a version
behind (docs/decisions/0002). While it waits it stays loaded, since a cold start costs 15 s and a round may
take less.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loguru import logger

from agent.activity import Verdict
from agent.exchange.handler import Plan
from agent.exchange.inbox import Accepted, Inbox
from agent.exchange.outbox import Outbox
from agent.supervision import Worker
from shared.errors import ArmfleetError
from shared.files import write_atomic
from shared.normalisation import awaited

FILE = "learning.json"
KEEP_LOADED_S = 300.0
"""How long the trainer stays loaded without work before its memory is given back."""
NEVER = -1
ASK_AGAIN_S = 1.0
RETRY_S = 15.0
"""Pause after the trainer refused, so that a lasting cause does not fill the journal."""


class Learning:
    """Owns the trainer.

    Args:
        trainer: The trainer worker; its events go to `on_event`.
        inbox: Accepted versions.
        folder: Where learning.json is kept (what was trained on last).
        plan: What the coordinator last asked for.
        training_episodes: Number of admitted training episodes.
        outbox: Finished updates; their headers say what was trained on.
        enabled: `[training] enabled`.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        trainer: Worker,
        inbox: Inbox,
        folder: Path,
        plan: Callable[[], Plan],
        training_episodes: Callable[[], int],
        outbox: Outbox,
        enabled: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._trainer, self._inbox, self._path = trainer, inbox, folder / FILE
        self._plan, self._training_episodes, self._enabled = plan, training_episodes, enabled
        self._outbox, self._clock = outbox, clock
        self._trained_on = self._load()
        self._job: Accepted | None = None
        self._idle_since = clock()
        self._retry_at = 0.0
        self.progress: dict[str, Any] = {}
        self.fault = ""

    @property
    def busy(self) -> bool:
        """An update is being trained now."""
        return self._job is not None and self._trainer.state == "ready"

    def work(self) -> Verdict:
        """Whether there is something to train on, as a sentence."""
        if not self._enabled:
            return Verdict(False, "training is switched off in the configuration")
        if self._plan().recipe is None:
            missing = self._plan().stations_awaited
            return Verdict(False, awaited(missing) if missing else "the coordinator asks for no training")
        if not self._training_episodes():
            return Verdict(False, "there is no admitted training episode yet")
        newest = self.newest()
        if newest is None:
            return Verdict(False, "no version has arrived yet")
        if newest.version == self._trained_on:
            return Verdict(False, f"version {newest.version} was trained on, the next one is awaited")
        if self._job is None:
            waiting = self._outbox.pending()
            if waiting:
                return Verdict(False, f"update {waiting[0][:8]} waits to be acknowledged")
            if self._plan().buffered:
                return Verdict(False, "the last update is at the coordinator, its round is awaited")
        return Verdict(True, f"version {newest.version} is new")

    def newest(self) -> Accepted | None:
        """The version to train from: the newest of candidate and promoted."""
        held = [self._inbox.slots[slot] for slot in ("candidate", "promoted") if slot in self._inbox.slots]
        return max(held, key=lambda accepted: accepted.version, default=None)

    async def allow(self) -> None:
        """The activity is `train`: see that the trainer runs and has its order. Called every tick."""
        self._idle_since = self._clock()
        if self._trainer.state == "stopped":
            self._trainer.start("the window is open")
        if self._trainer.state != "ready" or self._job is not None or self._clock() < self._retry_at:
            return
        newest, plan = self.newest(), self._plan()
        if newest is None or plan.recipe is None:
            return
        try:
            answer = await self._trainer.request(
                "train",
                timeout_s=10.0,
                version=newest.version,
                folder=str(self._inbox.folder(newest)),
                recipe=plan.recipe.model_dump(mode="json"),
                learning_rate=plan.learning_rate,
            )
        except ArmfleetError as error:
            self.fault, self._retry_at = error.what, self._clock() + RETRY_S
            logger.bind(version=newest.version).warning("the trainer did not start: {}", error)
            return
        self.fault = ""
        if not answer["started"]:  # an update of an earlier version is being finished first
            self._retry_at = self._clock() + ASK_AGAIN_S
            return
        self._job = newest
        logger.bind(version=newest.version).info("training from version {}", newest.version)

    async def rest(self) -> None:
        """The activity is `idle`: give the memory back after a while. Called every tick."""
        if self._trainer.state != "stopped" and self._clock() - self._idle_since > KEEP_LOADED_S:
            await self._trainer.stop("nothing to train")

    async def give_way(self, reason: str) -> None:
        """Stop training now: SIGKILL. What was computed since the last checkpoint is computed again later."""
        if self._trainer.state != "stopped":
            logger.info("the trainer gives way: {}", reason)
            await self._trainer.kill(reason)
        self._job = None

    def on_event(self, name: str, fields: dict[str, Any]) -> None:
        """Events of the trainer worker."""
        if name == "ready":
            self._job = None
        elif name in ("building", "progress"):
            self.progress = fields
        elif name == "update":
            self._finished(str(fields.get("id", "")))
        elif name == "failed":
            self.fault, self.progress = str(fields.get("what", "the trainer failed")), {}
            self._job, self._retry_at = None, self._clock() + RETRY_S
            logger.warning("training ended without an update: {}", self.fault)

    def status(self) -> dict[str, Any]:
        """For `/status`. Steps of an update that gave way stay done; nothing is built while no trainer
        runs."""
        current = "step" in self.progress or self._trainer.state == "ready"
        return {
            "version": self._job.version if self._job else None,
            "progress": self.progress if current else {},
            "fault": self.fault,
        }

    def _finished(self, update_id: str) -> None:
        try:
            version = self._outbox.load(update_id)[0].base_version
        except ArmfleetError as error:  # acknowledged already, or damaged: the order says what it was
            logger.info("the finished update is not in the outbox: {}", error)
            version = self._job.version if self._job else self._trained_on
        self._trained_on = version
        write_atomic(self._path, json.dumps({"trained_on": version}) + "\n")
        self._job, self.progress = None, {}
        logger.bind(update=update_id, version=version).info("update {} is in the outbox", update_id[:8])

    def _load(self) -> int:
        """The version trained on last, also when the agent died between the update and its note."""
        noted = NEVER
        if self._path.exists():
            try:
                noted = int(json.loads(self._path.read_bytes())["trained_on"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                logger.error("{} can't be read ({})", self._path, error)
        waiting = self._outbox.first()
        return max(noted, waiting[0].base_version) if waiting else noted
