import numpy as np
import pytest
from pydantic import ValidationError

from shared.messages import CheckInReply, UpdateHeader
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
    ],
)
def test_what_is_not_on_the_allow_list_has_no_field_to_travel_in(leak):
    with pytest.raises(ValidationError):
        UpdateHeader.model_validate(HEADER | leak)


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
