"""The workstation process: LeRobot's unmodified arms and camera on it, its control, its faults, its end."""

import builtins
import signal
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from lerobot.cameras.zmq import ZMQCameraConfig
from lerobot.robots.so_follower import SO101Follower, SO101FollowerConfig
from lerobot.teleoperators.so_leader import SO101Leader, SO101LeaderConfig

from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from sim.launch import LaunchedWorkstation, launch
from sim.workstation import main

FPS = 30


def follower_of(workstation: LaunchedWorkstation, camera: bool = True) -> SO101Follower:
    cameras = {
        "front": ZMQCameraConfig(
            server_address="127.0.0.1",
            port=workstation.camera_ports["front"],
            camera_name="front",
            width=96,
            height=96,
            fps=FPS,
        )
    }
    return SO101Follower(
        SO101FollowerConfig(
            port=str(workstation.folder / "ttyFOLLOWER"),
            id="so100",
            calibration_dir=workstation.folder / "calibration",
            use_degrees=True,
            cameras=cameras if camera else {},
        )
    )


def leader_of(workstation: LaunchedWorkstation) -> SO101Leader:
    return SO101Leader(
        SO101LeaderConfig(
            port=str(workstation.folder / "ttyLEADER"),
            id="so100",
            calibration_dir=workstation.folder / "calibration",
            use_degrees=True,
        )
    )


@pytest.fixture
def arms(
    healed: LaunchedWorkstation, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[LaunchedWorkstation, SO101Follower, SO101Leader]]:
    """Connected the way a person connects them, but nobody is there to press a key."""

    def no_input(prompt: str = "") -> str:
        raise AssertionError(f"a driver asked: {prompt}")

    monkeypatch.setattr(builtins, "input", no_input)
    follower, leader = follower_of(healed), leader_of(healed)
    follower.connect()
    leader.connect()
    yield healed, follower, leader
    follower.disconnect()
    leader.disconnect()


def teleoperate(follower: SO101Follower, leader: SO101Leader, until: Callable[[], bool]) -> None:
    deadline = time.perf_counter()
    while not until():
        follower.send_action(leader.get_action())
        deadline += 1 / FPS
        time.sleep(max(0.0, deadline - time.perf_counter()))


def after(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def test_the_stock_drivers_connect_observe_and_move(
    arms: tuple[LaunchedWorkstation, SO101Follower, SO101Leader],
) -> None:
    workstation, follower, leader = arms
    assert follower.is_calibrated
    assert leader.is_calibrated
    observation = follower.get_observation()
    assert observation["front"].shape == (96, 96, 3)
    assert observation["front"].std() > 5
    goal = {"shoulder_pan": 20.0, "shoulder_lift": -40, "elbow_flex": 40, "wrist_flex": 40, "wrist_roll": 5}
    action = {f"{name}.pos": value for name, value in {**goal, "gripper": 60.0}.items()}
    follower.send_action(action)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        seen = follower.get_observation()
        if max(abs(seen[key] - value) for key, value in action.items()) < 2:
            break
        time.sleep(0.05)
    else:
        pytest.fail(f"the arm did not arrive: {seen}")
    assert workstation.control.get("/status")["follower_torque"] == [True] * 6


def test_a_demonstration_in_real_time_succeeds_in_most_scenes(
    arms: tuple[LaunchedWorkstation, SO101Follower, SO101Leader],
) -> None:
    workstation, follower, leader = arms
    control, outcomes = workstation.control, []
    for seed in range(4):
        task = {"verb": "push_left", "color": ("red", "green", "blue", "yellow")[seed]}
        start = control.post("/scene", {"seed": seed, "task": task})["start_pose"]
        control.post("/leader/move", {"pose": start, "seconds": 0.8})
        teleoperate(follower, leader, after(1.5))
        assert control.get("/outcome")["placed"]
        control.post("/demonstrate", {"seed": seed})
        teleoperate(follower, leader, lambda: not control.get("/demonstration")["running"])
        teleoperate(follower, leader, after(0.4))
        outcomes.append(control.get("/outcome")["success"])
    assert sum(outcomes) >= 3, outcomes


def test_unplugging_and_plugging_in_again(healed: LaunchedWorkstation) -> None:
    follower = follower_of(healed, camera=False)
    follower.connect()
    healed.control.post("/fault", {"bus": "follower", "unplugged": True})
    with pytest.raises((OSError, termios.error)):
        follower.get_observation()
    follower.bus.port_handler.closePort()
    assert not (healed.folder / "ttyFOLLOWER").exists()
    healed.control.post("/fault", {"bus": "follower"})
    again = follower_of(healed, camera=False)
    again.connect()
    again.disconnect()


def test_faults_are_reported_and_healed(healed: LaunchedWorkstation) -> None:
    fault = {"bus": "follower", "overload": [6], "voltage": 3.1, "dead": [2], "firmware": {"3": [3, 9]}}
    healed.control.post("/fault", fault)
    faults = healed.control.get("/status")["faults"]["follower"]
    assert (faults["overload"], faults["voltage"], faults["dead"]) == ([6], 3.1, [2])
    with pytest.raises(RuntimeError, match="Missing motor IDs"):
        follower_of(healed, camera=False).connect()
    healed.control.post("/fault", {"bus": "follower"})
    assert healed.control.get("/status")["faults"]["follower"]["overload"] == []


@pytest.mark.parametrize(
    ("url", "body", "sentence"),
    [
        ("/scene", {"seed": 1, "task": {"verb": "juggle", "color": "red"}}, "juggle"),
        ("/leader/move", {"pose": [0, 0], "seconds": 1}, "pose"),
        ("/fault", {"bus": "follower", "corrupt": 2}, "corrupt"),
        ("/fault", {"bus": "follower", "nonsense": 1}, "nonsense"),
        ("/camera-fault", {"camera": "wrist", "fault": "black"}, "wrist"),
        ("/demonstrate", {}, "seed"),
    ],
)
def test_a_wrong_request_is_answered_with_a_sentence(
    workstation: LaunchedWorkstation, url: str, body: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ArmfleetError, match=sentence):
        workstation.control.post(url, body)


def test_it_keeps_up_with_real_time(workstation: LaunchedWorkstation) -> None:
    def look() -> tuple[float, dict[str, float]]:
        return time.monotonic(), workstation.control.get("/status")["timing"]

    began, first = look()
    time.sleep(2)
    ended, last = look()
    seconds = ended - began
    np.testing.assert_allclose(last["ticks"] - first["ticks"], seconds * 120, rtol=0.1)
    np.testing.assert_allclose(last["frames"] - first["frames"], seconds * FPS, rtol=0.1)


def test_a_second_one_in_the_same_folder_is_refused(workstation: LaunchedWorkstation) -> None:
    with pytest.raises(ArmfleetError, match="another virtual workstation") as caught:
        main(workstation.folder / "workstation.toml")
    assert caught.value.code == ExitCode.ALREADY_RUNNING
    assert workstation.control.get("/status")["timing"]["ticks"] > 0


def test_a_camera_that_the_model_lacks_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "w.toml"
    config.write_text(f'dir = "{tmp_path}"\n[cameras.wrist]\nport = 0\n')
    with pytest.raises(ArmfleetError, match="no camera wrist") as caught:
        main(config)
    assert caught.value.code == ExitCode.CONFIG_INVALID


def test_sigterm_ends_it_cleanly_and_a_killed_one_leaves_nothing_in_the_way(config_file: Path) -> None:
    killed = launch(config_file)
    killed.process.kill()
    killed.process.wait(timeout=10)
    launched = launch(config_file)
    launched.process.send_signal(signal.SIGTERM)
    assert launched.process.wait(timeout=10) == 0
    assert not (launched.folder / "ttyFOLLOWER").is_symlink()
    assert not (launched.folder / "control.sock").exists()
    assert "stopped" in launched.log.read_text()


def test_a_start_that_fails_says_why(config_file: Path) -> None:
    config_file.write_text(config_file.read_text().replace("front", "wrist"))
    with pytest.raises(ArmfleetError, match="no camera wrist"):
        launch(config_file)
