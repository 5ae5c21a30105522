"""Synchronous reads that know which request a reply belongs to, which joint failed, and its error byte.

Replies of the Feetech bus carry no number: after a stall of the line, an answer to an earlier request looks
like the answer to this one. So each read asks for 0 to 7 bytes more than it needs, one length after the
other, and a reply of another length is an old one. (Feetech's own SDK reads up to 15 bytes from address
56 at once.) It costs 0.2 ms a read on the line at 1 Mbaud.

`TaggedSyncRead` takes the place of `sync_reader` in LeRobot's bus, whose own one gives up at the first joint
that fails and throws the error bytes away. No torch, no LeRobot.
"""

import time
from collections.abc import Iterator
from typing import Any

import scservo_sdk
from scservo_sdk.protocol_packet_handler import PKT_ERROR, PKT_ID, PKT_LENGTH, PKT_PARAMETER0

from agent.robot.counters import BusCounters, JointCounters
from agent.robot.health import ADDRESS, LENGTH, Health, decode
from agent.robot.joints import JOINTS

TAGS = 8
"""Lengths before one returns. A request is given up after at least 50 ms and a search after 0.8 s, so
that the line would have to hold a reply back for longer than any search lasts."""
EXTRA = 2
"""`length` in a status packet counts the error byte and the checksum as well as the data."""
OVERHEAD = 6
"""Bytes of a status packet around its data."""
POLL_S = 0.0003
HEADER = b"\xff\xff"


class TaggedSyncRead(scservo_sdk.GroupSyncRead):
    """`GroupSyncRead` of the SDK with tagged requests; same interface.

    Attributes:
        errors: Error byte of each joint's last good reply, in the order of JOINTS.
        silent: The last read ended because replies did not come (not because they were damaged).

    Args:
        port: The SDK's port handler.
        packets: The SDK's packet handler.
        counters: Where to count.
    """

    def __init__(self, port: Any, packets: Any, counters: BusCounters) -> None:
        super().__init__(port, packets, 0, 0)
        self._counters = counters
        self._tag = 0
        self.errors = [0] * len(JOINTS)
        self.silent = False

    @property
    def _wanted(self) -> int:
        return self.data_length + self._tag

    def txPacket(self) -> int:
        """Send the request under the next tag."""
        self._tag = (self._tag + 1) % TAGS
        self.makeParam()
        return self.ph.syncReadTx(self.port, self.start_address, self._wanted, self.param, len(self.param))

    def rxPacket(self) -> int:
        """Take replies until each joint has answered, well or badly, or the time-out has passed."""
        missing, damaged = set(self.data_dict), False
        self.silent = False
        while missing:
            packet, result = self.ph.rxPacket(self.port)
            servo: int = packet[PKT_ID] if len(packet) > PKT_ID else 0
            if result == scservo_sdk.COMM_SUCCESS and servo in missing:
                if packet[PKT_LENGTH] - EXTRA != self._wanted:
                    self._of(servo).stale += 1
                    continue
                self.data_dict[servo] = packet[PKT_PARAMETER0 : PKT_PARAMETER0 + self._wanted]
                self.errors[servo - 1] = packet[PKT_ERROR]
                missing.discard(servo)
            elif result == scservo_sdk.COMM_RX_CORRUPT:
                damaged = True
                if servo in missing:
                    self._of(servo).checksum += 1
                    self._of(servo).retries += 1
                    missing.discard(servo)
            elif result != scservo_sdk.COMM_SUCCESS:
                break
        for servo in missing:
            self._of(servo).timeouts += 1
            self._of(servo).retries += 1
        if missing:
            self.silent = True
            return scservo_sdk.COMM_RX_TIMEOUT
        return scservo_sdk.COMM_RX_CORRUPT if damaged else scservo_sdk.COMM_SUCCESS

    def flush(self) -> None:
        """Throw away what has come before a request, counting whose replies it was."""
        serial = self.port.ser
        old = serial.read(serial.in_waiting)
        serial.reset_input_buffer()
        self.port.is_using = False  # an exception in the middle of a transaction leaves it set
        self._counters.stale_bytes += len(old)
        for servo in _replies(old):
            self._of(servo).stale += 1

    def probe(self, joint: int, limit_s: float) -> Health | None:
        """Health of one joint (0..5), or None if it is not there within `limit_s`: an answer that comes later
        is recognised as stale by its length. Much shorter than the driver's time-out, for a loop's pause.
        """
        deadline = time.monotonic() + limit_s
        self.flush()
        if self.ph.readTx(self.port, joint + 1, ADDRESS, LENGTH) != scservo_sdk.COMM_SUCCESS:
            return None
        self.port.setPacketTimeoutMillis(1e3 * limit_s)
        while self.port.ser.in_waiting < LENGTH + OVERHEAD:
            if time.monotonic() > deadline:
                self.port.is_using = False
                return None
            time.sleep(POLL_S)
        packet, result = self.ph.rxPacket(self.port)
        if result == scservo_sdk.COMM_RX_CORRUPT:
            self._of(joint + 1).checksum += 1
        if result != scservo_sdk.COMM_SUCCESS or packet[PKT_ID] != joint + 1:
            return None
        if packet[PKT_LENGTH] - EXTRA != LENGTH:
            return None
        self.errors[joint] = packet[PKT_ERROR]
        return decode(bytes(packet[PKT_PARAMETER0 : PKT_PARAMETER0 + LENGTH]), packet[PKT_ERROR])

    def _of(self, servo: int) -> JointCounters:
        return self._counters.joints[JOINTS[servo - 1]]


def _replies(data: bytes) -> Iterator[int]:
    """Ids of the packets that begin in `data`."""
    at = data.find(HEADER)
    while 0 <= at < len(data) - 2:
        if 1 <= data[at + 2] <= len(JOINTS):
            yield data[at + 2]
        at = data.find(HEADER, at + 2)
