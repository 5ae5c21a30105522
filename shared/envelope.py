"""The one binary format of armfleet: a JSON header and named blobs.

Flower messages, bodies on the Unix sockets and worker channels all carry it:

    u32 length of the header | header (JSON, UTF-8) | blob | blob | …      (little endian)

The header holds the caller's fields under "header" and the blobs' names and sizes, in order, under "blobs".
Nothing in it is executable; a damaged or oversized envelope is refused before anything is allocated.
"""

import json
import socket
import struct
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from shared.errors import ArmfleetError
from shared.limits import MAX_MESSAGE_BYTES

LENGTH = struct.Struct("<I")


def pack(header: BaseModel | Mapping[str, Any], blobs: Mapping[str, bytes] | None = None) -> bytes:
    """Join `header` and `blobs` into one byte string."""
    blobs = blobs or {}
    fields = header.model_dump(mode="json") if isinstance(header, BaseModel) else dict(header)
    sizes = [[name, len(blob)] for name, blob in blobs.items()]
    head = json.dumps({"header": fields, "blobs": sizes}, separators=(",", ":")).encode()
    return b"".join([LENGTH.pack(len(head)), head, *blobs.values()])


def unpack(data: bytes, max_bytes: int = MAX_MESSAGE_BYTES) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Inverse of `pack`.

    Raises:
        ArmfleetError: too large, cut short, with bytes left over, or not an envelope at all.
    """
    if len(data) > max_bytes:
        raise ArmfleetError(f"a message of {len(data)} bytes is over the limit of {max_bytes}")
    try:
        (size,) = LENGTH.unpack_from(data)
        head = json.loads(data[4 : 4 + size])
        header, sizes = head["header"], head["blobs"]
        blobs, offset = {}, 4 + size
        for name, length in sizes:
            if not isinstance(name, str) or not isinstance(length, int) or length < 0:
                raise ValueError("malformed blob table")
            blobs[name] = data[offset : offset + length]
            offset += length
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise ArmfleetError(f"a message could not be read ({error})", do="send it again") from error
    if offset != len(data) or not isinstance(header, dict):
        raise ArmfleetError(
            f"a message is {len(data)} bytes long where its table says {offset}", do="send it again"
        )
    return header, blobs


def send(
    sock: socket.socket, header: BaseModel | Mapping[str, Any], blobs: Mapping[str, bytes] | None = None
) -> None:
    """Write one length-prefixed envelope to a stream socket."""
    data = pack(header, blobs)
    sock.sendall(LENGTH.pack(len(data)) + data)


def recv(
    sock: socket.socket, max_bytes: int = MAX_MESSAGE_BYTES
) -> tuple[dict[str, Any], dict[str, bytes]] | None:
    """Read one envelope; None when the peer has closed the stream between two envelopes.

    Raises:
        ArmfleetError: the stream ended inside an envelope, or the envelope is damaged or too large.
        TimeoutError: the socket has a time-out and it passed.
    """
    prefix = _exactly(sock, LENGTH.size)
    if prefix is None:
        return None
    (size,) = LENGTH.unpack(prefix)
    if size > max_bytes:
        raise ArmfleetError(f"a message of {size} bytes is over the limit of {max_bytes}")
    data = _exactly(sock, size)
    if data is None:
        raise ArmfleetError("the connection closed in the middle of a message")
    return unpack(data, max_bytes)


def _exactly(sock: socket.socket, count: int) -> bytes | None:
    parts, missing = [], count
    while missing:
        part = sock.recv(min(missing, 1 << 20))
        if not part:
            if missing == count:
                return None
            raise ArmfleetError("the connection closed in the middle of a message")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
