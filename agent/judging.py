"""Passes saved episodes through the gate in a short process of lowest priority.

A process of its own because decoding video can crash or take long; what happens there never reaches the
daemon. Loading the decoder takes longer than judging a short episode, so one process judges all that wait.

    python -m agent.judging agent.toml 000012 000013     (what that process runs: gate, digest, split)
"""

import asyncio
import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from loguru import logger

from agent.supervision import DIES_WITH_DAEMON, LOWEST_PRIORITY
from shared.exit_codes import ExitCode

LIMIT_S = 180.0
"""Longest time for one episode; a minute of two cameras takes a few seconds."""
RETRY_S = 30.0
"""Pause after a failure that is no episode's fault."""
BATCH = 16
"""Most episodes for one process, so that verdicts keep coming."""


class Judging:
    """The queue of episodes that wait for the gate.

    Args:
        command: Arguments after the interpreter; the episodes' ids are appended.
        on_judged: Called with an episode's id after its file was written, or after the gate failed.
    """

    def __init__(self, command: Sequence[str], on_judged: Callable[[str], None]) -> None:
        self._command, self._on_judged = tuple(command), on_judged
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        self._current: list[str] = []
        self.fault = ""

    @property
    def waiting(self) -> int:
        """Episodes that are not judged yet."""
        return self._queue.qsize() + len(self._current)

    def add(self, episode_id: str) -> None:
        """Judge `episode_id` as soon as the ones before it are done."""
        self._queue.put_nowait(episode_id)

    async def run(self) -> None:
        """Judge until cancelled; an unjudged episode is judged after the next start."""
        while True:
            self._current = [await self._queue.get()]
            while len(self._current) < BATCH and not self._queue.empty():
                self._current.append(self._queue.get_nowait())
            try:
                await self._judge_all(self._current)
                for episode_id in self._current:
                    self._on_judged(episode_id)
            except Exception as error:  # no process could be started, the index is locked: it may pass
                self.fault = f"the gate can't work ({type(error).__name__}: {error})"
                logger.exception("{}; tried again in {:g} s", self.fault, RETRY_S)
                for episode_id in self._current:
                    self._queue.put_nowait(episode_id)
                self._current = []
                await asyncio.sleep(RETRY_S)
            self._current = []

    async def _judge_all(self, episode_ids: list[str]) -> None:
        if await self._judge(episode_ids) or len(episode_ids) == 1:
            return
        # One of them broke the process: alone, it can't hold up the others. Judging twice changes nothing.
        for episode_id in episode_ids:
            await self._judge([episode_id])

    async def _judge(self, episode_ids: list[str]) -> bool:
        named = ", ".join(episode_ids)
        argv = [*DIES_WITH_DAEMON, *LOWEST_PRIORITY, sys.executable, *self._command, *episode_ids]
        process = await asyncio.create_subprocess_exec(*argv, stdin=asyncio.subprocess.DEVNULL)
        limit_s = LIMIT_S * len(episode_ids)
        try:
            async with asyncio.timeout(limit_s):
                code = await process.wait()
        except TimeoutError:
            self.fault = f"the gate took longer than {limit_s:g} s for episode {named}"
        else:
            self.fault = "" if code == 0 else f"the gate ended with code {code} for episode {named}"
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if self.fault:
            logger.bind(episode=named).error("{}; what it did not reach stays unjudged", self.fault)
        return not self.fault


def main(config_path: Path, episode_ids: Sequence[str]) -> int:
    """Judge episodes in order; each `armfleet.json` is written durably before the next is begun."""
    from agent.config import load_agent_config
    from agent.episodes.store import EpisodeStore
    from shared.errors import ArmfleetError
    from shared.logging import setup_logging

    setup_logging("gate")
    code = ExitCode.OK
    try:
        config = load_agent_config(config_path)
        store = EpisodeStore(config.episodes_dir, config.split, config.gate.thresholds)
    except ArmfleetError as error:
        logger.error("{}", error)
        return int(error.code)
    for episode_id in episode_ids:
        try:
            store.judge(episode_id)
        except ArmfleetError as error:
            if not store.folder(episode_id).is_dir():
                logger.bind(episode=episode_id).info("episode {} was deleted before its turn", episode_id)
                continue
            logger.bind(episode=episode_id).error("{}", error)
            code = error.code
    return int(code)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
