"""Keeps one Flower run going: submits it, looks after it, and submits a new one when it has ended.

The run's id is kept in run.json, so that a restarted daemon goes on with the run it finds. Flower never
restarts a run by itself: one whose ServerApp was killed turns `finished: failed` within a minute.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

from loguru import logger

from coordinator.exchange.superlink import FINISHED, SuperLink
from shared.errors import ArmfleetError
from shared.files import write_atomic

RETRY_S = (2.0, 5.0, 15.0, 60.0)
"""Pauses after runs that ended soon, one after another; the last one repeats."""
SETTLED_S = 120.0
"""A run that lived this long counts as good: the pauses begin anew."""


class RunKeeper:
    """`check()` is called every few seconds; it blocks for some milliseconds."""

    def __init__(
        self,
        superlink: SuperLink,
        build_app: Callable[[], bytes],
        file: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._superlink, self._build_app, self._file, self._clock = superlink, build_app, file, clock
        self.run_id: int | None = self._load()
        self.stopped = False
        """The operator ended the exchange: no new run until the daemon is restarted."""
        self.sentence = "not looked at yet"
        """State of the run for people."""
        self._started = clock()
        self._failures = 0
        self._not_before = clock()

    def check(self) -> None:
        """Look at the run and submit a new one if it has ended. Trouble becomes `sentence`, logged once."""
        try:
            self._check()
        except ArmfleetError as error:
            self._say(error.what, warn=True)

    def _check(self) -> None:
        status = self._superlink.run_status(self.run_id) if self.run_id is not None else None
        if status is not None and status.status != FINISHED:
            self._say(f"run {self.run_id} is {status.status}")
            return
        if self.stopped:
            self._say("the exchange was ended by the operator")
            return
        if self.run_id is not None:
            self._ended(str(status) if status else "the SuperLink does not know it")
        if self._clock() < self._not_before:
            return
        self.run_id = self._superlink.start_run(self._build_app())
        self._started = self._clock()
        write_atomic(self._file, json.dumps({"run_id": self.run_id}) + "\n")
        self._say(f"run {self.run_id} was submitted")

    def _ended(self, how: str) -> None:
        lived = self._clock() - self._started
        self._failures = 0 if lived > SETTLED_S else self._failures + 1
        pause = RETRY_S[min(self._failures, len(RETRY_S)) - 1] if self._failures else 0.0
        self._not_before = self._clock() + pause
        self._say(f"run {self.run_id} has ended ({how}); a new one is submitted in {pause:g} s", warn=True)
        self.run_id = None

    def _say(self, sentence: str, warn: bool = False) -> None:
        if sentence != self.sentence:
            logger.log("WARNING" if warn else "INFO", "{}", sentence)
        self.sentence = sentence

    def _load(self) -> int | None:
        if not self._file.exists():
            return None
        try:
            return int(json.loads(self._file.read_text())["run_id"])
        except (ValueError, KeyError, TypeError, OSError) as error:
            logger.error("{} can't be read, a new run is submitted ({})", self._file, error)
            return None
