"""When the trainer runs and on what; the trainer is a plain object here."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent.exchange.handler import Plan
from agent.exchange.outbox import Outbox
from agent.learning import ASK_AGAIN_S, KEEP_LOADED_S, RETRY_S, Learning
from shared.errors import ArmfleetError
from shared.recipe import Recipe


class FakeTrainer:
    """Starts at once and says what `answer` says."""

    def __init__(self) -> None:
        self.state = "stopped"
        self.answer: Any = {"started": True}
        self.asked: list[dict[str, Any]] = []

    def start(self, reason: str = "") -> None:
        self.state = "ready"

    async def stop(self, reason: str) -> None:
        self.state = "stopped"

    async def kill(self, reason: str) -> None:
        self.state = "stopped"

    async def request(self, op: str, timeout_s: float = 10.0, **fields: Any) -> dict[str, Any]:
        self.asked.append(fields)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Desk:
    """A Learning with its surroundings; `now` is its clock."""

    def __init__(self, home: Path) -> None:
        self.home, self.now, self.episodes = home, 0.0, 1
        self.plan = Plan(recipe=Recipe(), learning_rate=1e-3)
        self.trainer = FakeTrainer()
        self.slots: dict[str, Any] = {}
        self.outbox = Outbox(home / "outbox")
        self.learning = self.restart()

    def restart(self) -> Learning:
        inbox = SimpleNamespace(
            slots=self.slots, folder=lambda accepted: Path("adapters") / str(accepted.version)
        )
        self.learning = Learning(
            self.trainer,  # type: ignore[arg-type]
            inbox,  # type: ignore[arg-type]
            self.home,
            lambda: self.plan,
            lambda: self.episodes,
            self.outbox,
            True,
            lambda: self.now,
        )
        return self.learning

    def hold(self, **versions: int) -> None:
        self.slots.update({slot: SimpleNamespace(version=version) for slot, version in versions.items()})

    def tick(self) -> None:
        asyncio.run(self.learning.allow())


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_each_reason_not_to_train_is_a_sentence(desk: Desk) -> None:
    desk.plan, desk.episodes = Plan(), 0
    assert "asks for no training" in desk.learning.work().reason
    desk.plan = Plan(stations_awaited=2)
    assert desk.learning.work().reason == "waiting for normalisation statistics of 2 more stations"
    desk.plan = Plan(stations_awaited=1)
    assert desk.learning.work().reason == "waiting for normalisation statistics of 1 more station"
    desk.plan = Plan(recipe=Recipe())
    assert "no admitted training episode" in desk.learning.work().reason
    desk.episodes = 1
    assert "no version has arrived" in desk.learning.work().reason
    desk.hold(candidate=2)
    assert desk.learning.work().open


def test_newest_of_candidate_and_promoted_is_trained_on_once(desk: Desk, put: Callable) -> None:
    desk.hold(candidate=4, promoted=5)
    desk.tick()
    desk.tick()
    assert [(order["version"], order["folder"]) for order in desk.trainer.asked] == [(5, "adapters/5")]
    update = put(desk.home / "outbox", version=5)
    desk.learning.on_event("update", {"id": update})
    assert not desk.learning.work().open
    assert not desk.restart().work().open, "known after a restart"
    desk.outbox.acknowledge([update])
    assert not desk.learning.work().open
    desk.hold(candidate=6)
    assert desk.learning.work().open


def test_next_update_waits_until_a_version_contains_the_last_one(desk: Desk, put: Callable) -> None:
    desk.hold(candidate=5)
    desk.tick()
    update = put(desk.home / "outbox", version=5)
    desk.learning.on_event("update", {"id": update})
    desk.hold(candidate=6)
    assert not desk.learning.work().open
    assert update[:8] in desk.learning.work().reason
    desk.outbox.acknowledge([update])
    desk.plan = desk.plan.model_copy(update={"buffered": True})
    assert "its round is awaited" in desk.learning.work().reason
    desk.plan = desk.plan.model_copy(update={"buffered": False})
    assert desk.learning.work().open


def test_agent_killed_between_update_and_its_note_does_not_train_twice(desk: Desk, put: Callable) -> None:
    desk.hold(candidate=3)
    put(desk.home / "outbox", version=3)
    assert not desk.restart().work().open


def test_resumed_update_of_an_older_version_is_not_taken_for_the_newest(desk: Desk, put: Callable) -> None:
    desk.hold(candidate=7)
    desk.trainer.answer = {"started": False}
    desk.tick()
    assert not desk.learning.busy
    update = put(desk.home / "outbox", version=6)
    desk.learning.on_event("update", {"id": update})
    desk.outbox.acknowledge([update])
    assert desk.learning.work().open, "version 7 is still to be trained on"
    desk.trainer.answer = {"started": True}
    desk.now += ASK_AGAIN_S
    desk.tick()
    assert [order["version"] for order in desk.trainer.asked] == [7, 7]
    assert desk.learning.busy


def test_operator_ends_it_at_once_and_the_order_is_given_again(desk: Desk) -> None:
    desk.hold(candidate=1)
    desk.tick()
    asyncio.run(desk.learning.give_way("the operator asked for record"))
    assert desk.trainer.state == "stopped"
    desk.tick()
    assert len(desk.trainer.asked) == 2


def test_trainer_that_crashed_gets_its_order_again(desk: Desk) -> None:
    desk.hold(candidate=1)
    desk.tick()
    desk.learning.on_event("ready", {})
    desk.tick()
    assert len(desk.trainer.asked) == 2


@pytest.mark.parametrize("way", ["refused", "failed"])
def test_lasting_cause_is_asked_again_only_after_a_pause(desk: Desk, way: str) -> None:
    desk.hold(candidate=1)
    if way == "refused":
        desk.trainer.answer = ArmfleetError("the base is missing")
    desk.tick()
    if way == "failed":
        desk.learning.on_event("failed", {"what": "the base is missing"})
    desk.tick()
    assert len(desk.trainer.asked) == 1
    assert desk.learning.status()["fault"] == "the base is missing"
    desk.now += RETRY_S + 1
    desk.trainer.answer = {"started": True}
    desk.tick()
    assert len(desk.trainer.asked) == 2
    assert desk.learning.status()["fault"] == ""


def test_the_cache_is_told_to_be_built_only_while_a_trainer_runs(desk: Desk) -> None:
    building = {"tier": "features", "episode": 3, "episodes": 22}
    desk.hold(candidate=1)
    desk.tick()
    desk.learning.on_event("building", building)
    assert desk.learning.status()["progress"] == building
    asyncio.run(desk.learning.give_way("the operator asked for record"))
    assert desk.learning.status()["progress"] == {}
    step = {"step": 2, "steps": 16, "loss": 0.5}
    desk.learning.on_event("progress", step)
    assert desk.learning.status()["progress"] == step, "done steps stay done"
    desk.learning.on_event("failed", {"what": "the disk is full"})
    assert desk.learning.status()["progress"] == {}


def test_trainer_stays_loaded_for_a_while_then_gives_its_memory_back(desk: Desk) -> None:
    desk.hold(candidate=1)
    desk.tick()
    asyncio.run(desk.learning.rest())
    assert desk.trainer.state == "ready"
    desk.now += KEEP_LOADED_S + 1
    asyncio.run(desk.learning.rest())
    assert desk.trainer.state == "stopped"
