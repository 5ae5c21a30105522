"""The wire format of the emulated bus."""

from hypothesis import given
from hypothesis import strategies as st

from sim.packets import Packet, PacketParser, checksum, encode_instruction, encode_status

packets = st.builds(
    Packet,
    servo_id=st.integers(0, 0xFE),
    instruction=st.integers(1, 0x83),
    parameters=st.binary(max_size=40),
)


@given(st.lists(packets, max_size=5), st.lists(st.integers(1, 20), min_size=1))
def test_packets_survive_any_split_of_the_stream(sent: list[Packet], sizes: list[int]) -> None:
    stream = b"".join(map(encode_instruction, sent))
    parser, received, at, turn = PacketParser(), [], 0, 0
    while at < len(stream):
        size = sizes[turn % len(sizes)]
        received += parser.feed(stream[at : at + size])
        at, turn = at + size, turn + 1
    assert received == sent
    assert not parser.pending


@given(packets, st.integers(0, 200), st.integers(1, 255))
def test_a_damaged_byte_never_yields_another_packet_with_a_good_checksum(
    packet: Packet, position: int, flip: int
) -> None:
    frame = bytearray(encode_instruction(packet))
    frame[position % len(frame)] ^= flip
    for found in PacketParser().feed(bytes(frame)):
        assert found != packet


@given(st.binary(max_size=30).filter(lambda noise: 0xFF not in noise), packets)
def test_noise_before_a_packet_is_skipped(noise: bytes, packet: Packet) -> None:
    assert PacketParser().feed(noise + encode_instruction(packet)) == [packet]


def test_a_wrong_checksum_is_counted() -> None:
    frame = bytearray(encode_instruction(Packet(1, 1, b"")))
    frame[-1] ^= 1
    parser = PacketParser()
    assert parser.feed(bytes(frame)) == []
    assert parser.damaged == 1


def test_a_status_packet_as_in_the_manual() -> None:
    # SCS communication protocol, ping of servo 1: FF FF 01 02 00 FC
    assert encode_status(1, 0) == bytes([0xFF, 0xFF, 0x01, 0x02, 0x00, 0xFC])
    assert checksum(bytes([1, 2, 1])) == 0xFB
