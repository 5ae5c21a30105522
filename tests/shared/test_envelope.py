import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import envelope
from shared.errors import ArmfleetError

headers = st.dictionaries(st.text(), st.one_of(st.integers(-(2**53), 2**53), st.text(), st.booleans()))
blobs = st.dictionaries(st.text(min_size=1), st.binary())


@given(headers, blobs)
def test_round_trip(header, parts):
    assert envelope.unpack(envelope.pack(header, parts)) == (header, parts)


@given(st.binary(max_size=200))
def test_noise_is_refused_with_a_sentence(data):
    with pytest.raises(ArmfleetError):
        envelope.unpack(data)


@given(st.integers(1, 30), blobs.filter(bool))
def test_a_cut_message_is_refused(cut, parts):
    data = envelope.pack({"a": 1}, parts)
    with pytest.raises(ArmfleetError):
        envelope.unpack(data[: -min(cut, len(data) - 1)])


def test_an_oversized_message_is_refused_before_it_is_read():
    left, right = socket.socketpair()
    with left, right:
        left.sendall(envelope.LENGTH.pack(2**31))
        with pytest.raises(ArmfleetError, match="over the limit"):
            envelope.recv(right)


def test_the_end_of_a_stream_is_none_between_messages_and_an_error_inside_one():
    left, right = socket.socketpair()
    with right:
        with left:
            envelope.send(left, {"op": "status"}, {"x": b"1"})
            left.sendall(b"\x09\x00")
        assert envelope.recv(right) == ({"op": "status"}, {"x": b"1"})
        with pytest.raises(ArmfleetError, match="middle"):
            envelope.recv(right)
        assert envelope.recv(right) is None
