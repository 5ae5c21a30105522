"""How even the control loop is while it records, beside LeRobot's own record loop on the same virtual arm.

    make bench-loop            # 60 s each; --seconds N for less

Ours is the arm process as the agent runs it (`agent.robot.worker` behind its channel), teleoperating, with a
camera and the video encoder at work; its periods come from the episode's sidecar. LeRobot's is `record_loop`
of `lerobot.scripts.lerobot_record`, unmodified, with its default dataset settings; its periods are the times
between its calls of `get_observation`, and it gets the priority that the arm process gives itself. During
both, a person demonstrates at the leader.

No trainer runs beside either: the agent kills its trainer before a session moves the arm. That it does, and
how soon, is measured by the demo (`cli.demo.train.interrupt`), not here.

Exits with 1 when ours misses its targets.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from agent.robot.worker import NICE as ARM_NICE
from benchmarks.outcome import measured
from benchmarks.workers.arm_process import FPS, TEXT, ArmWorker, agent_config, person_at_work
from sim.launch import LaunchedWorkstation, launch
from sim.workstation import ARM_ID

ROOT = Path(__file__).resolve().parents[1]
MEAN_TARGET_MS = (32.8, 33.8)
P99_TARGET_MS = 40.0

os.environ["HF_HUB_OFFLINE"] = "1"  # before LeRobot is imported


def our_periods(workstation: LaunchedWorkstation, folder: Path, seconds: float) -> np.ndarray:
    """Times between ticks in s, from the sidecar of an episode of `seconds`."""
    worker = ArmWorker(agent_config(workstation, folder))
    try:
        worker.ask("teleop_start")
        with person_at_work(workstation.control):
            worker.ask("record_start", episode_id="bench", task=TEXT, max_s=seconds + 10)
            time.sleep(seconds)
            saved = worker.ask("record_stop", keep=True)
        worker.ask("teleop_stop")
        rows = (Path(saved["folder"]) / "sidecar.jsonl").read_text().splitlines()
    finally:
        worker.close()
    return np.array([json.loads(row)["period"] for row in rows[1:]])


def lerobot_periods(workstation: LaunchedWorkstation, folder: Path, seconds: float) -> np.ndarray:
    """Times between observations in s, in LeRobot's record loop over `seconds`."""
    from lerobot.cameras.zmq import ZMQCameraConfig
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
    from lerobot.processor import make_default_processors
    from lerobot.robots.so_follower import SO101Follower, SO101FollowerConfig
    from lerobot.scripts.lerobot_record import record_loop
    from lerobot.teleoperators.so_leader import SO101Leader, SO101LeaderConfig
    from lerobot.utils.constants import ACTION, OBS_STR
    from lerobot.utils.feature_utils import combine_feature_dicts, hw_to_dataset_features

    seen: list[float] = []

    class Watched(SO101Follower):
        """Notes when it is observed."""

        def get_observation(self) -> dict[str, Any]:
            seen.append(time.perf_counter())
            return super().get_observation()

    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, ARM_NICE)
    ws, port = workstation.folder, workstation.camera_ports["front"]
    camera = ZMQCameraConfig("127.0.0.1", port, camera_name="front", width=96, height=96, fps=FPS)
    robot = Watched(
        SO101FollowerConfig(
            port=f"{ws}/ttyFOLLOWER",
            id=ARM_ID,
            calibration_dir=ws / "calibration",
            use_degrees=True,
            cameras={"front": camera},
        )
    )
    leader = SO101Leader(
        SO101LeaderConfig(
            port=f"{ws}/ttyLEADER", id=ARM_ID, calibration_dir=ws / "calibration", use_degrees=True
        )
    )
    features = combine_feature_dicts(
        hw_to_dataset_features(robot.action_features, ACTION),
        hw_to_dataset_features(robot.observation_features, OBS_STR),
    )
    dataset = LeRobotDataset.create(
        "local/bench", FPS, features, root=folder / "lerobot", robot_type=robot.name, image_writer_threads=4
    )
    teleop_processor, robot_processor, observation_processor = make_default_processors()
    robot.connect()
    leader.connect()
    with person_at_work(workstation.control):
        record_loop(
            robot=robot,
            events={"exit_early": False},
            fps=FPS,
            teleop_action_processor=teleop_processor,
            robot_action_processor=robot_processor,
            robot_observation_processor=observation_processor,
            dataset=dataset,
            teleop=leader,
            control_time_s=seconds,
            single_task=TEXT,
        )
    dataset.clear_episode_buffer()
    dataset.finalize()
    robot.disconnect()
    leader.disconnect()
    return np.diff(seen)


def table(ours: np.ndarray, theirs: np.ndarray) -> str:
    """Both loops' periods, for a person."""
    lines = [f"{'period, ms':<12}{'mean':>8}{'p50':>8}{'p99':>8}{'max':>8}{'ticks':>8}"]
    for name, periods in (("armfleet", ours), ("lerobot", theirs)):
        values = [periods.mean(), *np.percentile(periods, (50, 99)), periods.max()]
        lines.append(
            f"{name:<12}" + "".join(f"{value * 1e3:8.2f}" for value in values) + f"{len(periods):8d}"
        )
    return "\n".join(lines)


def measure(seconds: float) -> tuple[bool, dict[str, Any]]:
    """Runs both loops and prints their periods; whether the targets are met, and the figures."""
    folder = Path(tempfile.mkdtemp(prefix="armfleet-bench-"))
    config = folder / "workstation.toml"
    config.write_text(f'dir = "{folder}/ws"\n[cameras.front]\nport = 0\n')
    workstation = launch(config)
    try:
        print(f"recording {seconds:g} s with the agent's arm process …", flush=True)
        ours = our_periods(workstation, folder, seconds)
        print(f"recording {seconds:g} s with LeRobot's record loop …", flush=True)
        theirs = lerobot_periods(workstation, folder, seconds)
    finally:
        workstation.stop()
        shutil.rmtree(folder, ignore_errors=True)
    print(table(ours, theirs))
    figures = {
        "period_mean_ms": round(float(ours.mean()) * 1e3, 2),
        "period_p99_ms": round(float(np.percentile(ours, 99)) * 1e3, 2),
        "lerobot_period_p99_ms": round(float(np.percentile(theirs, 99)) * 1e3, 2),
    }
    low, high = MEAN_TARGET_MS
    ok = low <= figures["period_mean_ms"] <= high and figures["period_p99_ms"] < P99_TARGET_MS
    return ok, figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, and returns the exit status; the last line is JSON."""
    parser = argparse.ArgumentParser(description="Periods of the control loop while it records.")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--out", type=Path, default=ROOT / "bench-loop.json", help="the result as JSON")
    options = parser.parse_args(arguments)
    return measured("loop", options.out, lambda: measure(options.seconds))


if __name__ == "__main__":
    sys.exit(main())
