"""The virtual SO-101 workstation: to unmodified software an arm, a leader and cameras.

In its folder it keeps `ttyFOLLOWER` and `ttyLEADER` (links to pseudo-terminals), `control.sock`, and the
calibration file of both arms, `calibration/so100.json` (as LeRobot names it for the id `so100`).

One thread advances the physics, renders and publishes, at absolute deadlines. The main thread serves the
control socket, and a thread per bus sleeps until bytes arrive.
"""

import asyncio
import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from loguru import logger
from pydantic import Field

from shared.config import ConfigModel, load_config
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.files import write_atomic
from shared.logging import setup_logging
from shared.priority import set_priority
from shared.systemd import notify_ready, notify_stopping
from shared.uds import serve
from sim.bus import BusPort
from sim.control import control_app
from sim.faults import BusName, CameraFault
from sim.joints import JointMap
from sim.publisher import CameraPublisher, noise_patch
from sim.rig import TICK_S, Rig
from sim.scene import CAMERAS
from sim.tasks import Task, draw_scene

MAX_BEHIND_S = 0.25
"""A thread further behind than this (a suspended machine) skips the lost time instead of racing after it."""

HARDWARE_PRIORITY = 2
"""Real hardware does not wait for a processor: real-time priority, above that of any client (sched(7))."""
HARDWARE_NICE = -10
"""Where a real-time class is not allowed. Without either, the virtual arm is late at times."""

ARM_ID = "so100"
"""LeRobot's `id` of both arms: it names the calibration file."""

FIRST_TASK = Task("touch", "red")
"""On the table at start-up, so that the first camera frames show something."""


class CameraConfig(ConfigModel):
    """One camera. Its name is the section's, and names a camera of the model (`front` or `side`).

    `port` 0 picks a free one; `GET /status` tells which.
    """

    port: int = Field(ge=0, lt=65536)


class CanaryConfig(ConfigModel):
    """A patch of noise in the upper left corner of every image, to prove where images do not go."""

    seed: int = Field(ge=0)
    pixels: int = Field(default=8, ge=1)


class WorkstationConfig(ConfigModel):
    """Contents of the TOML file."""

    dir: Path
    seed: int = Field(default=0, ge=0)
    host: str = "127.0.0.1"
    width: int = Field(default=96, ge=16)
    height: int = Field(default=96, ge=16)
    fps: int = Field(default=30, ge=1, le=120)
    cameras: dict[str, CameraConfig] = Field(default_factory=dict)
    canary: CanaryConfig | None = None


@dataclass
class Timing:
    """How the real-time thread keeps up."""

    ticks: int = 0
    frames: int = 0
    behind_max_s: float = 0.0
    skipped_s: float = 0.0


class Workstation:
    """A rig with its ports and cameras, in real time.

    Attributes:
        rig: The physics; safe to use from any thread.
        ports: The two pseudo-terminals.

    Args:
        config: Names, ports and sizes.
    """

    def __init__(self, config: WorkstationConfig) -> None:
        self.config = config
        self.rig = Rig(config.height, config.width)
        self.ports: dict[BusName, BusPort] = {
            "follower": BusPort(self.rig.follower, config.dir / "ttyFOLLOWER"),
            "leader": BusPort(self.rig.leader, config.dir / "ttyLEADER"),
        }
        self._timing = Timing()
        self._camera_ports: dict[str, int] = {}
        self._camera_faults: dict[str, CameraFault] = dict.fromkeys(config.cameras, "none")
        self._stop = threading.Event()
        self._failure: Exception | None = None

    def status(self) -> dict[str, Any]:
        """Everything a test may want to look at, as plain data."""
        follower, leader = self.rig.positions()
        return {
            "follower": follower.tolist(),
            "leader": leader.tolist(),
            "follower_torque": [command.torque for command in self.rig.follower.commands()],
            "leader_torque": [command.torque for command in self.rig.leader.commands()],
            "faults": {name: port.bus.faults.model_dump(mode="json") for name, port in self.ports.items()},
            "camera_ports": dict(self._camera_ports),
            "camera_faults": dict(self._camera_faults),
            "timing": vars(self._timing).copy(),
        }

    def set_camera_fault(self, camera: str, fault: CameraFault) -> None:
        """Breaks or heals a camera.

        Raises:
            ArmfleetError: There is no such camera.
        """
        if camera not in self._camera_faults:
            names = ", ".join(self._camera_faults) or "none"
            raise ArmfleetError(f"there is no camera {camera!r} (there is: {names})")
        self._camera_faults[camera] = fault

    def run(self) -> int:
        """Runs until SIGTERM or SIGINT.

        Raises:
            ArmfleetError: ALREADY_RUNNING, another workstation uses the folder.
        """
        _take_precedence()
        folder = self.config.dir
        folder.mkdir(parents=True, exist_ok=True)
        with _exclusive(folder):
            (folder / "calibration").mkdir(exist_ok=True)
            write_atomic(folder / "calibration" / f"{ARM_ID}.json", JointMap().calibration_json())
            asyncio.run(self._serve())
        if self._failure is not None:
            raise self._failure
        return ExitCode.OK

    async def _serve(self) -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        self.rig.set_scene(draw_scene(self.config.seed, FIRST_TASK))
        on_failure = partial(loop.call_soon_threadsafe, stop.set)
        thread = threading.Thread(target=self._run_real_time, args=(on_failure,), name="real-time")
        thread.start()
        try:
            for port in self.ports.values():
                port.plug()
            notify_ready(f"virtual workstation in {self.config.dir}")
            logger.info("Virtual workstation ready in {}", self.config.dir)
            await serve(control_app(self), self.config.dir / "control.sock", stop)
        finally:
            notify_stopping()
            self._stop.set()
            await asyncio.to_thread(thread.join)
            for port in self.ports.values():
                port.unplug()
            logger.info("Virtual workstation stopped: {}", self._timing)

    def _run_real_time(self, on_failure: Callable[[], object]) -> None:
        """Body of the real-time thread: physics, rendering and publishing."""
        try:
            with self._cameras() as publishers:
                for name, publisher in publishers.items():
                    self.rig.render(name)  # the first frame takes 0.4 s: before the clock starts
                    self._camera_ports[name] = publisher.port
                for number in self._ticks():
                    self.rig.tick(time.monotonic())
                    if self._frame_due(number):
                        self._publish(publishers)
        except Exception as error:
            logger.exception("The real-time thread failed")
            self._failure = error
            on_failure()

    def _ticks(self) -> Iterator[int]:
        """Numbers of ticks, each at its own absolute deadline; a late one is followed by the next at once."""
        deadline = time.monotonic()
        while not self._stop.is_set():
            yield self._timing.ticks
            self._timing.ticks += 1
            deadline += TICK_S
            behind = time.monotonic() - deadline
            if behind < 0:
                time.sleep(-behind)
                continue
            self._timing.behind_max_s = max(self._timing.behind_max_s, behind)
            if behind > MAX_BEHIND_S:
                logger.warning("The virtual workstation is {:.2f} s behind and skips them", behind)
                self._timing.skipped_s += behind
                deadline += behind

    def _frame_due(self, tick: int) -> bool:
        per_tick = self.config.fps * TICK_S
        return int((tick + 1) * per_tick + 1e-9) > int(tick * per_tick + 1e-9)

    def _publish(self, publishers: dict[str, CameraPublisher]) -> None:
        for name, publisher in publishers.items():
            publisher.fault = self._camera_faults[name]
            publisher.publish(self.rig.render(name), time.time())
        self._timing.frames += 1

    @contextmanager
    def _cameras(self) -> Iterator[dict[str, CameraPublisher]]:
        """The publishers, made and closed on the thread that uses them."""
        canary = self.config.canary
        patch = noise_patch(canary.seed, canary.pixels) if canary else None
        publishers: dict[str, CameraPublisher] = {}
        try:
            for name, camera in self.config.cameras.items():
                publishers[name] = CameraPublisher(name, self.config.host, camera.port, patch)
            yield publishers
        finally:
            for publisher in publishers.values():
                publisher.close()


def _take_precedence() -> None:
    """Raises the priority of this thread and those it will start, as far as permitted."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(HARDWARE_PRIORITY))
    except PermissionError:
        try:
            set_priority(HARDWARE_NICE)
        except PermissionError:
            logger.info("May not raise the priority: on a busy machine the virtual arm will be late at times")


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Holds the folder's lock; the kernel releases it however the process ends."""
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ArmfleetError(
                f"another virtual workstation uses {folder}",
                do="stop it, or choose another dir",
                code=ExitCode.ALREADY_RUNNING,
            ) from error
        yield


def main(config_path: Path) -> int:
    """Runs the workstation that `config_path` (TOML) describes until SIGTERM; returns the exit code.

    Raises:
        ArmfleetError: The configuration is wrong, the folder is in use, or a camera's port is taken.
    """
    setup_logging("workstation")
    config = load_config(config_path, WorkstationConfig)
    unknown = set(config.cameras) - set(CAMERAS)
    if unknown:
        raise ArmfleetError(
            f"{config_path}: the model has no camera {', '.join(sorted(unknown))} "
            f"(it has: {', '.join(CAMERAS)})",
            code=ExitCode.CONFIG_INVALID,
        )
    return Workstation(config).run()
