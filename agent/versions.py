"""Which version the resident policy executes: the promoted one, or what a series of rollouts asks for.

The policy worker loads the base by itself; the agent tells it which adapter to put over it. After a swap
the digest of the live tensors, which the worker computes anew, must be the one that TUF vouched for, and
the actions on a fixed probe must have changed: only then is the version called running. A swap never
happens during a rollout; in a series, whose claim makes the policy busy, between two.
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from loguru import logger

from agent.exchange.inbox import Accepted, Inbox
from agent.supervision import Worker
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode

Slot = Literal["promoted", "candidate", "previous"]
"""How an operator names a version: by what it is here, not by its number."""

RETRY_S = 15.0
"""Pause after a refused swap: the policy can't be used while it is being changed."""
SWAP_S = 60.0
"""Longest time for a swap; a full-size adapter is 14 MB, but the policy may be busy with a chunk on a CPU."""


class Versions:
    """Keeps the policy worker on the promoted version.

    Args:
        policy: The policy worker.
        inbox: Accepted versions.
        busy: Whether the policy must not change now (a rollout).
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        policy: Worker,
        inbox: Inbox,
        busy: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy, self._inbox, self._busy, self._clock = policy, inbox, busy, clock
        self._lock = asyncio.Lock()
        self.running: Accepted | None = None
        """What the policy executes, proven by digest; None: the base alone."""
        self._refused, self._retry_at = "", 0.0  # digest of the version, and when it may be tried again
        self.fault = ""
        """Why the promoted version is not running; empty if it is, or if there is none."""
        self.blinded = False
        """Two versions are being compared: which one runs is for nobody's eyes."""
        self.needed: tuple[Accepted | None, ...] = ()
        """What the series that runs executes in turns."""

    def policy_restarted(self) -> None:
        """The policy worker holds the base alone again."""
        self.running, self._retry_at = None, 0.0

    @property
    def behind(self) -> bool:
        """`follow` has something to do, and can do it now."""
        wanted = self._inbox.slots.get("promoted")
        return (
            wanted is not None
            and self._policy.state == "ready"
            and not self._lock.locked()
            and not self._busy()
            and (wanted.tensors_digest != self._refused or self._clock() >= self._retry_at)
            and not self._runs(wanted)
        )

    def _runs(self, wanted: Accepted) -> bool:
        return self.running is not None and self.running.tensors_digest == wanted.tensors_digest

    @property
    def in_use(self) -> list[str]:
        """Digests of what stays on the disk however many versions come: what runs, what a series needs."""
        return [version.tensors_digest for version in (self.running, *self.needed) if version is not None]

    def check_usable(self) -> None:
        """Raise ArmfleetError if no rollout may start: the policy isn't ready or is being changed."""
        if self._policy.state != "ready":
            raise ArmfleetError(
                f"the policy worker is {self._policy.state}: {self._policy.reason}", do="try again shortly"
            )
        if self._lock.locked():
            raise ArmfleetError("the policy is being changed to another version", do="try again shortly")

    @property
    def promoted(self) -> Accepted | None:
        """What the policy should execute; None: the base alone."""
        return self._inbox.slots.get("promoted")

    def named(self, slot: Slot) -> Accepted:
        """The version that an operator means.

        Raises:
            ArmfleetError: VERSION_REFUSED: there is none.
        """
        found = self._inbox.previous if slot == "previous" else self._inbox.slots.get(slot)
        if found is None:
            raise ArmfleetError(
                f"there is no {slot} version on this workstation",
                do="see `armfleet status`: versions come with the check-ins",
                code=ExitCode.VERSION_REFUSED,
            )
        return found

    def folder(self, accepted: Accepted) -> Path:
        """Where its adapter lies."""
        return self._inbox.folder(accepted)

    async def use(self, wanted: Accepted, anew: bool = False) -> None:
        """Bring the policy to `wanted`, for whoever keeps it busy; nothing to do if it executes it already,
        unless `anew`: how long a blinded series waits must not tell whether the version changed.

        Raises:
            ArmfleetError: the policy isn't ready, or refuses it.
        """
        self.check_usable()
        async with self._lock:
            if anew or not self._runs(wanted):
                await self._swap(wanted)

    async def follow(self) -> None:
        """Bring the policy to the promoted version, if it may change now; failures are kept in `fault`."""
        async with self._lock:
            wanted = self._inbox.slots.get("promoted")
            if wanted is None or self._policy.state != "ready":
                return
            if self._runs(wanted):
                self.running, self.fault = wanted, ""
                return
            if self._busy():
                self.fault = f"version {wanted.version} waits for the end of the rollout"
                return
            try:
                await self._swap(wanted)
            except ArmfleetError as error:
                if self.fault != error.what:
                    logger.bind(version=wanted.version).error("{}", error)
                self.fault = error.what
                self._refused, self._retry_at = wanted.tensors_digest, self._clock() + RETRY_S

    async def _swap(self, wanted: Accepted) -> None:
        same, self.running = self._runs(wanted), None  # unknown until the answer is there
        answer = await self._policy.request(
            "swap",
            SWAP_S,
            version=wanted.version,
            folder=str(self._inbox.folder(wanted)),
            digest=wanted.tensors_digest,
        )
        if answer.get("digest") != wanted.tensors_digest:
            await self._policy.kill("it executed other tensors than it was told to")
            self._policy.start("after a failed swap")
            raise ArmfleetError(
                f"after the swap to version {wanted.version} the policy executed other tensors",
                kept="no rollout ran with them; the policy worker was restarted",
                do="if it happens again, report it with the journal",
                code=ExitCode.VERSION_REFUSED,
            )
        change = float(answer.get("probe_change", 0.0))
        same |= wanted.version == 0  # the identity: it changes nothing
        if change == 0.0 and not same:
            logger.bind(version=wanted.version).warning("the swap did not change the actions on the probe")
        self.running, self.fault = wanted, ""
        logger.bind(version=wanted.version).info(
            "the policy executes version {} (digest proven, probe changed by {:.4f})", wanted.version, change
        )

    def status(self) -> dict[str, Any]:
        """For `/status` and `/versions`."""
        slots = self._inbox.slots
        return {
            "promoted": _show(slots.get("promoted")),
            "candidate": _show(slots.get("candidate")),
            "running": None if self.blinded else _show(self.running),
            "blinded": self.blinded,
            "fault": self.fault,
        }


def _show(accepted: Accepted | None) -> dict[str, Any] | None:
    if accepted is None:
        return None
    return {
        "version": accepted.version,
        "digest": accepted.tensors_digest,
        "accepted_at": accepted.accepted_at.isoformat(timespec="seconds"),
    }
