"""A worker that hangs is killed after three missed answers, one that refuses or is late is not."""

import asyncio
import subprocess

import pytest

from agent.heartbeat import HANGS, Heartbeat
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from tests.agent.arm_bench import FakeWorker, timed_out


@pytest.fixture
def process():
    made = subprocess.Popen(["sleep", "60"])
    yield made
    made.kill()
    made.wait(5)


def beat(worker, answers):
    """What the heartbeat knows after these answers, one a second."""
    now = [0.0]
    heartbeat = Heartbeat(worker, clock=lambda: now[0])

    async def steps():
        for answer in answers:
            worker.answers["status"] = answer
            heartbeat.tick()
            if heartbeat._task:
                await heartbeat._task
            now[0] += 1.0

    asyncio.run(steps())
    return heartbeat


def worker_with(process):
    worker = FakeWorker()
    worker.pid = process.pid
    return worker


def test_its_account_is_kept(process):
    worker = worker_with(process)
    assert beat(worker, [{"torque": True}]).status()["hardware"] == {"torque": True}
    worker.state = "failed"
    assert beat(worker, [{}]).status() == {"warnings": [], "hardware": {}}


def test_three_missed_answers_in_a_row_are_its_end(process):
    beat(
        worker_with(process), [timed_out("status")] * (HANGS - 1) + [{}] + [timed_out("status")] * (HANGS - 1)
    )
    assert process.poll() is None
    beat(worker_with(process), [timed_out("status")] * HANGS)
    assert process.wait(timeout=5) == -9


def test_a_refusal_is_an_answer(process):
    beat(worker_with(process), [ArmfleetError("not now")] * 10)
    assert process.poll() is None


def test_it_asks_once_a_second_however_often_it_is_ticked():
    worker, now = FakeWorker(), [0.0]
    heartbeat = Heartbeat(worker, clock=lambda: now[0])

    async def steps():
        for _ in range(20):
            heartbeat.tick()
            await asyncio.sleep(0)
            now[0] += 0.1
        await asyncio.sleep(0)

    asyncio.run(steps())
    assert worker.asked.count("status") == 2


def test_a_lost_leader_does_not_keep_the_follower_stiff(process):
    heartbeat = beat(worker_with(process), [{"follower": {"connected": True}}])
    assert heartbeat.reaches(ExitCode.BUS_LOST)
    heartbeat.account = {"follower": {"connected": False}}
    assert not heartbeat.reaches(ExitCode.BUS_LOST)
    assert heartbeat.reaches(ExitCode.SERVO_SILENT)
