"""An `ArmDesk` with its surroundings, for tests: the arm worker is a plain object."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from agent.arm import ArmDesk
from agent.config import AgentConfig
from agent.episodes.record import EpisodeRecord, now, write_record
from agent.state import Index
from shared.errors import ArmfleetError

TASK = "push the red cube to the left"


class FakeWorker:
    """Answers every request with `answers[op]`, or raises it."""

    def __init__(self) -> None:
        self.state, self.reason, self.pid = "ready", "running", None
        self.answers: dict[str, Any] = {}
        self.asked: list[str] = []

    async def request(self, op: str, timeout_s: float = 10.0, **fields: Any) -> dict[str, Any]:
        self.asked.append(op)
        answer = self.answers.get(op, {})
        if isinstance(answer, Exception):
            raise answer
        return answer


class Bench:
    """A desk with its surroundings."""

    def __init__(self, tmp_path: Path, min_free_mb: int = 0) -> None:
        self.config = AgentConfig.model_validate(
            {
                "node": {"name": "a", "state_dir": tmp_path, "socket": tmp_path / "s"},
                "policy": {"base": "x"},
                "arm": {"follower_port": "/dev/f", "leader_port": "/dev/l", "calibration_dir": tmp_path},
                "cameras": {"front": {"type": "zmq", "port": 1, "width": 96, "height": 96, "fps": 30}},
                "recording": {"min_free_mb": min_free_mb},
            }
        )
        self.config.episodes_dir.mkdir()
        self.config.rollouts_dir.mkdir()
        self.worker = FakeWorker()
        self.index = Index(tmp_path / "state.sqlite", self.config.episodes_dir, self.config.rollouts_dir)
        self.judged: list[str] = []
        self.preempted: list[str] = []
        self.released: list[str] = []
        self.release_error: Exception | None = None
        self.desk = ArmDesk(
            self.config,
            self.worker,  # type: ignore[arg-type]
            self.index,
            SimpleNamespace(add=self.judged.append),  # type: ignore[arg-type]
            preempt=self._preempt,
            running_version=lambda: 3,
            rollout_allowed=lambda: None,
            after_rollout=self._nothing,
            release=self._release,
        )

    async def _preempt(self, reason: str) -> None:
        self.preempted.append(reason)

    async def _nothing(self) -> None:
        return None

    def _release(self, port: str) -> None:
        self.released.append(port)
        if self.release_error is not None:
            raise self.release_error


def timed_out(op: str) -> ArmfleetError:
    """What a request raises when no answer came."""
    error = ArmfleetError(f"the worker did not answer '{op}' within 2 s")
    error.__cause__ = TimeoutError()
    return error


def save(bench: Bench, episode_id: str) -> None:
    """What the arm worker leaves when it has saved an episode."""
    folder = bench.config.episodes_dir / episode_id
    folder.mkdir()
    write_record(folder, EpisodeRecord(id=episode_id, task=TASK, frames=50, fps=30, created=now()))


def run(steps: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(steps())  # type: ignore[arg-type]
