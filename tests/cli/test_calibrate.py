"""`armfleet calibrate` in a terminal, with and without a running agent; the arm is moved by the test."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.robot.calibrating import JointTrack
from agent.robot.calibration import load_calibration
from cli.calibrate import bar, judged
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.uds import UdsClient
from tests.agent.test_daemon import RUN
from tests.cli.arms import EmulatedArm, write_config
from tests.cli.terminal import LIMIT_S, ROOT, Terminal

STAND_INS = ROOT / "tests/agent/stand_ins.py"
MIDDLE = (2100, 1800, 4050, 2047, 300, 3500)
REACH = (1200, 1100, 1050, 1000, 0, 620)


@pytest.fixture
def leader(tmp_path):
    made = EmulatedArm(tmp_path / "ttyL", MIDDLE)
    yield made
    made.port.unplug()


@pytest.fixture
def open_terminal(tmp_path):
    opened = []

    def open_one(config: Path) -> Terminal:
        argv = [sys.executable, "-m", "cli.main", "calibrate", "leader", "--config", str(config)]
        opened.append(Terminal(argv))
        return opened[-1]

    yield open_one
    for terminal in opened:
        terminal.close()


def sweep(arm: EmulatedArm) -> None:
    """Every joint from stop to stop; each place is held until it was read."""
    for joint, reach in enumerate(REACH):
        for way in (1, -1):
            for share in (0.5, 1.0, 0.5, 0.0):
                arm.put([c + way * round(share * reach) * (i == joint) for i, c in enumerate(MIDDLE)])
                arm.await_polls(2)


def expected_file(path: Path) -> None:
    values = load_calibration(path, "leader")
    for servo, (joint, reach) in enumerate(zip(values, REACH, strict=True)):
        assert values[joint].homing_offset == MIDDLE[servo] - 2047
        ends = (0, 4095) if joint == "wrist_roll" else (2047 - reach, 2047 + reach)
        assert (values[joint].range_min, values[joint].range_max) == ends


def test_a_calibration_from_begin_to_end_without_an_agent(leader, open_terminal, tmp_path):
    terminal = open_terminal(write_config(tmp_path, tmp_path / "base"))
    terminal.await_words("in the middle of its range")
    terminal.press("\n")
    terminal.await_words("from stop to stop")
    leader.await_polls(2)
    terminal.press("\n")  # too early
    terminal.await_words("Not yet: joint 1 (shoulder_pan) moved only")
    assert leader.written == []
    sweep(leader)
    terminal.press("\n")
    assert terminal.end() == 0, terminal.seen[-2000:]
    assert "is calibrated" in terminal.seen
    expected_file(tmp_path / "calibration/teleoperators/so_leader/so100.json")


@pytest.mark.parametrize("how", ["q", "\x03", "kill"])
def test_a_cancelled_calibration_leaves_file_and_servos_as_they_were(leader, open_terminal, tmp_path, how):
    terminal = open_terminal(write_config(tmp_path, tmp_path / "base"))
    terminal.await_words("in the middle of its range")
    terminal.press("\n")
    terminal.await_words("from stop to stop")
    leader.put([count + 500 for count in MIDDLE])
    leader.await_polls(2)
    if how == "kill":
        terminal.process.kill()
    else:
        terminal.press(how)
    assert terminal.end() == (-signal.SIGKILL if how == "kill" else 130)
    assert leader.written == []
    assert not list(tmp_path.glob("**/so100.json*"))


def test_from_a_pipe_that_ends_it_refuses_and_names_the_joints(leader, tmp_path):
    config = str(write_config(tmp_path, tmp_path))
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", "calibrate", "leader", "--config", config],
        input="\n\n",
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == ExitCode.CALIBRATION_MISMATCH
    assert "joint 2 (shoulder_lift) moved only 0 counts" in done.stderr
    assert leader.written == []


def test_a_running_agent_lends_the_ports_and_takes_them_back(leader, open_terminal, tmp_path):
    config = write_config(tmp_path, ROOT / "sim/base")
    state = tmp_path / "state"
    state.mkdir()
    workers = ("arm", "policy", "trainer", "executor", "gate")
    commands = {worker: [str(STAND_INS), worker, str(state)] for worker in workers}
    agent = subprocess.Popen(
        [sys.executable, "-c", RUN, str(config), json.dumps(commands)], cwd=ROOT, env={**os.environ}
    )
    client = UdsClient(tmp_path / "agent.sock", timeout_s=20)

    def arm_is(state_wanted: str) -> bool:
        try:
            return client.get("/status")["workers"]["arm"]["state"] == state_wanted
        except ArmfleetError:
            return False

    try:
        until(lambda: arm_is("ready"))
        terminal = open_terminal(config)
        terminal.await_words("in the middle of its range")
        assert arm_is("stopped")
        with pytest.raises(ArmfleetError, match="the leader is being calibrated"):
            client.post("/session/start", {"task": "push the red cube to the left"})
        terminal.press("\n")
        terminal.await_words("from stop to stop")
        sweep(leader)
        terminal.press("\n")
        assert terminal.end() == 0, terminal.seen[-2000:]
        expected_file(tmp_path / "calibration/teleoperators/so_leader/so100.json")
        until(lambda: arm_is("ready"))
        assert client.get("/arm")["follower"]["connected"]
    finally:
        agent.terminate()
        agent.wait(30)
        client.close()


def until(condition) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_bars():
    assert bar(JointTrack(0, 0, 4095), 8) == "█━━━━━━━"
    assert bar(JointTrack(4095, 2048, 4095), 8) == "····━━━█"
    assert bar(JointTrack(2047, 2047, 2047), 8) == "···█····"
    assert judged("gripper", JointTrack(2047, 2000, 2100))[0] == "red"
    assert judged("gripper", JointTrack(2047, 1700, 2100)) == ("yellow", "32% of the usual range")
    assert judged("gripper", JointTrack(2047, 1500, 2600))[0] == "green"
    assert judged("gripper", JointTrack(2047, 0, 4000, True))[0] == "red"
