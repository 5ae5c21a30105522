"""Supervision of worker processes. The workers here are torch-free stand-ins: a few lines of Python each."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.cgroup import Cgroup
from agent.supervision import Worker, WorkerSpec, describe_exit, pause_s
from shared.errors import ArmfleetError

PREAMBLE = """
import os, sys, time
from shared.channel import WorkerChannel, serve
from shared.errors import ArmfleetError
channel = WorkerChannel.from_environment()
"""
STEADY = PREAMBLE + 'channel.emit("ready")\nserve({"pid": lambda _: {"pid": os.getpid()}}, channel)\n'
STUBBORN = PREAMBLE + 'channel.emit("ready")\nserve({}, channel)\ntime.sleep(60)\n'
BROKEN = (
    PREAMBLE
    + 'error = ArmfleetError("the port /dev/ttyX is not there", code=20)\n'
    + 'channel.emit("error", **error.to_dict())\nsys.exit(20)\n'
)
SILENT = PREAMBLE + "time.sleep(60)\n"


def spec(tmp_path: Path, body: str, **options: float | Cgroup) -> WorkerSpec:
    script = tmp_path / "stand_in.py"
    script.write_text(body)
    return WorkerSpec("arm", (str(script),), environment={"PYTHONPATH": str(Path.cwd())}, **options)  # type: ignore[arg-type]


async def until(condition: Callable[[], bool], limit_s: float = 20.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "condition not reached"
        await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


def test_killed_worker_is_started_again_after_its_death_was_handled(tmp_path: Path) -> None:
    deaths: list[str] = []

    async def on_death(why: str) -> None:
        assert worker.state == "failed"
        deaths.append(why)

    async def main() -> None:
        worker.start()
        await worker.wait_ready(20)
        first = (await worker.request("pid"))["pid"]
        os.kill(first, signal.SIGKILL)
        await until(lambda: bool(deaths))
        await worker.wait_ready(20)
        second = (await worker.request("pid"))["pid"]
        assert second != first
        assert worker.restarts == 1
        await worker.stop("test over")
        assert worker.status() == {"state": "stopped", "reason": "test over", "pid": None, "restarts": 1}
        assert not alive(second)

    worker = Worker(spec(tmp_path, STEADY), on_death=on_death)
    asyncio.run(main())
    assert deaths == ["was killed by SIGKILL"]


def test_reason_of_a_worker_that_cannot_start_is_kept(tmp_path: Path) -> None:
    async def main() -> None:
        worker = Worker(spec(tmp_path, BROKEN))
        worker.start()
        await until(lambda: worker.state == "failed")
        assert worker.reason == "ended with code 20 (PORT_MISSING): the port /dev/ttyX is not there."
        with pytest.raises(ArmfleetError, match="the arm worker is failed: ended with code 20"):
            await worker.request("hold")
        with pytest.raises(ArmfleetError, match="not ready"):
            await worker.wait_ready(0.01)
        await worker.stop("test over")

    asyncio.run(main())


def test_death_handler_that_crashes_does_not_stop_the_restarts(tmp_path: Path) -> None:
    async def broken(why: str) -> None:
        raise OSError("no port")

    async def main() -> None:
        worker = Worker(spec(tmp_path, BROKEN), on_death=broken)
        worker.start()
        await until(lambda: worker.restarts >= 2)
        await worker.stop("test over")

    asyncio.run(main())


def test_worker_that_never_gets_ready_is_killed(tmp_path: Path) -> None:
    async def main() -> None:
        worker = Worker(spec(tmp_path, SILENT, start_s=1.0))
        worker.start()
        await until(lambda: worker.state == "failed")
        assert worker.reason == "was not ready within 1 s and was killed"
        await worker.stop("test over")

    asyncio.run(main())


def test_worker_that_ignores_the_end_is_killed_after_its_grace(tmp_path: Path) -> None:
    async def main() -> None:
        worker = Worker(spec(tmp_path, STUBBORN))
        worker.start()
        await worker.wait_ready(20)
        pid = worker.pid
        assert pid is not None
        await worker.stop("test over", grace_s=0.2)
        assert not alive(pid)

    asyncio.run(main())


def test_kill_takes_less_than_a_second_and_start_works_again(tmp_path: Path) -> None:
    async def main() -> None:
        worker = Worker(spec(tmp_path, STUBBORN))
        worker.start()
        await worker.wait_ready(20)
        started = time.monotonic()
        await worker.kill("the operator records")
        assert time.monotonic() - started < 1
        assert worker.reason == "the operator records"
        worker.start()
        await worker.wait_ready(20)
        await worker.kill("test over")

    asyncio.run(main())


def test_worker_dies_with_its_daemon_even_after_sigkill(tmp_path: Path) -> None:
    daemon = f"""
import asyncio
from pathlib import Path
from agent.supervision import Worker, WorkerSpec
async def main():
    worker = Worker(WorkerSpec("trainer", ({str(tmp_path / "stand_in.py")!r},), background=True))
    worker.start()
    await worker.wait_ready(20)
    print(worker.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    spec(tmp_path, STUBBORN)

    async def main() -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            daemon,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        )
        assert process.stdout is not None
        pid = int(await asyncio.wait_for(process.stdout.readline(), 20))
        assert alive(pid)
        process.kill()
        await process.wait()
        await until(lambda: not alive(pid), 5)

    asyncio.run(main())


def test_trainer_that_was_killed_for_want_of_memory_says_so(tmp_path: Path) -> None:
    """Plain files stand in for the kernel's: memory runs out in a group only where there is a controller."""
    group = tmp_path / "train"
    group.mkdir()
    files = {name: group / name for name in ("cgroup.procs", "cpu.weight", "memory.events")}
    for file in files.values():
        file.write_text("oom_kill 0\n")

    async def main() -> None:
        worker = Worker(spec(tmp_path, STEADY, cgroup=Cgroup(group, None)))
        worker.start()
        await worker.wait_ready(20)
        assert worker.pid is not None
        assert files["cgroup.procs"].read_text() == str(worker.pid)
        files["memory.events"].write_text("oom_kill 1\n")
        os.kill(worker.pid, signal.SIGKILL)
        await until(lambda: worker.state == "failed")
        assert worker.reason == "was killed by SIGKILL: out of memory"
        await worker.wait_ready(20)
        assert files["cpu.weight"].read_text() == "1"
        await worker.kill("test over")
        assert files["cpu.weight"].read_text() == "100"  # its memory is given back at the ordinary pace

    asyncio.run(main())


def test_pauses_grow_and_stay_bounded() -> None:
    pauses = [pause_s(n) for n in range(1, 200)]
    assert pauses[:3] == [0.5, 1.0, 2.0]
    assert max(pauses) == 30.0
    assert pauses == sorted(pauses)


def test_exit_statuses_are_words() -> None:
    assert describe_exit(-9) == "was killed by SIGKILL"
    assert describe_exit(25) == "ended with code 25 (BUS_LOST)"
    assert describe_exit(99) == "ended with code 99"
