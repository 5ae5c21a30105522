"""Pure parts of the exchange: who is due, what is accepted, which learning rate."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.exchange.intake import Expected, check_update, read_reply
from coordinator.exchange.plan import Contact, Pace, due, expired
from coordinator.exchange.schedule import learning_rate
from shared.codec import encode
from shared.envelope import pack
from shared.errors import ArmfleetError
from shared.files import sha256
from shared.messages import CheckInReply, Held
from shared.recipe import Recipe

PACE = Pace(check_in_s=10, ttl_s=100, max_in_flight=2)
ID = "c" * 32
BASE = "ba5e" * 16


def test_a_new_node_goes_before_all_others():
    contacts = {1: Contact(last_sent=0), 2: Contact(), 3: Contact(last_sent=50)}
    assert due(contacts, [1, 2, 3], 60, PACE) == [2, 1]


def test_a_node_is_not_asked_twice_at_once_or_too_soon():
    contacts = {1: Contact(last_sent=0, in_flight=True), 2: Contact(last_sent=55)}
    assert due(contacts, [1, 2], 60, PACE) == []


def test_nodes_that_are_offline_or_not_enrolled_are_left_alone():
    assert due({1: Contact()}, [2], 60, PACE) == []


def test_an_answer_that_never_comes_expires():
    contacts = {1: Contact(last_sent=0, in_flight=True), 2: Contact(last_sent=50, in_flight=True)}
    assert expired(contacts, 101, PACE) == [1]


@given(
    st.dictionaries(
        st.integers(0, 20), st.builds(Contact, st.none() | st.floats(0, 100), st.booleans()), max_size=12
    ),
    st.integers(1, 5),
)
def test_never_more_in_flight_than_allowed_and_never_two_per_node(contacts, limit):
    asked = due(contacts, list(contacts), 100, Pace(10, 100, limit))
    assert len(set(asked)) == len(asked)
    flying = sum(contact.in_flight for contact in contacts.values())
    assert flying + len(asked) <= max(limit, flying)
    assert not any(contacts[node].in_flight for node in asked)


def reply(**changes):
    fields = {"check_in": ID, "node": "arm-a", "activity": "idle", "held": Held()}
    return CheckInReply(**{**fields, **changes})


def test_a_reply_without_an_update_is_normal():
    answer, delta = read_reply(pack(reply()), "arm-a", ID)
    assert answer.update is None
    assert delta is None


def test_a_reply_with_an_update_brings_its_delta(make_update):
    header, data = make_update()
    answer, delta = read_reply(pack(reply(update=header), {"delta": data}), "arm-a", ID)
    assert answer.update == header
    assert delta == data


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (pack({**reply().model_dump(mode="json"), "frame": "AAAA"}), "allow-list"),
        (pack({**reply().model_dump(mode="json"), "activity": "/home/ada"}), "allow-list"),
        (pack(reply(), {"frame": b"jpeg"}), "binary parts"),
        (pack(reply(node="arm-b")), "in the name of arm-b"),
        (pack(reply(check_in="d" * 32)), "asked was"),
        (b"\x00", "could not be read"),
    ],
    ids=["unknown field", "free text", "extra blob", "other's name", "other check-in", "garbage"],
)
def test_what_is_not_on_the_allow_list_is_refused(data, reason):
    with pytest.raises(ArmfleetError, match=reason):
        read_reply(data, "arm-a", ID)


@pytest.fixture
def expected(tensors):
    return Expected(BASE, [0, 1], tensors)


@pytest.mark.parametrize("codec", ["fp16-zstd", "int4-zstd"])
def test_a_good_update_passes(make_update, expected, codec):
    check_update(*make_update(codec=codec), "arm-a", expected)


@pytest.mark.parametrize(
    ("said", "reason"), [("fp16-zstd", "do not fit its codec"), ("int2-zstd", "not known")]
)
def test_an_update_in_another_codec_than_it_says_is_refused(make_update, expected, said, reason):
    header, delta = make_update(codec="int4-zstd")
    with pytest.raises(ArmfleetError, match=reason):
        check_update(header.model_copy(update={"codec": said}), delta, "arm-a", expected)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"base_digest": "f" * 64}, "for the base ffffffffffff"),
        ({"base_version": 7}, "version 7, unknown here"),
        ({"sha256": "0" * 64}, "damaged on its way"),
        ({"node": "arm-b"}, "of arm-b was sent by arm-a"),
        ({"shapes": {"other": (2, 2)}}, "do not fit"),
    ],
)
def test_an_update_that_does_not_fit_is_refused_with_a_sentence(make_update, expected, changes, reason):
    header, delta = make_update(**{"node": "arm-a", **changes})
    with pytest.raises(ArmfleetError, match=reason):
        check_update(header, delta, "arm-a", expected)


def test_an_update_from_another_version_of_the_same_number_is_refused(make_update, tensors):
    """Of another fleet, or from before the registry was restored; an earlier release does not tell."""
    ours = Expected(BASE, [0, 1], tensors, base_tensors_digest="a" * 64)
    for told in ("a" * 64, ""):
        check_update(*make_update(base_tensors_digest=told), "arm-a", ours)
    with pytest.raises(ArmfleetError, match="another version 0 than this fleet's: tensors bbbbbbbbbbbb"):
        check_update(*make_update(base_tensors_digest="b" * 64), "arm-a", ours)


def test_an_update_in_other_units_is_refused(make_update, tensors):
    later = Expected(BASE, [0, 1, 2], tensors, first=1)
    check_update(*make_update(base_version=1), "arm-a", later)
    with pytest.raises(ArmfleetError, match="version 0, whose normalisation is the base's own"):
        check_update(*make_update(base_version=0), "arm-a", later)


def test_numbers_that_are_not_finite_are_refused(make_update, expected, tensors):
    from safetensors.numpy import save
    from zstandard import ZstdCompressor

    halves = {name: np.full_like(array, np.nan, dtype=np.float16) for name, array in tensors.items()}
    data = ZstdCompressor().compress(save(halves))
    header, _ = make_update(sha256=sha256(data))
    with pytest.raises(ArmfleetError, match="not finite"):
        check_update(header, data, "arm-a", expected)


def test_a_truncated_delta_is_refused(make_update, expected, tensors):
    data = encode(tensors, "fp16-zstd")[:-10]
    header, _ = make_update(sha256=sha256(data))
    with pytest.raises(ArmfleetError, match="can't be read"):
        check_update(header, data, "arm-a", expected)


def test_the_learning_rate_falls_as_a_cosine_to_a_twentieth():
    recipe = Recipe(learning_rate=2e-3)
    assert learning_rate(recipe, 0, 60) == pytest.approx(2e-3)
    assert learning_rate(recipe, 30, 60) == pytest.approx(2e-3 * (0.5 * 0.95 + 0.05))
    assert learning_rate(recipe, 60, 60) == pytest.approx(1e-4)
    assert learning_rate(recipe, 900, 60) == pytest.approx(1e-4)
    rates = [learning_rate(recipe, r, 60) for r in range(61)]
    assert all(a > b for a, b in itertools.pairwise(rates))
    assert not any(math.isnan(rate) for rate in rates)


def test_a_constant_schedule_keeps_the_peak():
    recipe = Recipe(learning_rate=2e-3, schedule="constant")
    assert {learning_rate(recipe, r, 60) for r in range(70)} == {2e-3}
