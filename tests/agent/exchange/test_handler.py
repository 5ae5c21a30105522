"""A check-in through inbox, outbox and plan, without a process: late ones, other bases, an hour without
any."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.activity import Activity
from agent.exchange.fit import base_shapes
from agent.exchange.handler import Exchange
from agent.exchange.inbox import Inbox
from agent.exchange.outbox import Outbox
from agent.exchange.trust import TrustedMetadata
from shared.limits import MAX_UPDATE_BYTES
from shared.messages import FieldResult, Health, JudgedVersion, StatisticsWanted
from shared.normalisation import measured
from tests.agent.conftest import put_update

STATISTICS = measured(*np.random.default_rng(0).normal(0, 30, (2, 200, 6)))


@pytest.fixture
def make(fleet: Any, tmp_path: Path) -> Callable[[], Exchange]:
    """`make()`: an exchange on the same folders, as after a restart."""

    def build() -> Exchange:
        async def nothing(slots: list[str]) -> None:
            return None

        home = tmp_path / "agent"
        trust = TrustedMetadata(home / "tuf", fleet.publisher.root, fleet.clock)
        inbox = Inbox(
            trust, home / "tuf", home / "adapters", fleet.base_digest, base_shapes(fleet.base), fleet.clock
        )
        return Exchange(
            "station-a",
            fleet.name,
            fleet.base_digest,
            ("promoted", "candidate"),
            inbox,
            Outbox(home / "outbox"),
            home,
            lambda: (Activity.IDLE, Health(), None),
            nothing,
            lambda never_train: STATISTICS if not never_train else None,
            lambda judged: [FieldResult(version=v.version, task="push", labels="1") for v in judged],
        )

    return build


def answer(exchange: Exchange, body: bytes, reply_of: Callable) -> Any:
    return reply_of(asyncio.run(exchange.check_in(body)))[0]


def test_plan_is_kept_over_a_restart(fleet: Any, make: Callable, reply_of: Callable) -> None:
    answer(make(), fleet.check_in(learning_rate=5e-4), reply_of)
    assert make().plan.learning_rate == 5e-4
    assert make().plan.recipe.steps == 4


def test_late_check_in_still_acknowledges_but_its_plan_is_not_used(
    fleet: Any, make: Callable, reply_of: Callable, put: Callable, tmp_path: Path
) -> None:
    exchange = make()
    update_id = put(tmp_path / "agent" / "outbox")
    early = fleet.check_in(learning_rate=1e-3, acknowledged=[update_id])
    fleet.offset = timedelta(seconds=10)
    answer(exchange, fleet.check_in(learning_rate=2e-3), reply_of)
    assert answer(exchange, early, reply_of).update is None
    assert exchange.plan.learning_rate == 2e-3


@pytest.mark.parametrize("fault", ["too large", "trained as 'station-b'"])
def test_an_update_that_can_not_leave_is_set_aside_told_and_holds_up_nothing(
    fleet: Any, make: Callable, reply_of: Callable, put: Callable, tmp_path: Path, fault: str
) -> None:
    """Every check-in failed at it, and training waited for its acknowledgement for ever."""
    box = tmp_path / "agent" / "outbox"
    exchange = make()
    if fault == "too large":
        bad = put(box, delta=bytes(MAX_UPDATE_BYTES + 1))
    else:
        bad = put_update(box, "station-b", fleet.base_digest)
    told = answer(exchange, fleet.check_in(), reply_of)
    assert told.update is None
    assert fault in told.refused
    assert exchange.outbox.pending() == []
    assert (box / f".unsent-{bad}" / "delta.bin").exists(), "kept for a person to look at"
    good = put(box)
    told = answer(exchange, fleet.check_in(), reply_of)
    assert (told.update.id, told.refused) == (good, None)


def test_coordinator_away_for_an_hour_loses_nothing(
    fleet: Any, make: Callable, reply_of: Callable, put: Callable, tmp_path: Path
) -> None:
    fleet.publish(promoted=fleet.offer(1), candidate=fleet.offer(1))
    first = answer(make(), fleet.check_in(), reply_of)
    ids = [put(tmp_path / "agent" / "outbox", version=1) for _ in range(2)]
    fleet.offset = timedelta(hours=1)
    exchange = make()
    assert exchange.inbox.slots["promoted"].version == 1
    fleet.publish(candidate=fleet.offer(2))
    back = answer(exchange, fleet.check_in(first.held), reply_of)
    assert (back.held.candidate, back.refused) == (2, None)
    assert back.update is not None
    assert back.update.id in ids
    last = answer(exchange, fleet.check_in(back.held, acknowledged=[back.update.id]), reply_of)
    assert last.update is not None
    assert last.update.id in set(ids) - {back.update.id}


def test_fleet_with_another_base_gives_no_work(fleet: Any, make: Callable, reply_of: Callable) -> None:
    fleet.publish(candidate=fleet.offer(1))
    exchange = make()
    reply = answer(exchange, fleet.check_in(base_digest="b" * 64), reply_of)
    assert "this workstation has base" in reply.refused
    assert exchange.plan.recipe is None
    assert exchange.inbox.slots == {}


def test_refusal_is_told_to_the_coordinator(fleet: Any, make: Callable, reply_of: Callable) -> None:
    fleet.publish(candidate=fleet.offer(1, base_digest="b" * 64))
    reply = answer(make(), fleet.check_in(), reply_of)
    assert "candidate: version 1 is for the base bbbbbbbbbbbb" in reply.refused
    assert reply.held.candidate is None


def test_damaged_plan_waits_for_the_next_check_in(
    fleet: Any, make: Callable, reply_of: Callable, tmp_path: Path
) -> None:
    answer(make(), fleet.check_in(), reply_of)
    (tmp_path / "agent" / "plan.json").write_text("{")
    assert make().plan.recipe is None


def test_statistics_are_told_only_when_asked_for(fleet: Any, make: Callable, reply_of: Callable) -> None:
    exchange = make()
    assert answer(exchange, fleet.check_in(), reply_of).statistics is None
    assert exchange.plan.stations_awaited == 0
    wanted = StatisticsWanted(stations=2)
    asked = answer(exchange, fleet.check_in(recipe=None, statistics=wanted), reply_of)
    assert asked.statistics == STATISTICS
    assert exchange.plan.stations_awaited == 2
    answer(exchange, fleet.check_in(), reply_of)
    assert exchange.plan.stations_awaited == 0


def test_a_station_without_statistics_answers_all_the_same(
    fleet: Any, make: Callable, reply_of: Callable
) -> None:
    wanted = StatisticsWanted(stations=1, never_train=("push the red cube to the left",))
    assert answer(make(), fleet.check_in(statistics=wanted), reply_of).statistics is None


def test_a_fleet_with_another_base_is_told_no_statistics(
    fleet: Any, make: Callable, reply_of: Callable
) -> None:
    exchange = make()
    asked = fleet.check_in(base_digest="b" * 64, statistics=StatisticsWanted(stations=1))
    assert answer(exchange, asked, reply_of).statistics is None
    assert exchange.plan.stations_awaited == 0


def test_rollouts_are_told_of_the_versions_asked_about_and_of_no_others(
    fleet: Any, make: Callable, reply_of: Callable
) -> None:
    exchange = make()
    assert answer(exchange, fleet.check_in(), reply_of).field == []
    wanted = [JudgedVersion(version=4, tensors_digest="d" * 64)]
    asked = answer(exchange, fleet.check_in(judged=wanted), reply_of)
    assert asked.field == exchange.told == [FieldResult(version=4, task="push", labels="1")]
    assert answer(exchange, fleet.check_in(), reply_of).field == []
    assert exchange.told, "it is still what was told last"


def test_the_reason_for_the_promoted_version_is_kept_over_a_restart(
    fleet: Any, make: Callable, reply_of: Callable
) -> None:
    answer(make(), fleet.check_in(why="worse in the field"), reply_of)
    exchange = make()
    answer(exchange, fleet.check_in(), reply_of)
    assert exchange.plan.why == "worse in the field", "a check-in without one says nothing about it"
    answer(exchange, fleet.check_in(why="better on the mean"), reply_of)
    assert make().plan.why == "better on the mean"
