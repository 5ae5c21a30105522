"""A rollout: move slowly to the start pose, then do what the policy says, within the limits.

Without an action the last goal stands: the arm holds in that tick. Whatever is wrong with the policy ends the
rollout, with the arm holding, and is no fault of the arm.

A person may take over: the arm holds, comes to the leader slowly and follows it, as in a session of
recording, until it is handed back. The policy then goes on from where the arm is, with nothing of what it
wanted before.
"""

import time
from collections.abc import Callable
from enum import Enum
from typing import Protocol

import numpy as np

from agent.inference.bounds import Bounds
from agent.inference.fault import PolicyFault, policy_silent, starved
from agent.robot.first_chunk import Cut, FirstChunk
from agent.robot.freshness import Freshness
from agent.robot.loop import Activity, Observation
from agent.robot.teleop import Phase as TeleopPhase
from agent.robot.teleop import Teleoperation
from shared.errors import ArmfleetError

START_SPEED = 60.0
"""Units per second on the way to the start pose."""
SETTLE_S = 0.7
"""Pause at the start pose before the policy gets to see anything."""
START_TOLERANCE = 10.0
"""Units that the arm may then stand off the pose. An STS3215 under load stands off by two to three degrees (P
gain 16, no integral part); more is an obstacle."""
FIRST_ACTION_S = 10.0
"""Longest wait for the policy's first action; the policy process may still be loading its weights' pages."""
STARVED_LIMIT_S = 3.0
"""Without an action for so long the rollout ends: holding is safe, waiting for ever is not."""


class Actions(Protocol):
    """Where actions come from; see `agent.inference.engine.RolloutEngine`."""

    @property
    def fault(self) -> PolicyFault | None: ...
    @property
    def trouble(self) -> str: ...
    @property
    def bounds(self) -> Bounds: ...
    @property
    def chunk(self) -> int: ...
    def start(self) -> None: ...
    def pause(self) -> None: ...
    def notify(self, state: np.ndarray, images: dict[str, np.ndarray], taken_at: float) -> None: ...
    def action(self) -> np.ndarray | None: ...


class Trace(Protocol):
    """What keeps a rollout for people to see; see `agent.evaluation.rollouts`."""

    def add(self, seen: Observation, goal: np.ndarray) -> None: ...


class Phase(Enum):
    """Where a rollout stands."""

    TO_START = "to start pose"
    WAITING = "waiting for the policy"
    RUNNING = "running"
    ALIGNING = "taking over"
    LED = "led"


class Rollout(Activity):
    """One autonomous attempt at a task.

    Args:
        actions: The policy's actions; started when the start pose is reached.
        trace: Gets every tick of the running phase.
        start_pose: (6,) units, or None to start where the arm is.
        max_s: Longest time under the policy.
        fps: Ticks per second of the loop that runs it.
        on_end: Called once with (reason, error), after the arm holds; the error is the loop's, or a
            PolicyFault.
        on_cut: As `FirstChunk` takes it.
    """

    name = "rollout"

    def __init__(
        self,
        actions: Actions,
        trace: Trace,
        start_pose: np.ndarray | None,
        max_s: float,
        fps: int,
        on_end: Callable[..., None],
        on_cut: Callable[[Cut], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.phase: Phase = Phase.WAITING if start_pose is None else Phase.TO_START
        self.ticks = 0
        self._actions, self._trace, self._pose = actions, trace, start_pose
        self._max_ticks, self._step = round(max_s * fps), START_SPEED / fps
        self._on_end, self._on_cut, self._clock = on_end, on_cut, clock
        self._first: FirstChunk | None = None
        self._goal: np.ndarray = np.zeros(6, np.float32)
        self._deadline = 0.0
        self._settle_ticks = round(SETTLE_S * fps)
        self._acted_at = 0.0
        self._freshness = Freshness()
        self._fault: PolicyFault | None = None
        self._reason: str | None = None
        self._fps = fps
        self._taken: Teleoperation | None = None  # asked for by another thread, from the next tick on
        self._leading: Teleoperation | None = None
        self._led_ticks = 0  # left of this takeover
        self.apart = ""
        """Why the arm does not come to the leader that has taken over; empty if it does."""

    def take_over(self, max_s: float) -> Teleoperation:
        """Let the leader move the arm from the next tick on; at first the arm holds. From any thread.

        Args:
            max_s: Longest time that the arm follows; the rollout then ends.

        Returns:
            What moves it; recording may be attached.
        """
        self._led_ticks = round(max_s * self._fps)
        self._taken = Teleoperation(self._fps)
        return self._taken

    def hand_back(self) -> None:
        """Let the policy go on from the next tick on. From any thread."""
        self._taken = None

    def begin(self, position: np.ndarray) -> None:
        self._goal = position
        if self.phase is Phase.WAITING:
            self._wait_for_policy()

    def step(self, seen: Observation) -> np.ndarray | None:
        taken = self._taken
        if taken is not self._leading:
            return self._change_hands(taken, seen)
        if taken is not None:
            return self._follow(taken, seen)
        if self.phase is Phase.TO_START:
            return self._toward_start(seen)
        images = {name: frame.image for name, frame in seen.frames.items()}
        self._actions.notify(seen.state, images, self._freshness.taken_at(seen, self._clock()))
        if (fault := self._actions.fault) is not None:
            self._fault = fault
            return None
        action = self._actions.action()
        if self.phase is Phase.WAITING:
            if action is None:
                if self._clock() > self._deadline:
                    self._fault = policy_silent(FIRST_ACTION_S, self._actions.trouble)
                return None
            self.phase = Phase.RUNNING
            self._hold_to_bounds()
        self.ticks += 1
        now = self._clock()
        self._acted_at = now if action is not None else self._acted_at
        if now - self._acted_at > STARVED_LIMIT_S:
            self._fault = starved(STARVED_LIMIT_S, self._actions.trouble)
        elif self.ticks >= self._max_ticks:
            self._reason = "time_up"
        if action is None or self._first is None:
            return None
        return self._first.within(action, self._goal)

    def sent(self, seen: Observation, goal: np.ndarray) -> None:
        if self.phase is not Phase.TO_START:  # that way counts from what was wanted
            self._goal = goal
        if self._leading is not None:
            self._leading.sent(seen, goal)
        elif self.phase is Phase.RUNNING:
            self._trace.add(seen, goal)

    @property
    def bounded(self) -> int:
        """Ticks in which the bounds of the first chunk cut the goal."""
        return self._first.bounded if self._first else 0

    @property
    def done(self) -> str | None:
        return self._fault.reason if self._fault else self._reason

    def end(self, reason: str, error: ArmfleetError | None) -> None:
        self._on_end(reason, error or (self._fault if self._fault and self._fault.reason == reason else None))

    def _hold_to_bounds(self) -> None:
        """A chunk begins that nobody has seen the like of: the rollout's first, and after each takeover."""
        if self._first is None:
            self._first = FirstChunk(self._actions.bounds, self._actions.chunk, self._fps, self._on_cut)
        else:
            self._first.again()

    def _change_hands(self, taken: Teleoperation | None, seen: Observation) -> np.ndarray | None:
        """One tick between the policy and a person: the arm holds where it is."""
        self._leading = taken
        self.needs_leader, self.limited = taken is not None, taken is None
        if taken is None:
            self._wait_for_policy()
            return None
        self._actions.pause()
        self.phase, self.apart = Phase.ALIGNING, ""
        taken.begin(seen.state)
        return seen.state

    def _follow(self, leading: Teleoperation, seen: Observation) -> np.ndarray | None:
        """Towards the leader, or with it; an arm that is too far from it holds until the leader is near."""
        try:
            goal = leading.step(seen)
        except ArmfleetError as far:
            self.apart = far.what
            return None
        self.apart = ""
        if leading.phase is TeleopPhase.MIRRORING:
            self.phase = Phase.LED
            self._led_ticks -= 1
            if self._led_ticks <= 0:
                self._reason = "time_up"
        return goal

    def _toward_start(self, seen: Observation) -> np.ndarray:
        assert self._pose is not None
        self._goal = self._goal + np.clip(self._pose - self._goal, -self._step, self._step)
        if np.allclose(self._goal, self._pose, atol=1e-3):
            self._settle_ticks -= 1
        if self._settle_ticks <= 0:
            if np.abs(self._pose - seen.state).max() <= START_TOLERANCE:
                self._wait_for_policy()
            else:
                self._reason = "start_pose_unreachable"
        return self._goal

    def _wait_for_policy(self) -> None:
        self.phase = Phase.WAITING
        self._deadline = self._clock() + FIRST_ACTION_S
        self._actions.start()
