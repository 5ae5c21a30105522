"""Torque is off within two seconds whatever ends the process that holds the port: each way it may end, with
an emulated bus and real processes.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from agent.robot.release import release
from agent.supervision import Worker, WorkerSpec
from tests.agent.arm_bench import Bench as Desk

PROMISE_S = 2.0

HOLDER = """
import sys, time
import scservo_sdk as scs
port = scs.PortHandler(sys.argv[1]); port.openPort()
packets = scs.PacketHandler(0)
for servo in range(1, 7):
    packets.write1ByteTxRx(port, servo, 40, 1)
"""
"""Opens the port and makes the arm stiff, as the arm worker does, without its imports."""
STANDING = HOLDER + "packets.readTx(port, 1, 56, 2)\nprint('stiff', flush=True)\ntime.sleep(120)\n"
"""Leaves an answer that nobody has read on the line."""
WORKER = (
    HOLDER
    + """
import os
from shared.channel import WorkerChannel, serve_in_thread
import threading
channel = WorkerChannel.from_environment()
serve_in_thread({"status": lambda fields: {"pid": os.getpid()}}, channel, threading.Event().set, {"status"})
channel.emit("ready")
time.sleep(120)
"""
)


@contextlib.contextmanager
def holder(bench):
    """A process that holds the port of a stiff arm."""
    process = subprocess.Popen(
        [sys.executable, "-c", STANDING, bench.path], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "stiff\n"
        assert all(bench.torque())
        yield process
    finally:
        process.kill()
        process.wait(10)


def worker_of(bench, tmp_path):
    """A supervised stand-in for the arm worker, and the desk whose real release follows its death."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    desk = Desk(tmp_path / "desk").desk
    desk._port = bench.path
    desk._release = release
    spec = WorkerSpec("arm", (str(script), bench.path), environment={"PYTHONPATH": str(Path.cwd())})
    worker = Worker(spec, on_death=desk.on_death)
    desk._worker = worker
    desk._heartbeat._worker = worker
    return worker, desk


async def until(condition, limit_s):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.01)


def test_a_killed_arm_worker_alone(bench, tmp_path):
    async def main():
        worker, _ = worker_of(bench, tmp_path)
        worker.start()
        await worker.wait_ready(60)
        assert all(bench.torque())
        started = time.monotonic()
        os.kill(worker.pid, signal.SIGKILL)
        await until(lambda: not any(bench.torque()), PROMISE_S)
        print(f"torque was off {time.monotonic() - started:.2f} s after SIGKILL of the arm worker")
        await worker.kill("test over")

    (tmp_path / "desk").mkdir()
    asyncio.run(main())


def test_an_arm_worker_that_hangs(bench, tmp_path):
    """It does not end by itself: the heartbeat notices, and its end is then as above."""

    async def main():
        worker, desk = worker_of(bench, tmp_path)
        desk._heartbeat._answer_s = 0.3
        worker.start()
        await worker.wait_ready(60)
        desk._heartbeat.tick()
        await until(lambda: desk.status()["hardware"], 10)
        assert desk.status()["hardware"]["pid"] == worker.pid
        os.kill(worker.pid, signal.SIGSTOP)
        deadline = time.monotonic() + 20
        while any(bench.torque()):
            assert time.monotonic() < deadline
            await desk.rest()
            await asyncio.sleep(0.05)
        await worker.kill("test over")

    (tmp_path / "desk").mkdir()
    asyncio.run(main())


def cli(bench, tmp_path, *arguments):
    config = tmp_path / "agent.toml"
    config.write_text(
        f'[node]\nname = "a"\nstate_dir = "{tmp_path}/state"\nsocket = "{tmp_path}/agent.sock"\n'
        f'[policy]\nbase = "x"\n[arm]\nfollower_port = "{bench.path}"\nleader_port = "/dev/l"\n'
        f'calibration_dir = "{tmp_path}"\n[cameras.front]\ntype = "zmq"\nport = 1\nwidth = 96\nheight = 96\n'
        "fps = 30\n"
    )
    return subprocess.run(
        [sys.executable, "-m", "cli.main", "arm", "release", "--config", str(config), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_everything_killed_and_the_command_asked_no_agent_answers(bench, tmp_path):
    with holder(bench) as process:
        process.kill()
        process.wait(10)
        assert all(bench.torque()), "the servos hold without anybody"
        done = cli(bench, tmp_path, "--socket", str(tmp_path / "agent.sock"))
    assert done.returncode == 0, done.stderr
    assert "nobody answers" in done.stderr
    assert "torque is off" in done.stdout
    assert not any(bench.torque())


def test_a_stopped_process_still_holds_the_port(bench):
    with holder(bench) as process:
        os.kill(process.pid, signal.SIGSTOP)
        started = time.monotonic()
        release(bench.path)
        assert time.monotonic() - started < PROMISE_S
        assert not any(bench.torque())


def test_a_stopped_process_holds_the_port_and_a_servo_is_dead(bench, tmp_path):
    with holder(bench) as process:
        os.kill(process.pid, signal.SIGSTOP)
        bench.fault(dead={2})
        done = cli(bench, tmp_path, "--direct")
        assert done.returncode == 21, done.stderr
        assert "joint 2 (shoulder_lift)" in done.stderr
        bench.fault()
        assert [on for joint, on in enumerate(bench.torque()) if joint != 1] == [False] * 5
