"""LeRobot's own commands, unmodified, on the virtual workstation (`lerobot-calibrate` is in
tests/agent/robot/test_calibrating_beside_lerobot.py)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from sim.launch import LaunchedWorkstation

pytestmark = pytest.mark.slow

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
TIMEOUT_S = 120


def command(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"lerobot.scripts.lerobot_{name}", *arguments]


# LeRobot's own options: a machine that stands still for a second is no fault of the emulated servos.
PATIENCE = ("--robot.num_read_retries=40", "--teleop.num_read_retries=40")


def arm_arguments(workstation: LaunchedWorkstation, camera: bool) -> list[str]:
    folder = workstation.folder
    front = (
        f"{{front: {{type: zmq, server_address: 127.0.0.1, port: {workstation.camera_ports['front']}, "
        "camera_name: front, width: 96, height: 96, fps: 30}}"
    )
    return [
        "--robot.type=so101_follower",
        f"--robot.port={folder}/ttyFOLLOWER",
        "--robot.id=so100",
        f"--robot.calibration_dir={folder}/calibration",
        *PATIENCE,
        *([f"--robot.cameras={front}"] if camera else []),
        "--teleop.type=so101_leader",
        f"--teleop.port={folder}/ttyLEADER",
        "--teleop.id=so100",
        f"--teleop.calibration_dir={folder}/calibration",
    ]


def run(arguments: list[str]) -> str:
    done = subprocess.run(
        arguments,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


def test_lerobot_teleoperate(healed: LaunchedWorkstation) -> None:
    healed.control.post("/leader/move", {"pose": [15, -50, 50, 50, 0, 40], "seconds": 0.5})
    run(command("teleoperate", *arm_arguments(healed, camera=False), "--fps=30", "--teleop_time_s=2"))
    follower = healed.control.get("/status")["follower"]
    assert abs(follower[0] - 15) < 2  # it was moved; the other joints have fallen since the torque went off


def test_lerobot_record(healed: LaunchedWorkstation, tmp_path: Path) -> None:
    run(
        command(
            "record",
            *arm_arguments(healed, camera=True),
            "--dataset.repo_id=local/virtual",
            f"--dataset.root={tmp_path}/dataset",
            "--dataset.no_stamp=true",
            "--dataset.single_task=touch the red cube",
            "--dataset.num_episodes=1",
            "--dataset.episode_time_s=3",
            "--dataset.reset_time_s=0",
            "--dataset.push_to_hub=false",
            "--dataset.rgb_encoder.vcodec=h264",
            "--play_sounds=false",
        )
    )
    dataset = LeRobotDataset("local/virtual", root=tmp_path / "dataset")
    assert dataset.num_episodes == 1
    assert 80 <= dataset.num_frames <= 91
    frame = dataset[45]
    assert tuple(frame["observation.images.front"].shape) == (3, 96, 96)
    assert float(frame["observation.images.front"].std()) > 0.02
