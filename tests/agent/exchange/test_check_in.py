"""The answer to a check-in: built from state alone, and nothing leaves that the allow-list does not name."""

import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.activity import Activity
from agent.exchange import check_in
from agent.exchange.check_in import NodeState, check_leaving, wire_sentence
from shared.envelope import pack, unpack
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.files import sha256
from shared.messages import CheckIn, CheckInReply, FieldResult, Health, Held, UpdateHeader

BASE = "a" * 64


def request(**fields: Any) -> CheckIn:
    values = {"id": uuid.uuid4().hex, "fleet": "lab", "sent_at": datetime.now(UTC), "base_digest": BASE}
    return CheckIn.model_validate({**values, **fields})


def state(**fields: Any) -> NodeState:
    values = {
        "node": "station-a",
        "fleet": "lab",
        "base_digest": BASE,
        "activity": Activity.IDLE,
        "held": Held(),
        "health": Health(),
    }
    return NodeState(**{**values, **fields})


def update(delta: bytes = b"delta", node: str = "station-a") -> tuple[UpdateHeader, bytes]:
    header = UpdateHeader(
        id=uuid.uuid4().hex,
        node=node,
        base_version=1,
        base_digest=BASE,
        sha256=sha256(delta),
        examples=10,
        steps=4,
    )
    return header, delta


def test_nothing_yet_is_a_normal_answer() -> None:
    asked = request()
    header, blobs = unpack(check_in.reply(asked, state(), None))
    answer = CheckInReply.model_validate(header)
    assert (answer.check_in, answer.node, answer.update, blobs) == (asked.id, "station-a", None, {})


def test_results_of_rollouts_travel_and_without_any_the_answer_says_that_it_could_tell() -> None:
    told = FieldResult(version=1, task="push the red cube", labels="110")
    header, _ = unpack(check_in.reply(request(), state(field=[told]), None))
    assert header["field"] == [told.model_dump()]
    assert unpack(check_in.reply(request(), state(), None))[0]["field"] == []


def test_update_travels_with_its_delta_and_no_other_blob() -> None:
    header, blobs = unpack(check_in.reply(request(), state(), update()))
    assert blobs == {"delta": b"delta"}
    assert header["update"]["base_version"] == 1


def test_update_of_another_node_is_not_sent() -> None:
    with pytest.raises(ArmfleetError, match="not sent"):
        check_in.reply(request(), state(), update(node="station-b"))


@pytest.mark.parametrize(
    ("extra", "blobs"),
    [
        ({"frames": [1, 2]}, {}),
        ({"update": None}, {"frame": b"\x00"}),
        ({"node": "/home/mia/robot"}, {}),
        ({"refused": "see /home/mia/state"}, {}),
        ({"health": {"workers": {}, "user": "mia"}}, {}),
        ({"field": [{"version": 1, "task": "push", "rollouts": ["20261127-153000-ab12cd"]}]}, {}),
        ({"statistics": {"state": [[1.5] * 6], "action": [[1.5] * 6]}}, {}),
    ],
)
def test_planted_leak_is_stopped_at_the_edge(extra: dict, blobs: dict) -> None:
    header, _ = unpack(check_in.reply(request(), state(), None))
    with pytest.raises(ArmfleetError, match="was stopped"):
        check_leaving(pack({**header, **extra}, blobs))


def test_blob_that_is_not_the_update_is_stopped() -> None:
    header, _ = unpack(check_in.reply(request(), state(), update()))
    with pytest.raises(ArmfleetError, match="was stopped"):
        check_leaving(pack(header, {"delta": b"an image"}))


@given(st.text())
def test_refusal_of_any_text_passes_the_allow_list(text: str) -> None:
    sentence = wire_sentence(text)
    assert "/" not in sentence
    assert "@" not in sentence
    check_in.reply(request(), state(refused=text), None)


def test_refusal_keeps_its_meaning_without_its_paths() -> None:
    text = "version 2 is for the base bbbb, see /var/lib/armfleet/tuf or mia@host"
    assert wire_sentence(text) == "version 2 is for the base bbbb, see or"


def test_check_in_from_another_coordinator_is_refused() -> None:
    check_in.check_origin(request(), "lab")
    with pytest.raises(ArmfleetError) as caught:
        check_in.check_origin(request(fleet="elsewhere"), "lab")
    assert caught.value.code is ExitCode.JOIN_OTHER_COORDINATOR


def test_other_base_is_named_and_the_same_one_is_not() -> None:
    assert check_in.other_base(request(), BASE) == ""
    assert "bbbbbbbbbbbb" in check_in.other_base(request(base_digest="b" * 64), BASE)


def test_check_in_with_an_unknown_field_changes_nothing() -> None:
    header = request().model_dump(mode="json") | {"run": "rm"}
    with pytest.raises(ArmfleetError, match=r"does not follow protocol 1 \(run"):
        check_in.parse(pack(header))
    with pytest.raises(ArmfleetError):
        check_in.parse(b"no envelope")
