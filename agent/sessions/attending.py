"""What a session of recording and a series of rollouts have in common: terminals look at the same arm, and a
step that fails becomes a sentence."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

from loguru import logger

from agent.arm import ArmDesk
from agent.sessions.session_messages import ArmTold, arm_told
from agent.supervision import Worker
from shared.errors import ArmfleetError

ASK_S = 0.1
"""Answers of the arm worker are shared by all terminals for so long."""
ACCOUNT_S = 0.5
"""Longest wait for the arm worker's account; its last one is shown otherwise."""


class ArmAccount:
    """What the arm worker says of itself.

    Args:
        arm: For the agent's own sentences.
        worker: The arm worker.
        clock: Monotonic, seconds.
    """

    def __init__(self, arm: ArmDesk, worker: Worker, clock: Callable[[], float] = time.monotonic) -> None:
        self._arm, self._worker, self._clock = arm, worker, clock
        self._asked_at = float("-inf")
        self.latest: dict[str, Any] = {}
        """See `agent.robot.station.Station.status`."""

    async def ask(self) -> ArmTold:
        """The newest account, as a terminal draws it."""
        if self._clock() - self._asked_at >= ASK_S:
            self._asked_at = self._clock()
            try:
                self.latest = await self._worker.request("status", ACCOUNT_S)
            except ArmfleetError:  # busy, or not there; the heartbeat looks after one that hangs
                self.latest = self._arm.status()["hardware"]
        status = self._arm.status()
        troubles = [text for text in (status["fault"], status["torque_fault"]) if text]
        return arm_told((self._worker.state, self._worker.reason), self.latest, troubles)


async def sentence(work: Awaitable[Any]) -> str:
    """Do it; why it failed, empty if it did not. Never raises: a session must not be stuck half-way."""
    try:
        await work
    except ArmfleetError as error:
        return str(error)
    except Exception as error:
        logger.exception("a step failed")
        return f"{type(error).__name__}: {error}"
    return ""
