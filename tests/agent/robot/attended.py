"""The agent's part of a rollout on an arm process: a series, and a terminal that says somebody is there."""

import asyncio
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from agent.arm import ArmDesk
from agent.config import load_agent_config
from agent.daemon import TICK_S
from agent.sessions.series import Act, Phase
from agent.sessions.series_desk import SeriesDesk
from agent.sessions.series_messages import SeriesAnswer, SeriesTold, StartSeries
from agent.state import Index
from agent.versions import Versions
from tests.agent.robot.process import ArmProcess

SAYS_S = 0.2
"""How often a terminal says so."""
LIMIT_S = 30.0


class AttendedSeries:
    """One rollout.

    Args:
        config: agent.toml.
        arm: Moves; its events are taken from its queue.
        versions: What the policy executes.
    """

    def __init__(self, config: Path, arm: ArmProcess, versions: Versions) -> None:
        self._arm, loaded = arm, load_agent_config(config)
        worker: Any = SimpleNamespace(state="ready", reason="running", pid=None, request=self._ask)
        index = Index(config.with_name("state.sqlite"), loaded.episodes_dir, loaded.rollouts_dir)
        self._desk = ArmDesk(
            loaded,
            worker,
            index,
            SimpleNamespace(add=lambda episode: None),  # type: ignore[arg-type]
            preempt=self._nothing,
            running_version=lambda: 3,
            rollout_allowed=versions.check_usable,
            after_rollout=self._nothing,
        )
        self._series = SeriesDesk(loaded, self._desk, worker, lambda: versions, check=lambda *_: [])
        self.done: dict[str, Any] = {}

    async def lose_the_terminal(self, task: str, after_s: float) -> tuple[float, SeriesTold]:
        """Start a rollout, and kill the terminal when it has run for so long.

        Returns:
            When that was, in seconds since the epoch, and what the next terminal is told of the series.
        """
        await self._series.start(StartSeries(task=task, rollouts=1))
        terminal = asyncio.create_task(self._terminal())
        ticking = asyncio.create_task(self._tick())
        await self._until(Phase.READY)
        self._series.act(Act.START)
        await self._until(Phase.RUNNING)
        while (await self._ask("status", 5.0))["phase"] != "running":
            await asyncio.sleep(SAYS_S / 10)
        await asyncio.sleep(after_s)
        terminal.cancel()
        killed = time.time()
        told = await self._until(Phase.LABELLING)
        ticking.cancel()
        with suppress(asyncio.CancelledError):
            await ticking
        return killed, told

    async def _terminal(self) -> None:
        while True:
            await self._series.look(keys=True)
            await asyncio.sleep(SAYS_S)

    async def _tick(self) -> None:
        """As the daemon does."""
        while True:
            while not self._arm.events.empty():
                event = self._arm.events.get()
                self.done = event if event["event"] == "rollout_done" else self.done
                self._desk.on_event(event["event"], event)
            self._series.tick()
            await asyncio.sleep(TICK_S)

    async def _until(self, phase: Phase) -> SeriesTold:
        deadline = time.monotonic() + LIMIT_S
        while True:
            told = SeriesAnswer.model_validate(await self._series.look()).series
            assert told is not None
            if told.phase is phase:
                return told
            assert time.monotonic() < deadline, f"not {phase} but {told.phase}: {told.notice}"
            await asyncio.sleep(SAYS_S / 10)

    async def _ask(self, op: str, timeout_s: float, **fields: Any) -> dict[str, Any]:
        return await asyncio.to_thread(self._arm.ask, op, timeout_s, **fields)

    async def _nothing(self, *_: object) -> None:
        return None
