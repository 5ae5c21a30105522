"""The control loop: read, decide, command, at absolute deadlines.

What an activity does is an `Activity`; the loop owns time, the arm and the limits, and reports how it ended.
One loop thread at a time touches the arm. Stopping wins within one tick: once `request_stop` has returned, no
goal of the activity is sent any more, only the one that makes the arm hold.

An arm that becomes unsafe (`agent.robot.watch`) holds, is lowered and let go, whatever the activity wants.
"""

import math
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from loguru import logger

from agent.robot.cameras import Camera, Frame, frames_at
from agent.robot.counters import JointCounts, since
from agent.robot.driver import Arm
from agent.robot.health import Health
from agent.robot.limits import Limits
from agent.robot.phase import quietest
from agent.robot.safety import UnsafeArm
from agent.robot.watch import HealthWatch
from shared.errors import ArmfleetError

HOLD = "hold"
"""Reason of a stop after which the arm stays stiff, also one that was on its way down to be let go."""
SEND_S = 0.2
"""Longest wait for a goal that is being sent: its bytes go out within a millisecond, or the port hangs."""

SLEW_S = 0.0002
"""Largest change of one period, for the sake of the cameras (`agent.robot.phase`): 0.6 %, which follows one
that is off by as much."""
STEADY_S = 0.002
"""Distance from the best phase that is good enough."""


@dataclass(frozen=True)
class Observation:
    """What one tick knows.

    Attributes:
        tick: Number of the deadline this tick belongs to, from 0; gaps are ticks that were missed.
        wall: Seconds since the epoch when the state was read.
        period_s: Time since the previous tick began; nan in the first.
        late_s: How far after its deadline the tick began.
        state: (6,) float32, units: the follower.
        leader: (6,) float32, units, or None where the activity has no use for it.
        frames: Of each camera the frame that belongs to this tick.
        retries: Reads repeated in this tick.
        bus: What went wrong on the buses in this tick and was cured, by joint.
        health: The joint that was sampled in the pause before this tick, and what it said.
    """

    tick: int
    wall: float
    period_s: float
    late_s: float
    state: np.ndarray
    leader: np.ndarray | None
    frames: Mapping[str, Frame]
    retries: int
    bus: Mapping[str, JointCounts] = field(default_factory=dict)
    health: tuple[str, Health] | None = None


class Activity(ABC):
    """What the arm is used for. Called from the loop's thread only.

    Lifecycle: `begin` once with the position at which torque came on, `step` every tick, `end` once, whatever
    happened. `done` is asked after each step.
    """

    name: str
    phase: Enum
    """Where it stands; its value is for people."""
    needs_leader = False
    limited = True
    """Goals are clamped to the joint limits, the step and the speed limit. A person's own goals are not."""
    engages = True
    """Torque is switched on first; False: it is on already."""
    guarded = True
    """An unsafe arm ends it; False for what brings such an arm down."""
    needs_frames = True
    releases = False
    """The arm is let go at the end, unless that is HOLD."""

    @abstractmethod
    def begin(self, position: np.ndarray) -> None:
        """The arm holds `position`, (6,) units."""

    @abstractmethod
    def step(self, seen: Observation) -> np.ndarray | None:
        """The goal for this tick, (6,) units; None leaves the last one standing."""

    def sent(self, seen: Observation, goal: np.ndarray) -> None:  # noqa: B027
        """`goal` was commanded in answer to `seen`: the hook for recording."""

    @property
    @abstractmethod
    def done(self) -> str | None:
        """The reason to end, or None to go on."""

    def end(self, reason: str, error: ArmfleetError | None) -> None:  # noqa: B027
        """The loop is over; `error` says why if it failed."""


class Ticker:
    """Absolute deadlines: a late tick does not move the ones after it, so the rate does not drift, except as
    the cameras' does (`follow`).

    A tick that overruns by more than a period costs the deadlines it slept through; `tick` then jumps.

    Args:
        fps: Ticks per second.
        in_phase_with: Time on the clock from which deadlines are whole periods away; None starts at once.
    """

    def __init__(
        self, fps: float, in_phase_with: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.period = 1.0 / fps
        self._clock = clock
        self._start = clock()
        if in_phase_with is not None:
            self._start += (in_phase_with - self._start) % self.period
        self._tick = -1

    def follow(self, phase: float | None) -> None:
        """Move the deadlines to come, by SLEW_S at most, towards being whole periods away from `phase`."""
        if phase is not None:
            error = (phase - self._start + self.period / 2) % self.period - self.period / 2
            if abs(error) > STEADY_S:
                self._start += math.copysign(SLEW_S, error)

    def next_deadline(self) -> tuple[int, float]:
        """Number of the next tick, and its time on the clock."""
        passed = math.floor((self._clock() - self._start) / self.period)
        self._tick = max(self._tick + 1, passed)
        return self._tick, self._start + self._tick * self.period


class ControlLoop:
    """Runs one activity at a time in a thread of its own.

    Args:
        follower, leader: Connected arms.
        cameras: By name.
        limits: For activities that are not a person's own motion.
        fps: Ticks per second.
        on_end: Called in the loop's thread after the activity's own `end`: (name, reason, error).
        watch: The follower's health.
        descent: Makes the activity that brings an unsafe arm down.
        on_error: Called in the loop's thread when the arm holds after an error, before it is lowered or the
            error is logged.
        let_go: Switches torque off.
    """

    def __init__(
        self,
        follower: Arm,
        leader: Arm,
        cameras: Mapping[str, Camera],
        limits: Limits,
        fps: int,
        on_end: Callable[[str, str, ArmfleetError | None], None],
        watch: HealthWatch | None = None,
        descent: Callable[[UnsafeArm], Activity] | None = None,
        on_error: Callable[[ArmfleetError], None] = lambda error: None,
        let_go: Callable[[], None] | None = None,
    ) -> None:
        self.follower, self.leader, self.cameras = follower, leader, cameras
        self.limits, self.fps = limits, fps
        self._on_end, self._watch = on_end, watch
        self._descent, self._on_error = descent, on_error
        self._let_go = let_go or follower.release
        self._stop_reason: str | None = None
        self._sending = threading.Lock()  # a stop and a goal never overlap
        self._thread: threading.Thread | None = None
        self._held = threading.Event()  # the activity's last goal is sent: the arm holds, or is limp
        self._sampled: tuple[str, Health] | None = None
        self.activity: Activity | None = None
        self.last: Observation | None = None

    @property
    def running(self) -> bool:
        """An activity goes on, or its end is not finished yet."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def moving(self) -> bool:
        """An activity moves the arm now."""
        return self.running and not self._held.is_set()

    def start(self, activity: Activity) -> None:
        """Begin `activity`.

        Raises:
            ArmfleetError: another activity is running.
        """
        if self.running:
            name = self.activity.name if self.activity else "another activity"
            raise ArmfleetError(f"the arm is busy: {name}", do=f"stop {name} first")
        self._stop_reason = None
        self._held.clear()
        self.activity = activity
        self._thread = threading.Thread(target=self._run, args=(activity,), name="control-loop", daemon=True)
        self._thread.start()

    def run(self, activity: Activity) -> None:
        """Begin `activity`, and return at its end. Raises as `start`."""
        self.start(activity)
        if self._thread is not None:
            self._thread.join()

    def stop(self, reason: str, wait_s: float = 2.0) -> None:
        """End the running activity; the arm then holds. Nothing to do if none runs.

        Raises:
            ArmfleetError: the loop did not end within `wait_s` (a driver call hangs).
        """
        self.request_stop(reason)
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return
        thread.join(wait_s)
        if thread.is_alive():
            raise ArmfleetError(f"the control loop did not stop within {wait_s:g} s", do="release the arm")

    def halt(self, reason: str, wait_s: float = 1.0) -> None:
        """As `stop`, but returns once the arm holds: the end of a rollout (its video) may take seconds.

        Raises:
            ArmfleetError: the arm was not made to hold within `wait_s` (a driver call hangs).
        """
        self.request_stop(reason)
        if self.moving and not self._held.wait(wait_s):
            raise ArmfleetError(f"the arm was not stopped within {wait_s:g} s", do="release the arm")

    def wait_ended(self, wait_s: float) -> None:
        """Give an activity that has stopped up to `wait_s` to finish; one that goes on is not waited for."""
        if self._thread is not None and self._held.is_set():
            self._thread.join(wait_s)

    def request_stop(self, reason: str) -> None:
        """As `stop`, without waiting: no further goal is sent, except by a call that hangs already."""
        waited = self._sending.acquire(timeout=SEND_S)
        if self._stop_reason is None:
            self._stop_reason = reason
        if waited:
            self._sending.release()

    def _run(self, activity: Activity) -> None:
        reason, error = self._guarded(activity)
        if error is not None:
            self._on_error(error)
        if isinstance(error, UnsafeArm) and self._descent is not None and self._stop_reason is None:
            outcome, _ = self._guarded(self._descent(error))
            logger.bind(activity="lowering", reason=outcome).info("lowering ended: {}", outcome)
        if (activity.releases and reason != HOLD) or isinstance(error, UnsafeArm):
            error = self._released(error)
        self._held.set()
        log = logger.bind(activity=activity.name, reason=reason)
        if isinstance(error, UnsafeArm):
            log.warning("{} was stopped for the arm's sake", activity.name)  # why was said when it was found
        elif error:
            log.error("{} ended: {}", activity.name, error)
        else:
            log.info("{} ended: {}", activity.name, reason)
        try:
            activity.end(reason, error)
        except Exception:
            log.exception("closing {} failed", activity.name)
        self.activity = None
        self._on_end(activity.name, reason, error)

    def _guarded(self, activity: Activity) -> tuple[str, ArmfleetError | None]:
        """All ticks of an activity, then the hold; why it ended."""
        reason, error = "failed", None
        try:
            reason = self._ticks(activity)
        except ArmfleetError as failure:
            reason, error = failure.code.name.lower(), failure
        except Exception as failure:
            logger.exception("the activity {} failed", activity.name)
            error = ArmfleetError(f"{activity.name} failed: {type(failure).__name__}: {failure}")
        return reason, self._hold(error)

    def _ticks(self, activity: Activity) -> str:
        goal = self.follower.engage() if activity.engages else self.follower.read()
        activity.begin(goal)
        ticker, began = Ticker(self.fps, self._between_frames()), float("nan")
        sent = time.monotonic()
        while True:
            ticker.follow(self._between_frames())
            tick, deadline = ticker.next_deadline()
            pause = deadline - time.monotonic()
            if pause > 0:
                time.sleep(pause)
            now = time.monotonic()
            seen = self._observe(activity, tick, deadline, now - began)
            began = now
            self.last = seen
            if self._watch is not None and activity.guarded:
                self._watch.check()
            wanted = activity.step(seen)
            with self._sending:
                if self._stop_reason is not None:
                    return self._stop_reason
                if wanted is not None:
                    goal = self.limits.clamp(wanted, goal, now - sent) if activity.limited else wanted
                    self.follower.send(goal)
                    sent = now
            activity.sent(seen, goal)
            if activity.done is not None:
                return activity.done
            self._sample(deadline + ticker.period)

    def _sample(self, until: float) -> None:
        """Use the pause before the next deadline, if it is long enough."""
        if self._watch is not None:
            self._sampled = self._watch.sample(until - time.monotonic())

    def _between_frames(self) -> float | None:
        """A time of the clock, give or take periods, at which no camera's frame arrives."""
        return quietest((camera.arrivals for camera in self.cameras.values()), 1 / self.fps)

    def _observe(self, activity: Activity, tick: int, deadline: float, period_s: float) -> Observation:
        late_s = time.monotonic() - deadline
        arms = {"follower": self.follower, "leader": self.leader}
        retries = sum(arm.counters.retries for arm in arms.values())
        before = {name: arm.counters.snapshot() for name, arm in arms.items()}
        wall = time.time()
        state = self.follower.read()
        leader = self.leader.read() if activity.needs_leader else None
        frames = frames_at(self.cameras, deadline) if activity.needs_frames else {}
        retries = sum(arm.counters.retries for arm in arms.values()) - retries
        cured = {name: since(before[name], arm.counters.snapshot()) for name, arm in arms.items()}
        bus = {name: hits for name, hits in cured.items() if hits}
        return Observation(tick, wall, period_s, late_s, state, leader, frames, retries, bus, self._sampled)

    def _hold(self, error: ArmfleetError | None) -> ArmfleetError | None:
        """Make the present position the goal, so that nothing goes on moving."""
        try:
            self.follower.send(self.follower.read())
        except ArmfleetError as failure:
            return error or failure
        return error

    def _released(self, error: ArmfleetError | None) -> ArmfleetError | None:
        try:
            self._let_go()
        except ArmfleetError as failure:
            logger.critical("torque may still be on: {}", failure)
            return error or failure
        return error
