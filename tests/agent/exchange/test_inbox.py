"""Versions on their way in: what TUF does not vouch for, or what does not fit, is never unpacked."""

import json
import os
import shutil
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.exchange.fit import base_shapes
from agent.exchange.inbox import HISTORY, Inbox
from agent.exchange.trust import TrustedMetadata
from shared.adapters import read_adapter
from shared.messages import Held
from shared.normalisation import measured

SLOTS = ("promoted", "candidate")


def make_inbox(fleet: Any, home: Path) -> Inbox:
    trust = TrustedMetadata(home / "tuf", fleet.publisher.root, fleet.clock)
    shapes = base_shapes(fleet.base)
    return Inbox(trust, home / "tuf", home / "adapters", fleet.base_digest, shapes, fleet.clock)


def held(inbox: Inbox) -> Held:
    return Held(adapters=inbox.held_adapters(), tuf=inbox.held_metadata())  # type: ignore[arg-type]


@pytest.fixture
def inbox(fleet: Any, tmp_path: Path) -> Inbox:
    return make_inbox(fleet, tmp_path / "agent")


def versions(inbox: Inbox) -> dict[str, int]:
    return {slot: accepted.version for slot, accepted in inbox.slots.items()}


def test_versions_arrive_whole_and_the_same_bytes_are_never_sent_twice(fleet: Any, inbox: Inbox) -> None:
    fleet.publish(promoted=fleet.offer(1), candidate=fleet.offer(2))
    outcome = inbox.accept(fleet.bundle(held(inbox)), SLOTS)
    assert outcome.changed == ["candidate", "promoted"]
    assert outcome.sentence == ""
    assert versions(inbox) == {"promoted": 1, "candidate": 2}
    tensors, _, manifest = read_adapter(inbox.folder(inbox.slots["candidate"]))
    assert manifest is not None
    assert manifest.tensors_digest == inbox.slots["candidate"].tensors_digest
    assert len(tensors) == 4
    again = fleet.bundle(held(inbox))
    assert set(again) == {"timestamp.json"}
    assert inbox.accept(again, SLOTS).changed == []


def test_check_in_without_news_writes_nothing(fleet: Any, inbox: Inbox, tmp_path: Path) -> None:
    fleet.publish(candidate=fleet.offer(1))
    inbox.accept(fleet.bundle(), SLOTS)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "agent").rglob("*") if p.is_file()}
    inbox.accept(fleet.bundle(held(inbox)), SLOTS)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "agent").rglob("*") if p.is_file()} == before


def test_promotion_of_a_held_candidate_needs_no_bytes(fleet: Any, inbox: Inbox) -> None:
    offer = fleet.offer(3)
    fleet.publish(candidate=offer)
    inbox.accept(fleet.bundle(), SLOTS)
    fleet.publish(promoted=offer)
    bundle = fleet.bundle(held(inbox))
    assert not [name for name in bundle if name.endswith(".promoted")]
    inbox.accept(bundle, SLOTS)
    assert versions(inbox) == {"promoted": 3, "candidate": 3}


def test_roll_back_by_the_operator_works_without_resending(fleet: Any, inbox: Inbox) -> None:
    first, second = fleet.offer(1), fleet.offer(2)
    for offer in (first, second):
        fleet.publish(promoted=offer)
        inbox.accept(fleet.bundle(held(inbox)), SLOTS)
    fleet.publish(promoted=first)
    bundle = fleet.bundle(held(inbox))
    assert not [name for name in bundle if not name.endswith(".json")]
    inbox.accept(bundle, SLOTS)
    assert versions(inbox) == {"promoted": 1}


def test_the_same_tensors_with_other_statistics_are_another_version(fleet: Any, inbox: Inbox) -> None:
    own = measured(*np.random.default_rng(0).normal(0, 30, (2, 200, 6)))
    fleet.publish(promoted=fleet.offer(0), candidate=fleet.offer(1, normalisation=own, seed=0))
    assert inbox.accept(fleet.bundle(), SLOTS).sentence == ""
    folders = {slot: inbox.folder(accepted) for slot, accepted in inbox.slots.items()}
    assert folders["promoted"] != folders["candidate"]
    manifests = {slot: read_adapter(folder)[2] for slot, folder in folders.items()}
    assert manifests["promoted"].normalisation is None
    assert manifests["candidate"].normalisation == own


def test_version_for_another_base_is_refused_and_the_other_slot_accepted(fleet: Any, inbox: Inbox) -> None:
    fleet.publish(promoted=fleet.offer(1), candidate=fleet.offer(2, base_digest="b" * 64))
    outcome = inbox.accept(fleet.bundle(), SLOTS)
    assert versions(inbox) == {"promoted": 1}
    assert "version 2 is for the base bbbbbbbbbbbb" in outcome.sentence


def test_tensors_that_do_not_fit_the_base_are_refused(fleet: Any, inbox: Inbox, tmp_path: Path) -> None:
    fleet.publish(candidate=fleet.offer(1, columns=7))
    outcome = inbox.accept(fleet.bundle(), SLOTS)
    assert versions(inbox) == {}
    assert "has shape [2, 7], the base needs [2, 6]" in outcome.sentence
    assert list((tmp_path / "agent" / "adapters").iterdir()) == []


def test_altered_adapter_is_refused_and_asked_for_again(fleet: Any, inbox: Inbox) -> None:
    fleet.publish(candidate=fleet.offer(1))
    bundle = fleet.bundle()
    name = next(name for name in bundle if name.endswith(".candidate"))
    bundle[name] = bundle[name][:-1] + bytes([bundle[name][-1] ^ 1])
    assert "not the one that was signed" in inbox.accept(bundle, SLOTS).sentence
    assert held(inbox).adapters == []
    assert inbox.accept(fleet.bundle(held(inbox)), SLOTS).changed == ["candidate"]


def test_older_metadata_is_refused_as_a_roll_back_by_an_attacker(fleet: Any, inbox: Inbox) -> None:
    fleet.publish(promoted=fleet.offer(1))
    old = fleet.bundle()
    fleet.publish(promoted=fleet.offer(2))
    inbox.accept(fleet.bundle(), SLOTS)
    outcome = inbox.accept(old, SLOTS)
    assert "was not accepted" in outcome.sentence
    assert versions(inbox) == {"promoted": 2}
    assert inbox.accept(fleet.bundle(held(inbox)), SLOTS).sentence == ""


def test_forged_metadata_is_refused(fleet: Any, inbox: Inbox) -> None:
    fleet.publish(promoted=fleet.offer(1))
    inbox.accept(fleet.bundle(), SLOTS)
    fleet.publish(promoted=fleet.offer(9))
    bundle = fleet.bundle(held(inbox))
    name = next(name for name in bundle if name.endswith(".targets.json"))
    forged = json.loads(bundle[name])
    forged["signed"]["targets"]["promoted"]["custom"]["version"] = 7
    bundle[name] = json.dumps(forged).encode()
    assert inbox.accept(bundle, SLOTS).refused.keys() == {"all"}
    assert versions(inbox) == {"promoted": 1}


def test_fleet_with_another_root_is_refused(fleet: Any, inbox: Inbox, tmp_path: Path) -> None:
    other = type(fleet)(tmp_path / "other")
    other.publish(promoted=other.offer(1))
    outcome = inbox.accept(other.bundle(), SLOTS)
    assert versions(inbox) == {}
    assert "was not accepted" in outcome.sentence


def test_coordinator_away_for_a_month_leaves_what_was_accepted_in_use(
    fleet: Any, inbox: Inbox, tmp_path: Path
) -> None:
    fleet.publish(promoted=fleet.offer(1))
    stale = fleet.bundle()
    inbox.accept(stale, SLOTS)
    fleet.offset = timedelta(days=30)
    after = make_inbox(fleet, tmp_path / "agent")
    assert versions(after) == {"promoted": 1}
    assert after.folder(after.slots["promoted"]).is_dir()
    refusal = after.accept(stale, SLOTS).sentence
    assert "the timestamp held expired at" in refusal
    assert "this clock says" in refusal
    fleet.publisher.renew()
    assert after.accept(fleet.bundle(held(after)), SLOTS).sentence == ""


def test_expired_cache_is_replaced_after_one_refusal(fleet: Any, inbox: Inbox) -> None:
    """All held metadata has expired, the coordinator believes that it is held: after the refusal all is
    resent."""
    fleet.publish(promoted=fleet.offer(1))
    inbox.accept(fleet.bundle(), SLOTS)
    fleet.offset = timedelta(days=100)
    fleet.publisher.renew()
    partial = {"timestamp.json": fleet.bundle(held(inbox))["timestamp.json"]}
    assert inbox.accept(partial, SLOTS).sentence
    assert {k: v for k, v in inbox.held_metadata().items() if k != "root"} == dict.fromkeys(
        ("timestamp", "snapshot", "targets", "candidate"), 0
    )
    assert inbox.accept(fleet.bundle(held(inbox)), SLOTS).sentence == ""


def test_previous_versions_stay_and_older_ones_go(fleet: Any, inbox: Inbox, tmp_path: Path) -> None:
    first = None
    for version in range(HISTORY + 4):
        fleet.publish(promoted=fleet.offer(version))
        inbox.accept(fleet.bundle(held(inbox)), SLOTS)
        first = first or inbox.slots["promoted"]
    assert first is not None
    inbox.prune([first.tensors_digest])
    assert inbox.folder(first).is_dir(), "in use"
    kept = [path.name for path in (tmp_path / "agent" / "adapters").iterdir()]
    assert len(kept) == HISTORY + 2
    inbox.prune([])
    assert not inbox.folder(first).is_dir()


def test_what_was_promoted_before_outlives_any_number_of_candidates(
    fleet: Any, inbox: Inbox, tmp_path: Path
) -> None:
    first = fleet.offer(1)
    fleet.publish(promoted=first)
    inbox.accept(fleet.bundle(held(inbox)), SLOTS)
    fleet.publish(promoted=fleet.offer(2), previous=first)
    for version in range(3, 3 + HISTORY + 3):
        fleet.publish(candidate=fleet.offer(version))
        inbox.accept(fleet.bundle(held(inbox)), SLOTS)
        inbox.prune([])
    after = make_inbox(fleet, tmp_path / "agent")
    after.prune([])
    fleet.publish(promoted=first, previous=None)
    bundle = fleet.bundle(held(after))
    assert not [name for name in bundle if not name.endswith(".json")]
    assert after.accept(bundle, SLOTS).sentence == ""
    assert versions(after)["promoted"] == 1


def test_folder_removed_by_hand_is_fetched_again(fleet: Any, inbox: Inbox) -> None:
    fleet.publish(promoted=fleet.offer(1))
    inbox.accept(fleet.bundle(), SLOTS)
    shutil.rmtree(inbox.folder(inbox.slots["promoted"]))
    inbox.accept(fleet.bundle(held(inbox)), SLOTS)
    assert inbox.folder(inbox.slots["promoted"]).is_dir()


@pytest.mark.parametrize("delay_ms", [0, 1, 2, 4, 6, 9, 13])
def test_kill_while_a_version_is_being_accepted_is_repaired_by_the_next_check_in(
    fleet: Any, tmp_path: Path, delay_ms: int
) -> None:
    home = tmp_path / "agent"
    fleet.publish(promoted=fleet.offer(1), candidate=fleet.offer(1))
    make_inbox(fleet, home).accept(fleet.bundle(), SLOTS)
    fleet.publish(promoted=fleet.offer(2), candidate=fleet.offer(3))
    message = fleet.bundle()
    child = os.fork()
    if child == 0:
        make_inbox(fleet, home).accept(message, SLOTS)
        os._exit(0)
    time.sleep(delay_ms / 1000)  # the instant is what the test varies, nothing is waited for
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    after = make_inbox(fleet, home)
    assert versions(after)["promoted"] in (1, 2)
    for accepted in after.slots.values():
        read_adapter(after.folder(accepted))
    outcome = after.accept(fleet.bundle(held(after)), SLOTS)
    assert outcome.sentence == ""
    assert versions(after) == {"promoted": 2, "candidate": 3}
