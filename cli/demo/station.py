"""The operator at one virtual workstation: asks the agent as a person would, and the simulator for the hands.

Only the two sockets are used: what works here works at a real arm, where the hands are somebody's own.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any

import numpy as np
from loguru import logger

from cli.demo.layout import StationLayout
from cli.demo.plan import TaskPlan
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.uds import UdsClient

POLL_S = 0.05
NEAR = 6.0
"""Degrees (and hundredths of the gripper) within which a pose counts as reached: an STS3215 under load stands
off by 2 to 3."""
SPEED = 60.0
"""Degrees per second of a calm hand moving the leader."""


class Stopped(Exception):
    """The demo is being ended; threads unwind."""


@dataclass
class Station:
    """One workstation in the operator's eyes."""

    layout: StationLayout
    stop: threading.Event

    def __post_init__(self) -> None:
        self.agent = UdsClient(self.layout.socket, timeout_s=100.0)  # saving an episode may take long
        self.sim = UdsClient(self.layout.control, timeout_s=30.0)

    @property
    def name(self) -> str:
        """The workstation's name."""
        return self.layout.plan.name

    def until(self, what: str, seconds: float, check: Callable[[], Any], every: float = POLL_S) -> Any:
        """Poll `check` until it gives something true, and return that. A refused answer counts as "not yet".

        Raises:
            ArmfleetError: DEMO_FAILED after `seconds`, with the last refusal.
            Stopped: the demo is being ended.
        """
        deadline, last = monotonic() + seconds, ""
        while monotonic() < deadline:
            try:
                if answer := check():
                    return answer
            except ArmfleetError as error:
                last = f" (last answer: {error})"
            if self.stop.wait(every):
                raise Stopped
        raise ArmfleetError(
            f"workstation {self.name}: {what} did not happen within {seconds:g} s{last}",
            do=f"read {self.layout.folder.parent / 'log'}",
            code=ExitCode.DEMO_FAILED,
        )

    def retry(self, what: str, seconds: float, act: Callable[[], Any], every: float = 0.5) -> Any:
        """Like `until`, for an action whose answer may be empty: done when it is not refused."""
        return self.until(what, seconds, lambda: (act(), True), every)[0]

    # -- the table and the hands ---------------------------------------------------------------------------

    def set_scene(self, task: TaskPlan, seed: int) -> list[float]:
        """Put cubes on the table (they appear when the arm is out of the way); returns the start pose."""
        return self.sim.post("/scene", {"seed": seed, "task": task.wire()})["start_pose"]

    def follower(self) -> np.ndarray:
        """The follower's pose as the simulator knows it, (6,) units."""
        return np.array(self.sim.get("/status")["follower"])

    def lead_to(self, pose: list[float]) -> None:
        """Move the leader by hand to `pose` and wait until the follower is there too and the cubes lie."""
        seconds = self._move_leader(pose)
        self.until(
            "the follower reaching the start pose",
            seconds + 10,
            lambda: (
                bool(np.abs(self.follower() - np.array(pose)).max() < NEAR)
                and self.sim.get("/outcome")["placed"]
            ),
        )

    def lead_to_follower(self) -> None:
        """Bring the leader to where the follower is: a limp arm sinks further than a session may start at."""
        if self.stop.wait(self._move_leader(self.follower().tolist())):
            raise Stopped

    def _move_leader(self, pose: list[float]) -> float:
        """Begin to move the leader to `pose`; the seconds that this takes."""
        leader = np.array(self.sim.get("/status")["leader"])
        seconds = max(0.4, float(np.abs(leader - np.array(pose)).max()) / SPEED)
        self.sim.post("/leader/move", {"pose": pose, "seconds": seconds})
        return seconds

    # -- recording -----------------------------------------------------------------------------------------

    def start_session(self, task: TaskPlan) -> None:
        """Ask for the arm to record `task`: the follower begins to mirror the leader."""

        def begin() -> None:
            self.lead_to_follower()
            self.ask_for_arm(task)

        self.retry("the start of a session", 60, begin)

    def ask_for_arm(self, task: TaskPlan) -> None:
        """One request for a session, with the leader where it is.

        Raises:
            ArmfleetError: the agent's refusal.
        """
        self.agent.post("/session/start", {"task": task.text})

    def in_session(self) -> bool:
        """Whether the arm is recording for us; a fault of the arm or a camera ends a session."""
        return bool(self.status()["activity"] == "record")

    def stop_session(self) -> None:
        """Give the arm back; asked again if the control loop did not stop at once on a busy machine."""

        def ended() -> bool:
            if self.in_session():
                self.agent.post("/session/stop", {})
            return True

        self.until("the end of the session", 60, ended, every=0.5)

    def demonstrate(self, task: TaskPlan, seed: int) -> dict[str, Any] | None:
        """One demonstration within a session; None if it went wrong and was discarded, as a person would."""
        self.lead_to(self.set_scene(task, seed))
        self.agent.post("/episodes/start", {"task": task.text})
        kept = False
        try:
            self.sim.post("/demonstrate", {"seed": seed})
            self.until(
                "the end of the demonstration", 30, lambda: not self.sim.get("/demonstration")["running"]
            )
            kept = bool(self.sim.get("/outcome")["ever_success"])
        finally:
            episode = self.agent.post("/episodes/stop", {"keep": kept})
        return episode if kept else None

    # -- rollouts ------------------------------------------------------------------------------------------

    def rollout(self, task: TaskPlan, seed: int, max_s: float) -> bool:
        """Let the policy attempt `task` on the arm and label the result with the judge's word, the answer."""
        pose = self.set_scene(task, seed)
        body = {"task": task.text, "start_pose": pose, "max_s": max_s}
        started = self.retry("the start of a rollout", 90, lambda: self.agent.post("/rollouts/start", body))
        rollout = started["rollout"]
        self._watch(rollout, max_s + 30)
        outcome = self.sim.get("/outcome")
        success = bool(outcome["placed"] and outcome["ever_success"])
        self.agent.post(f"/rollouts/{rollout}/label", {"success": success})
        logger.bind(station=self.name, rollout=rollout).info(
            "{}: {}", task.key, "done" if success else "not done"
        )
        return success

    def _watch(self, rollout: str, seconds: float) -> None:
        """Wait for a rollout's end; a person stops it when the task is done."""
        stopped = False

        def ended() -> bool:
            nonlocal stopped
            if not stopped and self.sim.get("/outcome")["ever_success"]:
                self._stop_rollout()
                stopped = True
            return self.agent.get(f"/rollouts/{rollout}")["state"] == "done"

        self.until(f"the end of rollout {rollout}", seconds, ended)

    def _stop_rollout(self) -> None:
        try:
            self.agent.post("/rollouts/stop", {})
        except ArmfleetError as error:
            logger.debug("the rollout ended by itself meanwhile: {}", error)

    # -- looking -------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """What the agent says about itself."""
        return self.agent.get("/status")

    def wait_ready(self, seconds: float) -> None:
        """Wait until agent and simulator answer and the arm and the policy are loaded."""
        self.until("the simulator's start", seconds, lambda: self.sim.get("/status"))
        self.until("the start of arm and policy", seconds, self._workers_ready)

    def _workers_ready(self) -> bool:
        status = self.status()
        if fault := status["arm"]["fault"]:
            raise ArmfleetError(fault)
        return all(status["workers"][name]["state"] == "ready" for name in ("arm", "policy"))
