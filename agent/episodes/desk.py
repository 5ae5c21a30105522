"""What operators may do with episodes, for the agent: labels, verdicts by hand, deleting, importing.

The agent writes, so that there is one writer; `armfleet episodes` asks it through agent.sock. Where no agent
runs, the command does the same on the store itself (`change`), under the agent's own lock.
"""

import asyncio
import contextlib
import json
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from loguru import logger
from pydantic import BaseModel, ConfigDict, Field

from agent.config import AgentConfig
from agent.episodes.catalogue import FILE as CATALOGUE
from agent.episodes.catalogue import compile_catalogue, write_catalogue
from agent.episodes.record import EPISODE_ID, Label
from agent.episodes.store import EpisodeStore
from agent.supervision import DIES_WITH_DAEMON, LOWEST_PRIORITY
from shared.errors import ArmfleetError

MOST = 10_000
"""Episodes named in one request."""
REMEMBERED = 2_000
"""Events of an import kept for whoever asks; with more episodes the oldest are forgotten."""

EpisodeId = Annotated[str, Field(pattern=EPISODE_ID)]


class Request(BaseModel):
    """Base of the requests."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Change(Request):
    """What is to be done with some episodes."""

    op: Literal["label", "admit", "quarantine", "delete"]
    episodes: list[EpisodeId] = Field(min_length=1, max_length=MOST)
    label: Label | None = None
    """For `label`; None takes it back."""
    reason: str = Field(default="", max_length=300)
    """For `admit` and `quarantine`: why, in the operator's words."""
    for_good: bool = False
    """For `delete`: not to the trash."""


class Import(Request):
    """Datasets on this machine to import."""

    datasets: list[str] = Field(min_length=1, max_length=100)


def change(store: EpisodeStore, wanted: Change) -> dict[str, Any]:
    """Do it; {"done": [ids], "refused": {id: sentence}, "trash": {id: folder}}. One refusal stops nothing."""
    done: list[str] = []
    refused: dict[str, str] = {}
    trash: dict[str, str] = {}
    for episode_id in dict.fromkeys(wanted.episodes):
        try:
            if wanted.op == "label":
                store.label(episode_id, wanted.label)
            elif wanted.op == "delete":
                target = store.delete(episode_id, wanted.for_good)
                trash |= {episode_id: str(target)} if target else {}
            else:
                verdict = "admitted" if wanted.op == "admit" else "quarantined"
                store.decide(episode_id, verdict, wanted.reason or "decided by the operator")
            done.append(episode_id)
        except ArmfleetError as error:
            refused[episode_id] = str(error)
    return {"done": done, "refused": refused, "trash": trash}


def catalogue(store: EpisodeStore, config: AgentConfig) -> dict[str, Any]:
    """Write the live catalogue; where it lies and how many entries it has."""
    path = config.node.state_dir / CATALOGUE
    compiled = compile_catalogue(config.node.name, store.records(), store.root)
    write_catalogue(path, config.node.name, compiled)
    return {"path": str(path), "datasets": len(compiled.dataset)}


def import_command(store: Path, min_free_mb: int, datasets: list[str]) -> list[str]:
    """Arguments of a Python interpreter that imports `datasets` into the store (agent.episodes.importing)."""
    options = ["--into", str(store), "--min-free-mb", str(min_free_mb)]
    return ["-m", "agent.episodes.importing", *options, *datasets]


class EpisodeDesk:
    """The agent's side of `armfleet episodes`.

    Args:
        config: agent.toml.
        refresh: Called with the ids whose folders changed, appeared or went.
        judge: Hands an episode to the gate.
        interrupt_training: Stops an update being trained, if one is; true if so. It begins again without
            what changed.
    """

    def __init__(
        self,
        config: AgentConfig,
        refresh: Callable[[str], None],
        judge: Callable[[str], None],
        interrupt_training: Callable[[str], Awaitable[bool]],
    ) -> None:
        self._config = config
        self._store = EpisodeStore(config.episodes_dir, config.split)
        self._refresh, self._judge, self._interrupt = refresh, judge, interrupt_training
        self._lock = asyncio.Lock()
        self._import: asyncio.Task[None] | None = None
        self._events: deque[dict[str, Any]] = deque(maxlen=REMEMBERED)
        self._count = 0

    async def change(self, wanted: Change) -> dict[str, Any]:
        """Do what is wanted; as `change`, and whether training was interrupted for it."""
        async with self._lock:
            trained = wanted.op != "admit" and await self._takes_from_training(wanted)
            interrupted = trained and await self._interrupt(f"{wanted.op} of {len(wanted.episodes)} episodes")
            answer = await asyncio.to_thread(change, self._store, wanted)
            for episode_id in answer["done"]:
                self._refresh(episode_id)
        return {**answer, "training_interrupted": interrupted}

    async def catalogue(self) -> dict[str, Any]:
        """Write the live catalogue."""
        return await asyncio.to_thread(catalogue, self._store, self._config)

    async def start_import(self, wanted: Import) -> dict[str, Any]:
        """Begin to import; `import_status` tells how it goes."""
        if self._import is not None and not self._import.done():
            raise ArmfleetError("another import is running", kept="it", do="wait until it has ended")
        self._events.clear()
        self._count = 0
        room = self._config.recording.min_free_mb
        arguments = import_command(self._config.episodes_dir, room, wanted.datasets)
        self._import = asyncio.create_task(self._run(arguments), name="import")
        return {"started": True}

    def import_status(self, since: int = 0) -> dict[str, Any]:
        """Events of the last import from number `since` on, and whether it still runs."""
        running = self._import is not None and not self._import.done()
        first = self._count - len(self._events)
        events = list(self._events)[max(0, since - first) :]
        return {"running": running, "events": events, "next": self._count}

    async def stop(self) -> None:
        """End a running import; what it finished stays."""
        if self._import is not None:
            self._import.cancel()
            await asyncio.gather(self._import, return_exceptions=True)

    async def _takes_from_training(self, wanted: Change) -> bool:
        def look() -> bool:
            named = set(wanted.episodes)
            records = [r for r in self._store.records() if r.id in named]
            return any(r.usable and r.split == "train" for r in records)

        return await asyncio.to_thread(look)

    async def _run(self, arguments: list[str]) -> None:
        argv = [*DIES_WITH_DAEMON, *LOWEST_PRIORITY, sys.executable, *arguments]
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        try:
            async for line in process.stdout:
                self._note(json.loads(line))
            code = await process.wait()
            logger.info("an import ended with code {}", code)
            self._note({"ended": code})
        except Exception as error:  # the index is locked, a line is no event: what is imported stays
            logger.exception("an import was given up")
            self._note({"error": ArmfleetError(f"the import was given up: {error}").to_dict()})
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()

    def _note(self, event: dict[str, Any]) -> None:
        self._events.append(event)
        self._count += 1
        if event.get("outcome") == "imported":
            episode_id = str(event["episode"])
            self._refresh(episode_id)
            self._judge(episode_id)
