"""Teleoperation: the follower goes to the leader slowly, then mirrors it; recording rides along."""

import threading
import time
from enum import Enum
from typing import Protocol

import numpy as np

from agent.robot.joints import label
from agent.robot.loop import Activity, ControlLoop, Observation
from shared.errors import ArmfleetError

REFUSE_UNITS = 90.0
"""Difference of one joint (degrees) above which the arms are too far apart to be brought together unseen: one
of them lies folded, or a calibration is wrong (LeRobot issue 3762: 17 degrees of drift went unnoticed)."""
ALIGN_SPEED = 45.0
"""Units per second while aligning; a person's own motion reaches 190."""
ALIGN_LIMIT_S = REFUSE_UNITS / ALIGN_SPEED + 2.0
POLL_S = 0.02
ALIGNED_UNITS = 3.0
"""Largest difference between goal and leader at which mirroring begins."""


class Sink(Protocol):
    """Where recorded frames go; see `agent.episodes.recorder.Recorder`."""

    def add(self, seen: Observation, action: np.ndarray) -> None:
        """One row: what was seen, and the goal that was commanded, (6,) units."""


def check_agreement(follower: np.ndarray, leader: np.ndarray) -> float:
    """Largest difference of a joint, units.

    Raises:
        ArmfleetError: it is above REFUSE_UNITS, naming each joint.
    """
    difference = np.abs(follower - leader)
    far = [f"{label(i)} by {difference[i]:.0f}" for i in np.flatnonzero(difference > REFUSE_UNITS)]
    if far:
        raise ArmfleetError(
            f"leader and follower differ too much to start: {', '.join(far)} (limit {REFUSE_UNITS:.0f})",
            kept="the arm was not moved",
            do="bring the leader near the follower's pose; if they look alike, calibrate both again",
        )
    return float(difference.max())


class Phase(Enum):
    """Where teleoperation stands."""

    ALIGNING = "aligning"
    MIRRORING = "mirroring"


class Teleoperation(Activity):
    """Follows the leader until it is stopped.

    Args:
        fps: Ticks per second of the loop that runs it.
    """

    name = "teleoperation"
    needs_leader = True
    limited = False

    def __init__(self, fps: int) -> None:
        self.phase: Phase = Phase.ALIGNING
        self.aligned = threading.Event()
        self._step = ALIGN_SPEED / fps
        self._goal: np.ndarray = np.zeros(6, np.float32)
        self._sink: Sink | None = None
        self._lock = threading.Lock()

    def attach(self, sink: Sink) -> None:
        """Record from the next tick on."""
        with self._lock:
            self._sink = sink

    def detach(self) -> None:
        """Stop recording; no row is added once this has returned."""
        with self._lock:
            self._sink = None

    def begin(self, position: np.ndarray) -> None:
        self._goal = position

    def step(self, seen: Observation) -> np.ndarray:
        assert seen.leader is not None
        if self.phase is Phase.ALIGNING:
            check_agreement(self._goal, seen.leader)
            self._goal = self._goal + np.clip(seen.leader - self._goal, -self._step, self._step)
            if np.abs(seen.leader - self._goal).max() <= ALIGNED_UNITS:
                self.phase = Phase.MIRRORING
                self.aligned.set()
        else:
            self._goal = seen.leader
        return self._goal

    def sent(self, seen: Observation, goal: np.ndarray) -> None:
        with self._lock:
            if self._sink is not None and self.phase is Phase.MIRRORING:
                self._sink.add(seen, goal)

    @property
    def done(self) -> None:
        return None


def await_alignment(teleop: Teleoperation, loop: ControlLoop) -> bool:
    """Return when the follower follows; False: `loop` ended before.

    Raises:
        ArmfleetError: it took longer than ALIGN_LIMIT_S, and was ended.
    """
    started = time.monotonic()
    while not teleop.aligned.wait(POLL_S):
        if not loop.running:
            return False
        if time.monotonic() - started > ALIGN_LIMIT_S:
            loop.stop("not_aligned")
            raise ArmfleetError(
                f"the arms were not aligned within {ALIGN_LIMIT_S:.0f} s",
                kept="the arm holds where it is",
                do="keep the leader still while the follower comes",
            )
    return True
