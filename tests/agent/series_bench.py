"""A `SeriesDesk` with its surroundings, for tests: a bench whose arm worker begins rollouts, and a policy."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from agent.evaluation.rollouts import RolloutFigures, RolloutRecord
from agent.sessions.series import Act
from agent.sessions.series_desk import SeriesDesk
from agent.sessions.series_messages import SeriesAnswer, SeriesTold, StartSeries
from agent.versions import Versions
from shared.errors import ArmfleetError
from tests.agent.arm_bench import TASK, Bench


def accepted(version: int) -> SimpleNamespace:
    return SimpleNamespace(
        version=version, tensors_digest=f"digest-of-{version}", accepted_at=datetime(2026, 1, 1, tzinfo=UTC)
    )


class Policy:
    """Executes what it is told to; `refuses` makes it say why not."""

    state, reason = "ready", "running"

    def __init__(self) -> None:
        self.swaps: list[int] = []
        self.refuses = ""

    async def request(self, op: str, timeout_s: float, **fields: Any) -> dict[str, Any]:
        if self.refuses:
            raise ArmfleetError(self.refuses)
        self.swaps.append(fields["version"])
        return {"digest": fields["digest"], "probe_change": 1.0}


class Studio:
    """A bench whose arm worker begins rollouts, and the series' owner on it."""

    def __init__(self, tmp_path: Path, fleet: bool = True) -> None:
        self.bench = bench = Bench(tmp_path)
        self.now = 1000.0
        self.started: list[dict[str, Any]] = []
        self.policy = Policy()
        self.inbox = SimpleNamespace(
            slots={"promoted": accepted(7)}, previous=accepted(6), folder=lambda version: tmp_path
        )
        self.versions = Versions(self.policy, self.inbox, lambda: False)  # type: ignore[arg-type]
        self.checked: list[list[tuple[str, Path | None]]] = []
        self.remarks: list[str] = []
        ask = bench.worker.request

        async def request(op: str, timeout_s: float = 10.0, **fields: Any) -> dict[str, Any]:
            answer = await ask(op, timeout_s, **fields)
            if op == "rollout_start":
                self.started.append(fields)
                return {"pose": [1.0, 2, 3, 4, 5, 6]}
            if op == "rollout_stop":
                self.end(fields["reason"])
            return answer

        bench.worker.request = request  # type: ignore[method-assign]
        running = lambda: self.versions.running.version if self.versions.running else None  # noqa: E731
        bench.desk._running_version = running
        self.desk = SeriesDesk(
            bench.config,
            bench.desk,
            bench.worker,  # type: ignore[arg-type]
            lambda: self.versions if fleet else None,
            clock=lambda: self.now,
            check=self.check,
        )

    def check(self, config: Any, versions: list[tuple[str, Path | None]]) -> list[str]:
        self.checked.append(versions)
        return self.remarks

    def end(self, reason: str, digest: str | None = "as told", chunks: int = 3, why: str = "") -> None:
        """The rollout is over: what the arm worker writes and says."""
        wanted = self.started[-1]
        running = self.versions.running
        record = RolloutRecord(
            id=wanted["rollout_id"],
            task=wanted["task"],
            version=wanted["version"],
            digest=(running.tensors_digest if running else None) if digest == "as told" else digest,
            created="2026-01-01T00:00:00+00:00",
            reason=reason,
            why=why,
            figures=RolloutFigures(chunks=chunks),
            interventions=self.bench.desk.rollouts.interventions,
            place=wanted["place"],
            blinded=bool(wanted["place"]["paired"]),
        )
        folder = self.bench.config.rollouts_dir / record.id
        folder.mkdir()
        (folder / "rollout.json").write_text(record.model_dump_json())
        self.bench.desk.on_event("rollout_done", {"rollout_id": record.id, "reason": reason})

    async def start(self, rollouts: int = 2, **fields: Any) -> None:
        await self.desk.start(StartSeries(task=TASK, rollouts=rollouts, **fields))
        await self.settle()

    async def press(self, *acts: Act) -> None:
        for act in acts:
            self.desk.act(act)
            await self.settle()

    async def settle(self) -> None:
        for _ in range(3):
            while self.desk._tasks:
                await asyncio.gather(*self.desk._tasks)
            await self.desk.look()

    async def tick(self, seconds: float) -> None:
        self.now += seconds
        self.desk.tick()
        await self.settle()

    async def told(self) -> SeriesTold:
        series = SeriesAnswer.model_validate(await self.desk.look()).series
        assert series is not None
        return series

    def records(self) -> dict[str, dict[str, Any]]:
        files = sorted(self.bench.config.rollouts_dir.glob("*/rollout.json"))
        return {file.parent.name: json.loads(file.read_text()) for file in files}
