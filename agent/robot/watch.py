"""Keeps an eye on the follower's health: samples in the pauses of the control loop, stops what is unsafe.

The rules are `agent.robot.safety`; this is where they meet the bus and the clock. One joint is sampled in
a pause, and only where the pause is long enough: the loop's period does not change for it.
"""

import time
from collections.abc import Callable
from typing import Any

from loguru import logger

from agent.robot.driver import Arm
from agent.robot.health import Health
from agent.robot.joints import JOINTS
from agent.robot.safety import Guard, Level

PAUSE_S = 0.010
"""Shortest pause in which a joint is asked: a third of the loop's period at 30 Hz."""
ANSWER_S = 0.005
"""Longest wait for the answer; a USB adapter takes 1 to 2 ms."""
IDLE_ANSWER_S = 0.05


class HealthWatch:
    """Health of one arm.

    Args:
        arm: Connected when it is sampled.
        tell: Called with all warnings (sentences) whenever they change.
        clock: Monotonic, seconds.
    """

    def __init__(
        self, arm: Arm, tell: Callable[[list[str]], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._arm, self._tell, self._clock = arm, tell, clock
        self._guard = Guard(arm.supply_v)
        self._next = 0
        self._warnings: list[str] = []
        self._warned: set[tuple[int, str]] = set()
        self.latest: dict[str, Health] = {}
        self.missed = 0
        """Samples that did not come in time."""

    def sample(self, pause_s: float) -> tuple[str, Health] | None:
        """Ask the next joint if the pause is long enough; which one, and what it said.

        Raises:
            ArmfleetError: BUS_LOST.
        """
        if pause_s < PAUSE_S:
            return None
        joint, self._next = self._next, (self._next + 1) % len(JOINTS)
        return self._ask(joint, min(ANSWER_S, pause_s / 2))

    def sample_all(self) -> None:
        """Ask all joints, for idle times; raises as `sample`."""
        for joint in range(len(JOINTS)):
            self._ask(joint, IDLE_ANSWER_S)

    def check(self) -> None:
        """Judge the error bits that came with the last position, and all samples so far.

        Raises:
            UnsafeArm: the arm must stop.
        """
        self._guard.see_errors(self._arm.errors, self._clock())
        self._note_warnings()
        if finding := self._guard.stop:
            raise finding.error(self._arm.role)

    def status(self) -> dict[str, Any]:
        """For `status` of the arm process; JSON-ready."""
        return {
            "joints": {joint: health.to_dict() for joint, health in list(self.latest.items())},
            "warnings": list(self._warnings),
            "missed": self.missed,
        }

    def _ask(self, joint: int, limit_s: float) -> tuple[str, Health] | None:
        health = self._arm.probe(joint, limit_s)
        if health is None:
            self.missed += 1
            return None
        self.latest[JOINTS[joint]] = health
        self._guard.see(joint, health, self._clock())
        return JOINTS[joint], health

    def _note_warnings(self) -> None:
        """By joint and cause, not by text: that carries a figure which differs each time."""
        found = self._guard.findings(Level.WARN)
        if not found and not self._warned:
            return
        keys = {(finding.joint, finding.cause.value) for finding in found}
        self._warnings = [str(finding.error(self._arm.role)) for finding in found]
        if keys == self._warned:
            return
        for finding in found:
            if (finding.joint, finding.cause.value) not in self._warned:
                logger.warning("{}", finding.error(self._arm.role))
        self._warned = keys
        self._tell(self._warnings)
