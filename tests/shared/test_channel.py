"""The control channel between a daemon and a worker: answers, refusals, time-outs, death of either side."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from shared import envelope
from shared.channel import ChannelClosed, DaemonChannel, WorkerChannel, serve
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode

type Handlers = dict[str, Callable[[dict[str, Any]], dict[str, Any] | None]]


def with_worker(
    handlers: Handlers, talk: Callable[[DaemonChannel, list], Awaitable[None]], urgent: tuple[str, ...] = ()
) -> list[tuple[str, dict]]:
    """Run `talk` against a worker that serves in a thread; returns the events seen."""
    near, far = socket.socketpair()
    worker = WorkerChannel(far)
    events: list[tuple[str, dict]] = []

    async def main() -> None:
        channel = await DaemonChannel.open(near, lambda name, fields: events.append((name, fields)))
        try:
            await talk(channel, events)
        finally:
            await channel.close()

    def work() -> None:
        worker.emit("ready")
        serve(handlers, worker, urgent)

    thread = threading.Thread(target=work)
    thread.start()
    asyncio.run(main())
    thread.join(timeout=5)
    assert not thread.is_alive(), "serve() must return when the daemon closes its end"
    worker.close()
    return events


def test_request_gets_its_own_answer_and_events_come_in_order() -> None:
    async def talk(channel: DaemonChannel, events: list) -> None:
        results = await asyncio.gather(*(channel.request("double", n=n) for n in range(20)))
        assert [r["n"] for r in results] == [2 * n for n in range(20)]

    events = with_worker({"double": lambda f: {"n": f["n"] * 2}}, talk)
    assert events == [("ready", {})]


def test_refusal_arrives_with_its_sentence_and_code() -> None:
    def refuse(_: dict[str, Any]) -> dict[str, Any]:
        raise ArmfleetError(
            "joint 6 is silent", kept="3 episodes", do="check the cable", code=ExitCode.SERVO_SILENT
        )

    async def talk(channel: DaemonChannel, events: list) -> None:
        with pytest.raises(ArmfleetError, match="joint 6") as caught:
            await channel.request("move")
        assert (caught.value.kept, caught.value.code) == ("3 episodes", ExitCode.SERVO_SILENT)

    with_worker({"move": refuse}, talk)


def test_handler_that_crashes_leaves_the_worker_alive() -> None:
    async def talk(channel: DaemonChannel, events: list) -> None:
        with pytest.raises(ArmfleetError, match="ZeroDivisionError"):
            await channel.request("crash")
        assert await channel.request("fine") == {}
        with pytest.raises(ArmfleetError, match="knows no 'dance'"):
            await channel.request("dance")

    with_worker({"crash": lambda _: {"n": 1 // 0}, "fine": lambda _: None}, talk)


def test_urgent_request_overtakes_a_slow_one() -> None:
    released = threading.Event()

    def slow(_: dict[str, Any]) -> dict[str, Any]:
        assert released.wait(5), "the urgent request never ran"
        return {}

    async def talk(channel: DaemonChannel, events: list) -> None:
        running = asyncio.create_task(channel.request("align"))
        await channel.request("release")
        await running

    with_worker({"align": slow, "release": lambda _: released.set()}, talk, urgent=("release",))


def test_answer_after_its_time_out_is_dropped_and_later_requests_work() -> None:
    go = threading.Event()

    async def talk(channel: DaemonChannel, events: list) -> None:
        with pytest.raises(ArmfleetError, match=r"within 0\.05 s"):
            await channel.request("slow", timeout_s=0.05)
        go.set()
        assert await channel.request("fine") == {"n": 1}

    with_worker({"slow": lambda _: {"went": go.wait(5)}, "fine": lambda _: {"n": 1}}, talk)


def test_event_handler_that_crashes_does_not_close_the_channel() -> None:
    near, far = socket.socketpair()
    worker = WorkerChannel(far)

    def broken(name: str, fields: dict) -> None:
        raise ValueError(name)

    async def main() -> None:
        channel = await DaemonChannel.open(near, broken)
        worker.emit("ready")
        thread = threading.Thread(target=serve, args=({"fine": lambda _: {}}, worker))
        thread.start()
        assert await channel.request("fine") == {}
        await channel.close()
        thread.join(5)

    asyncio.run(main())


WORKER = """
import sys
from shared.channel import WorkerChannel, serve
channel = WorkerChannel.from_environment()
channel.emit("ready")
serve({"hang": lambda _: sys.stdin.read()}, channel)
print("daemon gone", flush=True)
"""


def spawn_worker() -> tuple[subprocess.Popen[bytes], socket.socket]:
    near, far = socket.socketpair()
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER],
        env={**os.environ, "ARMFLEET_CHANNEL_FD": str(far.fileno())},
        pass_fds=[far.fileno()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    far.close()
    return process, near


def test_killed_worker_fails_the_waiting_request_at_once() -> None:
    async def main() -> None:
        process, near = spawn_worker()
        ready = asyncio.Event()
        channel = await DaemonChannel.open(near, lambda name, _: ready.set())
        await asyncio.wait_for(ready.wait(), 20)
        waiting = asyncio.create_task(channel.request("hang", timeout_s=30))
        await asyncio.sleep(0)
        process.send_signal(signal.SIGKILL)
        with pytest.raises(ChannelClosed):
            await asyncio.wait_for(waiting, 5)
        assert channel.closed
        with pytest.raises(ChannelClosed, match="not running"):
            await channel.request("hang")
        process.communicate(timeout=5)

    asyncio.run(main())


def test_worker_notices_a_daemon_that_died_while_a_request_runs() -> None:
    process, near = spawn_worker()
    envelope.send(near, {"id": 1, "op": "hang"})
    assert envelope.recv(near) == ({"event": "ready"}, {})
    near.close()
    out, _ = process.communicate(timeout=20)
    assert out == b"daemon gone\n"


def test_worker_started_by_hand_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ARMFLEET_CHANNEL_FD", raising=False)
    with pytest.raises(ArmfleetError, match="not by hand"):
        WorkerChannel.from_environment()
