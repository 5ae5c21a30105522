"""Supervises the evaluation worker: a resident process with torch and the simulator, one job at a time.

The worker may die at any instant: it is started again after a pause, and the job it was at is due again by
itself (`EvaluationJobs`). Aggregation goes on meanwhile.
"""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from loguru import logger

from coordinator.config import CoordinatorConfig
from coordinator.evaluation.jobs import EvaluationJobs, Job
from shared.channel import FD_VARIABLE, ChannelClosed, DaemonChannel
from shared.errors import ArmfleetError

MODULE = "coordinator.evaluation.worker"
READY_TIMEOUT_S = 180.0
"""A cold import of torch and LeRobot takes 15-20 s, more on a busy machine."""
RESTART_S = (1.0, 5.0, 20.0, 60.0)
LOOK_S = 1.0
STOP_S = 5.0


class EvaluationRunner:
    """`run()` until cancelled; `sentence` says what it does."""

    def __init__(
        self,
        config: CoordinatorConfig,
        config_path: Path,
        jobs: EvaluationJobs,
        on_decision: Callable[[], Awaitable[None]],
        module: str = MODULE,
    ) -> None:
        self._timeout_s, self._jobs, self._on_decision = config.evaluation.timeout_s, jobs, on_decision
        self._command = [sys.executable, "-m", module, "--config", str(config_path)]
        self.sentence = "idle: no version is due"
        self.evaluating: int | None = None
        self.pid: int | None = None
        self._failures = 0

    async def run(self) -> None:
        """Start the worker when the first version is due, and keep it."""
        while True:
            await self._until_due()
            try:
                await self._with_worker()
            except (ArmfleetError, OSError) as error:
                pause = RESTART_S[min(self._failures, len(RESTART_S) - 1)]
                self._failures += 1
                self.sentence = f"the evaluation worker failed and is restarted in {pause:g} s: {error}"
                logger.bind(version=self.evaluating).error("{}", self.sentence)
                self.evaluating = None
                await asyncio.sleep(pause)

    async def _until_due(self) -> Job:
        while (job := self._jobs.next()) is None:
            self.sentence = "idle: no version is due"
            await asyncio.sleep(LOOK_S)
        return job

    async def _with_worker(self) -> None:
        ready = asyncio.Event()
        ours, theirs = socket.socketpair()
        environment = {**os.environ, FD_VARIABLE: str(theirs.fileno())}
        with theirs:
            process = subprocess.Popen(
                self._command, env=environment, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
            )
        self.pid = process.pid
        channel = await DaemonChannel.open(ours, lambda event, _: ready.set() if event == "ready" else None)
        try:
            self.sentence = "starting the evaluation worker"
            await self._wait_ready(ready, channel)
            while True:
                await self._evaluate(channel, await self._until_due())
                self._failures = 0
        finally:
            await channel.close()
            await asyncio.shield(asyncio.to_thread(_end, process))
            self.pid = None

    async def _wait_ready(self, ready: asyncio.Event, channel: DaemonChannel) -> None:
        waits = [asyncio.create_task(ready.wait()), asyncio.create_task(channel.wait_closed())]
        try:
            done, _ = await asyncio.wait(waits, timeout=READY_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()
        if waits[0] not in done:
            raise ArmfleetError(
                "it ended before it was ready" if done else f"it was not ready within {READY_TIMEOUT_S:g} s"
            )

    async def _evaluate(self, channel: DaemonChannel, job: Job) -> None:
        if channel.closed:
            raise ChannelClosed("it ended")
        self.evaluating, self.sentence = job.version, f"evaluating {job}"
        request = self._jobs.request(job)
        answer = await channel.request("evaluate", timeout_s=self._timeout_s, **request)
        await asyncio.to_thread(self._jobs.finish, job, answer)
        self.evaluating = None
        await self._on_decision()


def _end(process: subprocess.Popen[bytes]) -> None:
    """The worker ends by itself when its channel closes; a stubborn one is killed."""
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
