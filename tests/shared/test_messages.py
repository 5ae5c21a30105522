import numpy as np
import pytest
from pydantic import ValidationError

from shared.messages import MAX_LABELS, CheckIn, CheckInReply, FieldResult, UpdateHeader
from shared.normalisation import measured

HEADER = {
    "id": "a" * 32,
    "node": "station-a",
    "base_version": 3,
    "base_digest": "0" * 64,
    "sha256": "1" * 64,
    "examples": 100,
    "steps": 16,
    "losses": {"push the red cube to the left": 0.1},
    "metrics": {"eval_loss": 0.2},
    "calibrations": ["2" * 64],
}


def test_a_plain_header_passes():
    assert UpdateHeader.model_validate(HEADER).base_version == 3


@pytest.mark.parametrize(
    "leak",
    [
        {"frames": [[0, 1]]},
        {"node": "/home/anna/armfleet"},
        {"node": "Anna Smith"},
        {"codec": "Anna"},
        {"losses": {"/home/anna/episodes/3": 0.1}},
        {"metrics": {"state": [0.1, 0.2]}},
        {"calibrations": ["shoulder_pan 2047"]},
        {"metrics": {"loss": float("nan")}},
        {"losses": {f"task {n}": 0.0 for n in range(65)}},
        *({name: 10**400} for name in ("examples", "steps", "base_version")),
    ],
)
def test_what_is_not_on_the_allow_list_has_no_field_to_travel_in(leak):
    with pytest.raises(ValidationError):
        UpdateHeader.model_validate(HEADER | leak)


def test_a_header_that_names_no_base_tensors_is_one_of_an_earlier_release_either_way():
    plain = UpdateHeader.model_validate(HEADER)
    assert "base_tensors_digest" not in plain.model_dump(mode="json")
    told = HEADER | {"base_tensors_digest": "3" * 64}
    assert UpdateHeader.model_validate(UpdateHeader.model_validate(told).model_dump()).base_tensors_digest
    with pytest.raises(ValidationError):
        UpdateHeader.model_validate(HEADER | {"base_tensors_digest": "/home/anna"})


def test_a_reply_with_an_unknown_field_is_refused():
    reply = {"check_in": "b" * 32, "node": "a", "activity": "idle", "held": {}}
    assert CheckInReply.model_validate(reply).update is None
    with pytest.raises(ValidationError):
        CheckInReply.model_validate(reply | {"host": "anna-pc"})


def test_a_reply_without_statistics_is_one_that_an_earlier_release_reads():
    reply = CheckInReply.model_validate({"check_in": "b" * 32, "node": "a", "activity": "idle", "held": {}})
    assert "statistics" not in reply.model_dump(mode="json")
    rows = np.random.default_rng(0).normal(0, 30, (200, 6))
    told = reply.model_copy(update={"statistics": measured(rows, rows)})
    assert CheckInReply.model_validate(told.model_dump(mode="json")) == told


@pytest.mark.parametrize(
    "leak",
    [
        {"labels": "10 2"},
        {"labels": "1" * (MAX_LABELS + 1)},
        {"task": "see /home/anna/rollouts"},
        {"rollouts": ["20261127-153000-ab12cd"]},
        {"unsafe": -1},
        *({name: 10**400} for name in ("unsafe", "interventions", "version")),
        {"interventions": 0.5},
        {"states": [[0.1] * 6]},
    ],
)
def test_of_a_rollout_only_its_task_its_label_and_counts_can_leave(leak):
    told = {"version": 1, "task": "push the red cube", "labels": "1101", "interventions": 1, "unsafe": 0}
    reply = {"check_in": "b" * 32, "node": "a", "activity": "idle", "held": {}, "field": [told]}
    assert CheckInReply.model_validate(reply).field == [FieldResult.model_validate(told)]
    with pytest.raises(ValidationError):
        CheckInReply.model_validate(reply | {"field": [told | leak]})


def test_a_check_in_that_asks_about_no_rollouts_is_one_that_an_earlier_release_reads():
    fields = {"id": "a" * 32, "fleet": "lab", "sent_at": "2026-01-01T00:00:00Z", "base_digest": "0" * 64}
    plain = CheckIn.model_validate(fields)
    assert not {"judged", "why"} & set(plain.model_dump(mode="json"))
    asking = plain.model_copy(update={"judged": [], "why": "worse in the field (50 %)"})
    assert CheckIn.model_validate(asking.model_dump(mode="json")) == asking


@pytest.mark.parametrize("why", ["\x1b[2J", "two\nlines", "x" * 1001])
def test_a_reason_is_one_line_that_does_nothing_to_a_terminal(why):
    fields = {"id": "a" * 32, "fleet": "lab", "sent_at": "2026-01-01T00:00:00Z", "base_digest": "0" * 64}
    with pytest.raises(ValidationError):
        CheckIn.model_validate(fields | {"why": why})
