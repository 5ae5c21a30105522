"""Looks for recordings in what left the workstations.

A *canary* is a run of bytes that exists only because something was recorded: a row of pixels, a row of joint
values, a piece of a recorded file, a name. The scanner looks for every canary at every offset of a byte
stream, and again inside each zstd, gzip and zlib frame and each base64 run that the stream contains, nested
ones too.

What it can't see: recordings that were encrypted, quantised or otherwise transformed before they were sent.
The allow-list in `shared/messages.py` guards against those; this measures that the guard holds.
"""

import base64
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import zstandard

MIN_LENGTH = 8
"""Shorter runs of bytes turn up by chance: 8 bytes in 1 GB of noise once in 10^10 tries."""
DEPTH = 4
MAX_EXPANDED = 512 * 2**20
BLOCK = 4 * 2**20

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
GZIP_MAGIC = b"\x1f\x8b\x08"
ZLIB_MAGIC = re.compile(rb"\x78[\x01\x5e\x9c\xda]")
BASE64 = re.compile(rb"[A-Za-z0-9+/]{16,}|[A-Za-z0-9_-]{16,}")
CLOCK = re.compile(rb"\d\d:\d\d:\d?$")
"""What stands before the seconds of a time of day. Every request carries one, and among ten thousand of them
some have the digits of a joint's value by chance."""
JPEG_SCAN = b"\xff\xda"
"""Start-of-scan marker (ITU T.81, B.2.3); what follows its header is the coded picture itself."""


@dataclass(frozen=True)
class Canary:
    """`needle` must not leave; `kind` is pixel, joint, file or name; `name` says where it was taken from."""

    kind: str
    name: str
    needle: bytes


@dataclass(frozen=True)
class Hit:
    """A canary found in `stream`, `offset` bytes into the part named by `inside` ("raw", "zstd@120")."""

    canary: Canary
    stream: str
    inside: str
    offset: int


@dataclass
class Findings:
    """What a search over all streams gave. `records` is the figure `raw_records_sent` of the report."""

    streams: int = 0
    bytes_read: int = 0
    frames_opened: int = 0
    hits: list[Hit] = field(default_factory=list)

    @property
    def records(self) -> int:
        """Number of different recorded things found: a canary counts once, however often it was sent."""
        return len({(hit.canary.kind, hit.canary.name) for hit in self.hits})


def _usable(needle: bytes) -> bool:
    return len(needle) >= MIN_LENGTH and len(set(needle)) >= 5


def pixel_canaries(name: str, patch: np.ndarray) -> list[Canary]:
    """Canaries of a picture patch.

    Args:
        name: Where the patch comes from.
        patch: (height, width, 3) uint8, at least 4 pixels wide.

    Returns:
        Per row and per channel: the raw bytes, and float32 in the scales 0..1 and -1..1 (what LeRobot's
        pre-processing makes of pixels), interleaved (HWC) and planar (CHW).
    """
    if patch.dtype != np.uint8 or patch.ndim != 3:
        raise ValueError(f"a patch is (height, width, 3) uint8, not {patch.shape} {patch.dtype}")
    unit = patch.astype(np.float32) / np.float32(255)
    planes = {"uint8": patch, "float32": unit, "float32 centred": unit * np.float32(2) - np.float32(1)}
    needles = [
        row.tobytes()
        for plane in planes.values()
        for rows in (plane, np.moveaxis(plane, -1, 0).reshape(-1, plane.shape[1]))
        for row in rows
    ]
    return [Canary("pixel", name, needle) for needle in dict.fromkeys(needles) if _usable(needle)]


def jpeg_canaries(name: str, jpeg: bytes, length: int = 24) -> list[Canary]:
    """Two pieces of the coded picture: just behind the scan header, and from its middle."""
    start = jpeg.find(JPEG_SCAN)
    if start < 0:
        raise ValueError("not a JPEG: it has no start of scan")
    body = start + 2 + int.from_bytes(jpeg[start + 2 : start + 4])
    middle = body + (len(jpeg) - body) // 2
    pieces = [jpeg[offset : offset + length] for offset in (body, middle)]
    return [Canary("pixel", name, piece) for piece in pieces if _usable(piece)]


def file_canaries(name: str, data: bytes, length: int = 32, every: int = 2048) -> list[Canary]:
    """A piece of a recorded file (video, parquet) every `every` bytes: a copy of any 2 kB of it is found."""
    pieces = (data[offset : offset + length] for offset in range(0, len(data), every))
    return [Canary("file", name, piece) for piece in pieces if _usable(piece)]


def joint_canaries(name: str, rows: np.ndarray, text_every: int = 10) -> list[Canary]:
    """Rows of states or actions as float16, float32 and float64, and some of their values as decimal text.

    Args:
        name: Where the rows come from.
        rows: (frames, joints), any float dtype; rows that hardly vary over the joints (a rest pose of zeros)
            are left out, since such bytes exist elsewhere too.
        text_every: Every n-th row is also looked for as text, at eight significant digits.
    """
    canaries = []
    for index, row in enumerate(np.asarray(rows, dtype=np.float64)):
        if len(np.unique(row)) < 4:
            continue
        where = f"{name} frame {index}"
        canaries += [Canary("joint", where, row.astype(kind).tobytes()) for kind in ("<f2", "<f4", "<f8")]
        if index % text_every == 0:
            canaries += [Canary("joint", where, text) for text in _decimals(row)]
    return [canary for canary in canaries if _usable(canary.needle)]


def _decimals(row: np.ndarray) -> Iterator[bytes]:
    for value in row:
        if abs(value) < 1:
            continue  # too few digits in eight characters to be told from a loss
        text = np.format_float_positional(abs(value), precision=8, fractional=False, trim="-")
        if len(text) > MIN_LENGTH:
            yield text[:MIN_LENGTH].encode()  # the last digit depends on how the sender rounds


def name_canaries(names: Iterable[str]) -> list[Canary]:
    """File names, paths and episode ids, as they are."""
    return [Canary("name", name, name.encode()) for name in names if len(name) >= MIN_LENGTH]


class Scanner:
    """Finds thousands of canaries in one pass: their first eight bytes' hash is looked up at every offset."""

    HASH_BITS = 24
    MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)

    def __init__(self, canaries: Sequence[Canary]) -> None:
        self._by_key: dict[int, list[Canary]] = {}
        for canary in canaries:
            key = int.from_bytes(canary.needle[:8], "little")
            self._by_key.setdefault(key, []).append(canary)
        keys = np.fromiter(self._by_key, dtype=np.uint64, count=len(self._by_key))
        self._known = np.zeros(1 << self.HASH_BITS, dtype=bool)
        self._known[self._hash(keys)] = True

    def _hash(self, keys: np.ndarray) -> np.ndarray:
        return (keys * self.MULTIPLIER) >> np.uint64(64 - self.HASH_BITS)

    def find(self, data: bytes) -> Iterator[tuple[int, Canary]]:
        """Every (offset, canary) in `data` itself, compressed parts left closed."""
        for start in range(0, len(data), BLOCK):
            # Eight bytes more than the block, so that a needle across the border begins in one of the two.
            block = data[start : start + BLOCK + 7]
            for shift in range(8):
                count = (len(block) - shift) // 8
                if count <= 0:
                    break
                keys = np.frombuffer(block, dtype="<u8", count=count, offset=shift)
                for index in np.flatnonzero(self._known[self._hash(keys)]):
                    offset = start + shift + int(index) * 8
                    for canary in self._by_key.get(int(keys[index]), ()):
                        if data.startswith(canary.needle, offset) and not _in_a_time(canary, data, offset):
                            yield offset, canary

    def search(self, streams: Iterable[tuple[str, bytes]]) -> Findings:
        """Look for all canaries in all (name, bytes) streams and in what is packed inside them."""
        found = Findings()
        for name, data in streams:
            found.streams += 1
            found.bytes_read += len(data)
            for inside, part in expand(data):
                found.frames_opened += inside != "raw"
                found.hits += [Hit(canary, name, inside, offset) for offset, canary in self.find(part)]
        return found


def _in_a_time(canary: Canary, data: bytes, offset: int) -> bool:
    return canary.kind == "joint" and CLOCK.search(data[max(0, offset - 8) : offset]) is not None


def expand(data: bytes, inside: str = "raw", depth: int = DEPTH) -> Iterator[tuple[str, bytes]]:
    """Yield `data` and everything packed in it, to `depth` levels. Parts that end early are yielded as far as
    they go: a stream that was cut off still shows what it carried."""
    yield inside, data
    if depth == 0:
        return
    for kind, offset, part in _packed(data):
        label = f"{kind}@{offset}" if inside == "raw" else f"{inside}/{kind}@{offset}"
        yield from expand(part, label, depth - 1)


def _packed(data: bytes) -> Iterator[tuple[str, int, bytes]]:
    for offset in _occurrences(data, ZSTD_MAGIC):
        if part := _inflate(zstandard.ZstdDecompressor().decompressobj(), data, offset):
            yield "zstd", offset, part
    for offset in _occurrences(data, GZIP_MAGIC):
        if part := _inflate(zlib.decompressobj(31), data, offset):
            yield "gzip", offset, part
    for match in ZLIB_MAGIC.finditer(data):
        if part := _inflate(zlib.decompressobj(), data, match.start()):
            yield "zlib", match.start(), part
    for match in BASE64.finditer(data):
        text = match[0].translate(bytes.maketrans(b"-_", b"+/"))
        for phase in range(4):  # the bytes before it may happen to belong to the alphabet too
            part = text[phase:]
            yield "base64", match.start() + phase, base64.b64decode(part[: len(part) // 4 * 4])


def _occurrences(data: bytes, magic: bytes) -> Iterator[int]:
    offset = data.find(magic)
    while offset >= 0:
        yield offset
        offset = data.find(magic, offset + 1)


def _inflate(stream: "zlib._Decompress | zstandard.ZstdDecompressionObj", data: bytes, offset: int) -> bytes:
    """What a decompressor makes of data[offset:], up to its end, its first error, or the limit."""
    parts, size, view = [], 0, memoryview(data)
    for start in range(offset, len(data), 1 << 16):
        try:
            part = stream.decompress(view[start : start + (1 << 16)])
        except (zlib.error, zstandard.ZstdError):
            break  # random bytes that look like a frame, or a damaged one: what came out so far counts
        parts.append(part)
        size += len(part)
        if stream.eof:
            break
        if size > MAX_EXPANDED:
            raise ValueError(f"a frame at byte {offset} unpacks to more than {MAX_EXPANDED >> 20} MiB")
    return b"".join(parts)
