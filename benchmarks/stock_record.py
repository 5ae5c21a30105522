"""The command `lerobot-record`, unmodified and without a terminal, measured from outside.

It logs "Recording episode 0" just before its first observation and "Stop recording" when the episode is
encoded and in its files (only the closing of the files remains). Between the two lines it is measured; its
imports, and letting go of the arm, are not.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import av
import psutil

from benchmarks.workers.arm_process import FPS, TEXT
from shared.errors import ArmfleetError
from sim.launch import LaunchedWorkstation
from sim.workstation import ARM_ID

BEGINS, SAVED = b"Recording episode 0", b"Stop recording"
START_S = 300.0
SAVE_S = 600.0
"""Ample: the PNG files of a minute take it half a minute to encode on two cores."""


@dataclass(frozen=True)
class Recorded:
    """One recording and what it cost.

    Attributes:
        rows: Rows in the dataset.
        frames: Frames in the video of each camera.
        cpu_s: User and system time of the process and its children, from first frame to saved.
        next_s: From the end of the episode until the next could begin.
    """

    rows: int
    frames: dict[str, int]
    cpu_s: float
    next_s: float

    def cpu_per_minute(self) -> float:
        """CPU seconds for a minute's worth of rows."""
        return self.cpu_s / self.rows * FPS * 60


def cpu_seconds(pid: int) -> float:
    """User and system time so far of a process, its children, and those that ended."""
    process = psutil.Process(pid)
    total = 0.0
    for one in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def count_frames(dataset: Path) -> dict[str, int]:
    """Frames in each camera's video of a dataset of one episode."""
    found = {}
    for path in sorted((dataset / "videos").rglob("*.mp4")):
        with av.open(str(path)) as container:
            found[path.relative_to(dataset / "videos").parts[0]] = container.streams.video[0].frames
    return found


def stock_record(
    workstation: LaunchedWorkstation,
    root: Path,
    seconds: float,
    size: tuple[int, int],
    nice: int,
    options: Sequence[str] = (),
) -> Recorded:
    """Records one episode of `seconds` with all cameras into `root`, with LeRobot's defaults and `options`.

    Args:
        size: (width, height) of the pictures.
        nice: Priority of the process, as far as it is allowed.

    Raises:
        ArmfleetError: the command failed; its log's end is in the message.
    """
    command = str(Path(sys.executable).with_name("lerobot-record"))
    process = subprocess.Popen(
        [command, *_flags(workstation, root, seconds, size), *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, process.pid, nice)
    guard = threading.Timer(START_S + seconds + SAVE_S, process.kill)
    guard.start()
    marks: dict[bytes, tuple[float, float]] = {}
    tail: list[bytes] = []
    assert process.stderr is not None
    try:
        for line in process.stderr:
            tail = [*tail[-20:], line]
            for mark in (BEGINS, SAVED):
                if mark in line and mark not in marks:
                    marks[mark] = time.monotonic(), cpu_seconds(process.pid)
        status = process.wait()
    finally:
        guard.cancel()
        if process.poll() is None:
            process.kill()
            process.wait()
    if status or len(marks) < 2:
        log = b"".join(tail).decode(errors="replace")
        raise ArmfleetError(f"lerobot-record failed ({status}): {log[-2000:]}")
    (began, cpu_before), (saved, cpu_after) = marks[BEGINS], marks[SAVED]
    info = json.loads((root / "meta/info.json").read_text())
    return Recorded(info["total_frames"], count_frames(root), cpu_after - cpu_before, saved - began - seconds)


def _flags(workstation: LaunchedWorkstation, root: Path, seconds: float, size: tuple[int, int]) -> list[str]:
    ws, (width, height) = workstation.folder, size
    cameras = ", ".join(
        f"{name}: {{type: zmq, server_address: 127.0.0.1, port: {port}, camera_name: {name}, "
        f"width: {width}, height: {height}, fps: {FPS}}}"
        for name, port in workstation.camera_ports.items()
    )
    arms = {"robot": ("so101_follower", "FOLLOWER"), "teleop": ("so101_leader", "LEADER")}
    flags = [f"--robot.cameras={{{cameras}}}"]
    for role, (kind, port) in arms.items():
        flags += [f"--{role}.type={kind}", f"--{role}.port={ws}/tty{port}", f"--{role}.id={ARM_ID}"]
        flags += [f"--{role}.calibration_dir={ws}/calibration"]
    return [
        *flags,
        "--dataset.repo_id=local/bench",
        f"--dataset.root={root}",
        f"--dataset.single_task={TEXT}",
        f"--dataset.fps={FPS}",
        "--dataset.num_episodes=1",
        f"--dataset.episode_time_s={seconds}",
        "--dataset.push_to_hub=false",
        "--display_data=false",
        "--play_sounds=false",
    ]
