"""Notices a worker that hangs, and keeps what it last said about itself.

A process that is stopped or stuck does not end, so nothing else would notice it: the servos of an arm
worker would hold their last goal for hours, a policy would be asked for nothing. Both answer `status` at
once whatever they do; one that is silent again and again is killed, and started again as after any death
(that of the arm worker makes the agent hold and release the arm).
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from loguru import logger

from agent.supervision import Worker
from shared.channel import ChannelClosed
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode

PERIOD_S = 1.0
ANSWER_S = 2.0
HANGS = 3
"""Answers missed in a row. A busy machine delays one by a few hundred milliseconds."""
LETS_GO = (ExitCode.OK, ExitCode.CAMERA_LOST, ExitCode.SERVO_SILENT)
"""Faults with which the follower can be let go; a silent servo keeps no other one stiff."""


def hangs(error: ArmfleetError) -> bool:
    """The worker did not answer (it may have been told, or not); a refusal is an answer."""
    return isinstance(error, ChannelClosed) or isinstance(error.__cause__, TimeoutError)


class Heartbeat:
    """Asks a worker how it is, once a second.

    Attributes:
        account: Its last answer to `status`; empty while it is not ready.
        warnings: Sentences about the follower's health, as it last told them.

    Args:
        worker: The arm worker or the policy worker.
        name: Of the worker, for the log.
        answer_s: Longest wait for an answer.
        clock: Monotonic, seconds.
    """

    def __init__(
        self,
        worker: Worker,
        name: str = "arm",
        answer_s: float = ANSWER_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._worker, self._name, self._answer_s, self._clock = worker, name, answer_s, clock
        self._task: asyncio.Task[None] | None = None
        self._next = 0.0
        self._missed = 0
        self.account: dict[str, Any] = {}
        self.warnings: list[str] = []

    def tick(self) -> None:
        """Ask if it is time to; returns at once. Called in the agent's loop."""
        if self._worker.state != "ready":
            self.account, self.warnings, self._missed = {}, [], 0
        elif self._clock() >= self._next and (self._task is None or self._task.done()):
            self._next = self._clock() + PERIOD_S
            self._task = asyncio.get_running_loop().create_task(self._ask(), name="heartbeat")

    async def _ask(self) -> None:
        try:
            self.account = await self._worker.request("status", self._answer_s)
            self._missed = 0
        except ArmfleetError as error:
            if not hangs(error):
                logger.warning("the {} worker gives no account of itself: {}", self._name, error)
                return
            self._missed += 1
            if self._missed >= HANGS and self._worker.pid is not None:
                logger.error("the {} worker hangs and is killed: {}", self._name, error)
                self._missed = 0
                os.kill(self._worker.pid, signal.SIGKILL)

    def reaches(self, fault: ExitCode) -> bool:
        """The follower can be let go although this fault stands: another arm may be what is lost."""
        return fault in LETS_GO or bool(self.account.get("follower", {}).get("connected"))

    def status(self) -> dict[str, Any]:
        """For `/status` of the agent."""
        return {"warnings": self.warnings, "hardware": self.account}
