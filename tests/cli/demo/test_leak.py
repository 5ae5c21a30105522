"""A planted leak of each kind, raw and packed, is found and counts one; clean bytes count none."""

import base64
import gzip
import io
import zlib

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from agent.evaluation.field import field_results
from agent.evaluation.rollouts import RolloutRecord
from cli.demo import leak
from cli.demo.evidence import rollout_canaries
from shared.messages import JudgedVersion

NOISE = np.random.default_rng(7)
PATCH = NOISE.integers(0, 256, (8, 8, 3), dtype=np.uint8)
ROWS = NOISE.normal(0, 40, (5, 6))


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(NOISE.integers(0, 256, (96, 96, 3), dtype=np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


JPEG = picture()
FILE = NOISE.bytes(20_000)
NAME = "20261124-091500-push-left"
CANARIES = [
    *leak.pixel_canaries("front corner", PATCH),
    *leak.jpeg_canaries("front jpeg", JPEG),
    *leak.joint_canaries("episode 3", ROWS),
    *leak.file_canaries("episode 3 video", FILE),
    *leak.name_canaries([NAME]),
]
UNIT = PATCH.astype(np.float32) / np.float32(255)
PLANTED = {
    "pixels as bytes": PATCH[3].tobytes(),
    "pixels as planar bytes": PATCH[2, :, 1].tobytes(),
    "pixels as float32": UNIT[5].tobytes(),
    "pixels centred": (UNIT * np.float32(2) - np.float32(1))[1].tobytes(),
    "a published jpeg": JPEG,
    "joints as float16": ROWS[1].astype("<f2").tobytes(),
    "joints as float32": ROWS[2].astype("<f4").tobytes(),
    "joints as float64": ROWS[4].tobytes(),
    "joints as text": f'{{"state": [{ROWS[0][2]!r}]}}'.encode(),
    "a piece of a file": FILE[4000:6500],
    "an episode's name": f"/var/lib/episodes/{NAME}/video.mp4".encode(),
}
PACKINGS = {
    "raw": lambda data: data,
    "zstd": zstandard.compress,
    "gzip": gzip.compress,
    "zlib": zlib.compress,
    "base64": base64.b64encode,
    "zstd in base64 in gzip": lambda data: gzip.compress(base64.b64encode(zstandard.compress(data))),
}


def surround(data: bytes) -> bytes:
    return NOISE.bytes(1003) + data + NOISE.bytes(517)


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_leak_counts_one(planted, packing):
    wrapped = surround(PACKINGS[packing](surround(PLANTED[planted])))
    found = leak.Scanner(CANARIES).search([("station-a", wrapped)])
    assert found.records == 1, [hit.canary.name for hit in found.hits]


def test_noise_counts_none():
    found = leak.Scanner(CANARIES).search([("station-a", NOISE.bytes(3_000_000))])
    assert (found.records, found.streams, found.bytes_read) == (0, 1, 3_000_000)


def test_a_leak_across_the_border_of_two_blocks_is_found(monkeypatch):
    monkeypatch.setattr(leak, "BLOCK", 1024)
    for offset in range(1010, 1030):
        data = NOISE.bytes(offset) + NAME.encode() + NOISE.bytes(100)
        assert [place for place, _ in leak.Scanner(CANARIES).find(data)] == [offset]


def test_a_frame_that_was_cut_off_still_shows_its_start():
    packed = zstandard.ZstdCompressor(level=1).compress(NAME.encode() + NOISE.bytes(400_000))
    found = leak.Scanner(CANARIES).search([("station-a", packed[: len(packed) // 2])])
    assert found.records == 1


def test_what_cannot_be_told_from_chance_is_no_canary():
    assert leak.joint_canaries("rest", np.zeros((3, 6))) == []
    assert leak.pixel_canaries("black", np.zeros((4, 8, 3), np.uint8)) == []
    assert leak.name_canaries(["a.mp4"]) == []


def test_the_same_thing_sent_twice_counts_once():
    found = leak.Scanner(CANARIES).search([("station-a", surround(NAME.encode()) * 2)])
    assert len(found.hits) == 2
    assert found.records == 1


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=300), st.binary(max_size=300))
def test_found_at_any_offset(before, after):
    assert any(
        offset == len(before)
        for offset, _ in leak.Scanner(CANARIES).find(before + PATCH[3].tobytes() + after)
    )


def test_a_picture_without_a_scan_is_refused():
    with pytest.raises(ValueError, match="not a JPEG"):
        leak.jpeg_canaries("x", b"\xff\xd8 nothing")


@pytest.mark.parametrize("stamp", [b"2026-11-24T12:35:09.494505+00:00", b"2026-11-24T12:35:19.494505+00:00"])
def test_a_time_of_day_with_the_digits_of_a_joint_is_no_leak(stamp):
    row = [[9.494505, 19.494505, -3.25, 44.125, 1.5, 14.3]]
    scanner = leak.Scanner(leak.joint_canaries("episode 3", row))
    assert scanner.search([("station-a", stamp)]).records == 0
    assert scanner.search([("station-a", b'{"state": [9.494505, 19.494505]}')]).records == 1


def test_a_copied_rollout_is_found_and_a_report_of_its_label_is_none(tmp_path):
    folder = tmp_path / "20261127-153000-ab12cd"
    folder.mkdir()
    record = RolloutRecord(
        id=folder.name, task="push", version=3, digest=None, created="now", reason="time_up", success=True
    )
    (folder / "rollout.json").write_text(record.model_dump_json(indent=1) + "\n")
    (folder / "trace.jsonl").write_text('{"tick": 0, "wall": 1.25, "state": [1.5, 2.25, 3.125]}\n' * 99)
    told = field_results([record], [JudgedVersion(version=3, tensors_digest="0" * 64)])
    streams = {
        "report": told[0].model_dump_json().encode(),
        "record": (folder / "rollout.json").read_bytes(),
        "trace": b"x" + (folder / "trace.jsonl").read_bytes()[2048:4200],
        "name": f"rollouts/{folder.name}".encode(),
    }
    scanner = leak.Scanner(list(rollout_canaries("a", folder)))
    found = {hit.stream for hit in scanner.search(streams.items()).hits}
    assert told[0].labels == "1"
    assert found == {"record", "trace", "name"}
