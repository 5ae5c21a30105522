"""LeRobot's own commands, unmodified, on the virtual workstation."""

import json
import os
import subprocess
import sys
import time
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


def test_lerobot_calibrate(healed: LaunchedWorkstation, tmp_path: Path) -> None:
    """A person calibrates the leader: middle, ENTER, every joint through its range, ENTER.

    The last test of the module: the calibration stays in the servos, as it does in real ones.
    """
    control = healed.control
    control.post("/leader/move", {"pose": [0, 0, 0, 0, 0, 50], "seconds": 0.5})
    process = subprocess.Popen(
        command(
            "calibrate",
            "--teleop.type=so101_leader",
            f"--teleop.port={healed.folder}/ttyLEADER",
            "--teleop.id=fresh",
            f"--teleop.calibration_dir={tmp_path}",
            PATIENCE[1],
        ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=ENVIRONMENT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        read_until(process, "press ENTER....")
        process.stdin.write("\n")
        process.stdin.flush()
        read_until(process, "MAX")
        for pose in ([90, 80, 80, 80, 0, 95], [-90, -80, -80, -80, 0, 5]):
            control.post("/leader/move", {"pose": pose, "seconds": 0.5})
            healed.wait_until("/demonstration", "running", False)
            time.sleep(0.8)
        process.stdin.write("\n")
        process.stdin.flush()
        rest = process.stdout.read()
        assert process.wait(TIMEOUT_S) == 0, rest[-3000:]
    finally:
        process.kill()
    calibration = json.loads((tmp_path / "fresh.json").read_text())
    for name, joint in calibration.items():
        if name not in ("wrist_roll", "gripper"):
            assert joint["range_max"] - joint["range_min"] > 1700, name
    assert calibration["gripper"]["range_max"] - calibration["gripper"]["range_min"] > 800


def read_until(process: subprocess.Popen[str], words: str) -> None:
    """Reads the output up to `words`, which need not end a line."""
    assert process.stdout is not None
    seen = ""
    while words not in seen:
        character = process.stdout.read(1)
        assert character, f"it ended without saying {words!r}: {seen[-3000:]}"
        seen += character
