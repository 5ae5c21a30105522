"""The workstation's hardware as one object: two arms, the cameras, the loop, and what may be asked of them.

Operations follow the arm process's list (see `agent.robot.worker`). A hardware fault is kept, refuses what
needs the hardware with its sentence, and is tended once a second until it is gone. An arm that becomes unsafe
(`agent.robot.safety`), and one whose adapter comes back while it is stiff, is lowered and let go.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

from loguru import logger

from agent.config import AgentConfig, ArmSection
from agent.episodes.recorder import EpisodeRecorder, RecorderSettings, Take
from agent.evaluation.rollouts import RolloutWanted
from agent.robot.attempt import Attempt
from agent.robot.calibration import calibration_digest
from agent.robot.cameras import Camera
from agent.robot.driver import Arm
from agent.robot.features import Shape
from agent.robot.joints import listed
from agent.robot.limits import limits_from_ranges
from agent.robot.loop import HOLD, ControlLoop
from agent.robot.lowering import Lowering
from agent.robot.release import release as release_port
from agent.robot.rollout import Rollout
from agent.robot.safety import UnsafeArm
from agent.robot.teleop import Phase, Teleoperation, await_alignment, check_agreement
from agent.robot.watch import HealthWatch
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.policy.rtc import CONTROL_HZ

FIRST_FRAME_S = 2.0
"""Promise: from the request to the first recorded frame."""
SAVE_LIMIT_S = 60.0
"""Longest wait of an ending process for the episode that is being saved."""
ENDING_S = 10.0
"""Longest wait for an activity that has stopped to finish: a rollout's video is written meanwhile."""
HOLD_S = 0.3
"""Pause between hold and release when the process ends: an arm in motion comes to rest."""

Emit = Callable[..., None]


class Station:
    """Everything the arm process owns.

    Args:
        config: agent.toml; it has an [arm].
        emit: Called as `emit(event, **fields)`, from any thread.
    """

    def __init__(self, config: AgentConfig, emit: Emit) -> None:
        if config.arm is None:
            raise ArmfleetError("there is no [arm] in agent.toml", code=ExitCode.CONFIG_INVALID)
        self.config, self._emit = config, emit
        self._section: ArmSection = config.arm
        arm = config.arm
        self.follower = Arm("follower", arm.follower_port, arm.id, arm.calibration_dir, arm.supply_v)
        self.leader = Arm("leader", arm.leader_port, arm.id, arm.calibration_dir)
        self.cameras = {name: Camera(name, section) for name, section in config.cameras.items()}
        self.fault: ArmfleetError | None = None
        self._watch = HealthWatch(self.follower, lambda texts: self._emit("warnings", warnings=texts))
        self._loop: ControlLoop | None = None
        self._recorder: EpisodeRecorder | None = None
        self._teleop: Teleoperation | None = None
        self._take: Take | None = None
        self._attempt: Attempt | None = None  # the last one
        self._saving = threading.Lock()
        self._pose: list[float] | None = None
        self._stiff = False  # the follower had torque when it was connected
        self._device = ""  # what `_connect` deals with now
        self._told: tuple[ExitCode, str] | None = None  # code and device of the fault last told

    # -- life ----------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Warm the recorder up and connect; a fault is kept, not raised."""
        self._settings("").folder.mkdir(parents=True, exist_ok=True)
        EpisodeRecorder(self._settings("")).warm_up()
        self.tend()

    def tend(self) -> None:
        """While idle: connect what is not connected, notice what is lost, and say so once. Call it each
        second."""
        if self._loop is not None and self._loop.running:
            return
        fault = self._connect()
        before, self.fault = self.fault, fault
        told, self._told = self._told, (fault.code, self._device) if fault else None
        # Not by its text: that may carry an age or a position which differs each second.
        if fault is not None and self._told != told:
            logger.error("{}", fault)
            self._emit("fault", error=fault.to_dict())
        if fault is None and before is not None:
            logger.info("the arm and its cameras are back")
            self._emit("fault_cleared")
        unsafe = fault if isinstance(fault, UnsafeArm) else None
        if self.follower.torque and (unsafe or self._stiff):
            self._come_down(unsafe)

    def close(self) -> None:
        """Hold, release torque, let go of everything; for the end of the process, within 2 s."""
        take, self._take = self._take, None
        if self._loop is not None:
            self._loop.request_stop("shutdown")
            try:
                self._loop.stop("shutdown", wait_s=0.7)
            except ArmfleetError as error:
                logger.warning("{}", error)
        if self.follower.torque:
            self._let_go()
        if take is not None:
            take.discard()
        for camera in self.cameras.values():
            camera.close()

    def await_save(self) -> None:
        """Return when no episode is being saved any more; for the end of the process, after `close`."""
        if self._saving.acquire(timeout=SAVE_LIMIT_S):
            self._saving.release()
        else:
            logger.error("an episode was not saved within {:g} s and is lost", SAVE_LIMIT_S)

    def _let_go(self) -> None:
        time.sleep(HOLD_S)
        try:
            self._limp()
        except ArmfleetError as failure:
            logger.critical("{}", failure)

    def _limp(self) -> None:
        """Switch torque off, past the driver if it can't; raises as `agent.robot.release`."""
        try:
            self.follower.release()
        except ArmfleetError as error:
            logger.warning("the driver can't release torque ({}); trying without it", error)
            self.follower.close()
            release_port(self._section.follower_port, hold_s=0.0)
            self.follower.torque = False

    def _connect(self) -> ArmfleetError | None:
        try:
            fresh = not (self.follower.connected and self.leader.connected and self._loop)
            for arm in (self.follower, self.leader):
                self._device = arm.role
                if not arm.connected:
                    connect = arm.reconnect if arm.counters.reads else arm.connect
                    connect()
                    self._stiff |= arm is self.follower and arm.torque
            if fresh:
                self._ready()
            self._device = self.follower.role
            self._pose = listed(self.follower.read())
            self._watch.sample_all()
            self._watch.check()
            self._device = self.leader.role
            self.leader.read()
            for camera in self.cameras.values():
                self._device = camera.name
                camera.revive()
                camera.check()
        except ArmfleetError as error:
            return error
        return None

    def _ready(self) -> None:
        paths = [self.follower.calibration_file, self.leader.calibration_file]
        self._recorder = EpisodeRecorder(self._settings(calibration_digest(paths)))
        section = self._section
        limits = limits_from_ranges(self.follower.ranges, section.max_step, section.max_speed)
        self._loop = ControlLoop(
            self.follower,
            self.leader,
            self.cameras,
            limits,
            CONTROL_HZ,
            self._activity_ended,
            self._watch,
            self._descent,
            self._failed,
            self._limp,
        )

    def _come_down(self, cause: UnsafeArm | None) -> None:
        """Of an idle arm: for `cause`, or because its adapter came back and it is stiff."""
        self._stiff = False
        logger.warning("the follower is lowered and let go" + ("" if cause else ": it was found stiff"))
        if self._loop is not None:
            self._loop.start(self._descent(cause))
        else:
            self._let_go()  # of another process: where it lay limp is not known

    def _descent(self, cause: UnsafeArm | None) -> Lowering:
        """What brings the arm down; a servo that gave way already is left out."""
        rest, free = self.follower.rest, frozenset[int]()
        if cause is not None:
            free = frozenset({cause.finding.joint}) if cause.finding.health.errors else free
            rest = rest if cause.finding.lowers else None
        return Lowering(rest, free, CONTROL_HZ)

    def _settings(self, calibration: str) -> RecorderSettings:
        return RecorderSettings(
            self.config.episodes_dir, self._shapes, CONTROL_HZ, self.config.recording, calibration
        )

    @property
    def _shapes(self) -> dict[str, Shape]:
        return {name: camera.shape for name, camera in self.cameras.items()}

    # -- operations ----------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """What the arm process does now; quick, no bus traffic."""
        loop = self._loop
        seen = loop.last if loop and loop.running else None
        activity = loop.activity if loop and loop.running else None
        take = self._take
        return {
            "activity": activity.name if activity else None,
            "phase": activity.phase.value if activity else None,
            "fault": self.fault.to_dict() if self.fault else None,
            "torque": self.follower.torque,
            "pose": listed(seen.state) if seen else self._pose,
            "period_ms": round(1e3 * seen.period_s, 2) if seen and seen.period_s == seen.period_s else None,
            "recording": {"episode_id": take.id, "frames": take.frames, "full": take.full} if take else None,
            "rollout": self._attempt.status() if self._attempt and isinstance(activity, Rollout) else None,
            "limits": loop.limits.listed() if loop else None,
            "follower": self.follower.status(),
            "leader": self.leader.status(),
            "health": self._watch.status(),
            "cameras": {name: camera.status() for name, camera in self.cameras.items()},
        }

    def teleop_start(self) -> dict[str, Any]:
        """Bring the follower to the leader, then mirror it; returns when it mirrors.

        Raises:
            ArmfleetError: a fault stands, the arm is busy, or leader and follower differ too much.
        """
        loop = self._idle_loop()
        started = time.monotonic()
        difference = check_agreement(self.follower.read(), self.leader.read())
        teleop = self._teleop = Teleoperation(CONTROL_HZ)
        loop.start(teleop)
        if not await_alignment(teleop, loop):
            raise self.fault or ArmfleetError("teleoperation ended before the arms were aligned")
        return {"difference": round(difference, 1), "seconds": round(time.monotonic() - started, 2)}

    def teleop_stop(self) -> dict[str, Any]:
        """Stop mirroring and hold; an episode being recorded is discarded."""
        if self._loop is not None:
            self._loop.stop("stopped")  # and its end told: what follows may be another session
        return {}

    def record_start(self, episode_id: str, task: str, max_s: float) -> dict[str, Any]:
        """Record from the next tick on; returns when the first frame is in.

        Raises:
            ArmfleetError: not teleoperating, recording already, no room on the disk.
        """
        teleop, recorder = self._teleop, self._recorder
        if self._take is not None:
            raise ArmfleetError(f"episode {self._take.id} is being recorded", do="stop it first")
        if teleop is None or recorder is None or not self._mirroring(teleop):
            raise self.fault or ArmfleetError("nobody moves the leader", do="start teleoperation first")
        started = time.monotonic()
        take = self._take = recorder.start(episode_id, task, max_s)
        teleop.attach(take)
        if not take.first_frame.wait(FIRST_FRAME_S):
            teleop.detach()
            self._drop_take()
            raise self.fault or ArmfleetError(f"no frame came within {FIRST_FRAME_S:g} s")
        return {"episode_id": episode_id, "seconds": round(time.monotonic() - started, 3)}

    def record_stop(self, keep: bool) -> dict[str, Any]:
        """Save (it is on disk when this returns) or discard the episode.

        Raises:
            ArmfleetError: nothing is being recorded, or the episode could not be kept.
        """
        if self._teleop is not None:
            self._teleop.detach()
        with self._saving:
            take, self._take = self._take, None
            if take is None:
                raise self.fault or ArmfleetError("no episode is being recorded", kept="all saved episodes")
            if not keep:
                take.discard()
                return {"kept": False}
            folder = take.save()
        return {"kept": True, "episode_id": take.id, "frames": take.frames, "folder": str(folder)}

    def rollout_start(self, wanted: RolloutWanted) -> dict[str, Any]:
        """Begin an autonomous attempt, from the `pose` in the answer; the event `rollout_done` tells its end.

        Raises:
            ArmfleetError: a fault stands, the arm is busy, or was so until after `wanted.not_after`.
        """
        loop, pose = self._idle_loop(), self.follower.read()
        if wanted.not_after is not None and time.monotonic() > wanted.not_after:
            raise ArmfleetError("the rollout was asked for too long ago: nothing moved", do="start it again")
        recorder = self._recorder
        assert recorder is not None  # made with the loop
        self._attempt = Attempt(
            self.config, self.follower, self._shapes, wanted, self._emit, recorder, self._saving
        )
        loop.start(self._attempt.rollout)
        return {"rollout_id": wanted.rollout_id, "pose": listed(pose)}

    def attempt(self) -> Attempt:
        """The rollout that runs; raises an ArmfleetError if none does."""
        loop, attempt = self._loop, self._attempt
        if loop is None or attempt is None or not loop.moving or loop.activity is not attempt.rollout:
            raise self.fault or ArmfleetError("no rollout is running")
        return attempt

    def rollout_stop(self, reason: str = "stopped") -> dict[str, Any]:
        """End the rollout within one tick; the arm holds."""
        if self._loop is not None:
            self._loop.request_stop(reason)
        return {}

    def lower(self) -> dict[str, Any]:
        """Whatever runs ends; the arm goes slowly to where it last lay limp and is let go. Raises a fault."""
        if self._loop is not None:
            self._loop.halt("abort")
        if self.follower.torque:
            self._idle_loop().run(self._descent(None))
        return {"torque": self.follower.torque}

    def hold(self) -> dict[str, Any]:
        """Whatever runs ends within one tick, and the arm stays where it is, with torque."""
        if self._loop is not None and self._loop.moving:
            self._loop.halt(HOLD)
        else:
            self._watch.check()
            self.follower.engage()
        return {"torque": self.follower.torque}

    def release(self) -> dict[str, Any]:
        """Whatever runs ends, and the arm goes limp."""
        if self._loop is not None:
            try:
                self._loop.halt("release")
            except ArmfleetError as error:  # torque goes off all the same
                logger.warning("{}", error)
        self._limp()
        return {"torque": self.follower.torque}

    # -- inside --------------------------------------------------------------------------------------------

    def _idle_loop(self) -> ControlLoop:
        if self._loop is not None:
            self._loop.wait_ended(ENDING_S)
        if self._loop is None or self.fault is not None:
            raise self.fault or ArmfleetError("the arm is not connected yet", code=ExitCode.BUS_LOST)
        if self._loop.running:
            name = self._loop.activity.name if self._loop.activity else "another activity"
            raise ArmfleetError(f"the arm is busy: {name}", do=f"stop {name} first")
        return self._loop

    def _mirroring(self, teleop: Teleoperation) -> bool:
        loop = self._loop
        return loop is not None and loop.activity is teleop and teleop.phase is Phase.MIRRORING

    def _failed(self, error: ArmfleetError) -> None:
        """Called in the loop's thread: the arm holds, and may be about to be lowered. It is told now."""
        self._lose_take(error.code.name.lower(), error)
        self.fault = error
        if isinstance(error, UnsafeArm):
            self._told = (error.code, self.follower.role)
            logger.error("{}", error)
        self._emit("fault", error=error.to_dict())

    def _activity_ended(self, name: str, reason: str, error: ArmfleetError | None) -> None:
        """Called in the loop's thread."""
        if error is not None and self.fault is not error:
            self._failed(error)
        self._lose_take(reason, error)
        cause = error.to_dict() if error else None
        self._emit("activity_ended", activity=name, reason=reason, error=cause)

    def _lose_take(self, reason: str, error: ArmfleetError | None) -> None:
        """A demonstration that was cut short would teach the cut: it is not kept, and the error says so."""
        if self._take is None:
            return
        lost = self._take.id
        if error is not None:
            error.kept = f"all saved episodes; episode {lost}, which was being recorded, is not kept"
        self._drop_take()
        self._emit("episode_lost", episode_id=lost, reason=reason, error=error.to_dict() if error else None)

    def _drop_take(self) -> None:
        take, self._take = self._take, None
        if take is not None:
            take.discard()
