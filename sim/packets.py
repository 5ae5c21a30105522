"""Packets of the Feetech bus (protocol 0 of the SDK): pure encoding and decoding.

Instruction packet: `FF FF id length instruction parameters… checksum`; status packet:
`FF FF id length error data… checksum`. `length` counts everything after itself; the checksum is the inverted
sum of all bytes after the header (Feetech, "SCS communication protocol").
"""

from dataclasses import dataclass
from enum import IntEnum

HEADER = b"\xff\xff"
BROADCAST = 0xFE


class Instruction(IntEnum):
    """Instructions an STS3215 answers to."""

    PING = 0x01
    READ = 0x02
    WRITE = 0x03
    REG_WRITE = 0x04
    ACTION = 0x05
    SYNC_READ = 0x82
    SYNC_WRITE = 0x83


@dataclass(frozen=True)
class Packet:
    """One instruction from the bus master."""

    servo_id: int
    instruction: int
    parameters: bytes


def checksum(body: bytes) -> int:
    """Inverted low byte of the sum of `body` (id up to the last parameter)."""
    return ~sum(body) & 0xFF


def encode_instruction(packet: Packet) -> bytes:
    """Bytes a bus master sends."""
    body = bytes([packet.servo_id, len(packet.parameters) + 2, packet.instruction]) + packet.parameters
    return HEADER + body + bytes([checksum(body)])


def encode_status(servo_id: int, error: int, data: bytes = b"") -> bytes:
    """Bytes a servo answers."""
    body = bytes([servo_id, len(data) + 2, error]) + data
    return HEADER + body + bytes([checksum(body)])


class PacketParser:
    """Finds instruction packets in a byte stream; damaged ones are dropped and counted, as a servo does."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.damaged = 0

    @property
    def pending(self) -> bool:
        """Whether the beginning of a packet is waiting for its rest."""
        return bool(self._buffer)

    def forget(self) -> None:
        """Drops an unfinished packet (a servo does so after a pause on the line)."""
        self._buffer.clear()

    def feed(self, data: bytes) -> list[Packet]:
        """Adds received bytes and returns the packets they complete."""
        self._buffer += data
        packets = []
        while (frame := self._next_frame()) is not None:
            if checksum(frame[2:-1]) != frame[-1]:
                self.damaged += 1
                continue
            packets.append(Packet(frame[2], frame[4], bytes(frame[5:-1])))
        return packets

    def _next_frame(self) -> bytes | None:
        """The next complete frame, header included; None when more bytes are needed."""
        while True:
            start = self._buffer.find(HEADER)
            if start < 0:
                # A single FF at the end may be the first half of a header.
                del self._buffer[: len(self._buffer) - self._buffer.endswith(b"\xff")]
                return None
            del self._buffer[:start]
            if len(self._buffer) < 4:
                return None
            if self._buffer[2] == 0xFF:  # a third FF: the header begins one byte later
                del self._buffer[0]
                continue
            length = self._buffer[3]
            if length < 2:
                del self._buffer[:2]
                continue
            if len(self._buffer) < length + 4:
                return None
            frame = bytes(self._buffer[: length + 4])
            del self._buffer[: length + 4]
            return frame
