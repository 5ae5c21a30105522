"""Torque goes off without LeRobot, whatever the former owner left behind."""

import os
import resource
import subprocess
import sys
import time
import tty

import pytest

from agent.robot.release import main, release
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from sim.packets import Instruction
from sim.registers import Register

ON = bytes([Register.TORQUE_ENABLE, 1])


@pytest.fixture
def stiff(bench):
    """An arm that holds a goal far away, as after the death of its owner in mid-motion."""
    from sim.packets import Packet

    for servo in range(1, 7):
        bench.bus.handle(Packet(servo, Instruction.WRITE, bytes([Register.GOAL_POSITION, 0, 12])))
        bench.bus.handle(Packet(servo, Instruction.WRITE, ON))
    assert all(bench.torque())
    return bench


def test_it_holds_where_the_arm_is_and_then_lets_go(stiff):
    present = stiff.counts([0, 0, 0, 0, 0, 50.0]).tolist()
    started = time.monotonic()
    release(stiff.path)
    assert time.monotonic() - started < 2.0
    assert not any(stiff.torque())
    assert stiff.goals() == present


def test_a_limp_arm_is_left_alone_and_costs_no_hold(bench):
    started = time.monotonic()
    release(bench.path, hold_s=1.0)
    assert time.monotonic() - started < 0.5
    assert not any(bench.torque())


def test_half_a_packet_of_the_dead_owner_on_the_line_does_not_matter(stiff):
    fd = os.open(stiff.path, os.O_RDWR | os.O_NOCTTY)
    tty.setraw(fd)
    os.write(fd, b"\xff\xff\x01\x05\x03")  # cut short
    os.close(fd)
    release(stiff.path)
    assert not any(stiff.torque())


def test_damaged_replies_are_asked_for_again(stiff):
    stiff.fault(corrupt=0.3)
    release(stiff.path)
    assert not any(stiff.torque())


def test_as_a_program_it_takes_under_two_seconds(stiff):
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run(
        [sys.executable, "-m", "agent.robot.release", stiff.path], capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 0, done.stderr
    assert not any(stiff.torque())
    # CPU time: starting Python takes longer on a busy machine. The rest is bounded by LIMIT_S.
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 1.0


def test_a_port_that_is_not_there(tmp_path, capsys):
    assert main(str(tmp_path / "ttyACM9")) == ExitCode.PORT_MISSING
    assert "power off" in capsys.readouterr().err


def test_a_dead_servo_is_named_and_the_others_are_released(stiff):
    stiff.fault(dead={3})
    started = time.monotonic()
    with pytest.raises(ArmfleetError, match=r"joint 3 \(elbow_flex\)") as caught:
        release(stiff.path)
    assert time.monotonic() - started < 2.0
    assert caught.value.code is ExitCode.SERVO_SILENT
    stiff.fault()
    assert [on for i, on in enumerate(stiff.torque()) if i != 2] == [False] * 5
