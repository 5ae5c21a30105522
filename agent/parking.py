"""Lends the arm's serial ports to a terminal that calibrates: the arm worker ends, and starts again later.

A loan lives as long as its terminal says so every few seconds; when it falls silent, the worker comes back by
itself. The worker is ended rather than told to let go: its next life reads the new calibration, and a process
that is not there can't send a packet into somebody else's conversation.
"""

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from loguru import logger

from agent.robot.release import release
from agent.supervision import Worker
from shared.errors import ArmfleetError

LEASE_S = 20.0
"""A loan that nobody has renewed for this long is over; the terminal renews it four times as often."""
GRACE_S = 4.0
"""The arm worker holds, lets go and ends within two seconds."""
RELEASE_S = 2.5
"""Bound of agent.robot.release, which promises two seconds."""


@dataclass
class _Loan:
    lease: str
    why: str
    until: float


class Parking:
    """The loan of the ports.

    Args:
        worker: The arm worker.
        port: The follower's, which is let go before it is lent.
        in_use: What the arm is doing for an operator now; empty if nothing.
        clock: Monotonic seconds.
        let_go: Holds and releases the arm at a port.
    """

    def __init__(
        self,
        worker: Worker,
        port: str,
        in_use: Callable[[], str],
        clock: Callable[[], float] = time.monotonic,
        let_go: Callable[[str], None] = release,
    ) -> None:
        self._worker, self._port, self._in_use = worker, port, in_use
        self._clock, self._let_go = clock, let_go
        self._lock = asyncio.Lock()
        self._loan: _Loan | None = None

    async def park(self, why: str) -> dict[str, Any]:
        """End the arm worker and lend the ports; the answer's `lease` renews and ends the loan.

        Raises:
            ArmfleetError: the arm is in use, or lent already.
        """
        async with self._lock:
            if busy := self._in_use():
                raise ArmfleetError(f"the arm is in use: {busy}", do="end it first")
            if self._loan is not None:
                raise ArmfleetError(
                    f"the arm is lent already: {self._loan.why}",
                    do="end that first, or wait until it is over",
                )
            self._loan = loan = _Loan(
                secrets.token_hex(8), why, self._clock() + GRACE_S + RELEASE_S + LEASE_S
            )
            logger.info("the arm's ports are lent: {}", why)
            await self._worker.stop(f"its ports are lent: {why}", GRACE_S)
            torque = await self._limp()
            return {"lease": loan.lease, "seconds": LEASE_S, "torque": torque}

    async def renew(self, lease: str) -> dict[str, Any]:
        """The terminal is still there. Raises ArmfleetError if the loan is over."""
        self._of(lease).until = self._clock() + LEASE_S
        return {"seconds": LEASE_S}

    async def give_back(self, lease: str) -> dict[str, Any]:
        """End the loan; the worker starts. Raises as `renew`."""
        self._of(lease)
        self._end("the arm's ports were given back")
        return {}

    def tick(self) -> None:
        """End a loan whose terminal has fallen silent. Called at every tick of the agent."""
        if self._loan is not None and self._clock() > self._loan.until and not self._lock.locked():
            self._end(f"nobody renewed the loan of the arm's ports ({self._loan.why}): it is over")

    def _of(self, lease: str) -> _Loan:
        if self._loan is None or not secrets.compare_digest(self._loan.lease, lease):
            raise ArmfleetError(
                "this loan of the arm's ports is over", kept="what was written before", do="begin again"
            )
        return self._loan

    def _end(self, why: str) -> None:
        logger.info("{}", why)
        self._loan = None
        self._worker.start(why)

    async def _limp(self) -> str:
        """Make sure that the follower is limp, also when its worker had to be killed; returns what is so."""
        try:
            async with asyncio.timeout(RELEASE_S):
                await asyncio.to_thread(self._let_go, self._port)
        except ArmfleetError as error:
            logger.warning("{}", error)
            return str(error)
        except TimeoutError:
            return f"{self._port} did not answer within {RELEASE_S:g} s"
        return "off"
