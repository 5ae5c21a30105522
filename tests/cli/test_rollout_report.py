"""Rollouts for people: the histogram, words of old and new records, the page."""

import json
import re
from pathlib import Path

import pytest

from agent.evaluation.rollouts import (
    LATENCY_EDGES_MS,
    RolloutFigures,
    RolloutRecord,
    RolloutStore,
    SeriesPlace,
    latency_counts,
)
from agent.inference.fault import bad_actions, policy_changed, policy_lost, policy_silent, starved
from cli.rollout_report import facts, histogram, text, write_page
from cli.rollout_view import REASONS
from shared.errors import ArmfleetError

OLD = """{"format": 1, "id": "r1", "task": "push", "version": 3, "digest": "ab",
"created": "2026-01-01T10:00:00+00:00", "reason": "time_up", "success": true,
"figures": {"ticks": 95, "chunks": 9, "starved": 2, "latency_ms_mean": 40.0, "latency_ms_max": 55.0,
"period_ms_mean": 33.3, "period_ms_max": 40.0}}"""


def record(**changes: object) -> RolloutRecord:
    return RolloutRecord.model_validate_json(OLD).model_copy(update=changes)


def test_records_of_earlier_versions_are_read(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path)
    (tmp_path / "r1").mkdir()
    (tmp_path / "r1/rollout.json").write_text(OLD)
    old = store.read("r1")
    assert (old.figures.latency_counts, old.place, old.blinded, old.discarded) == ([], None, False, False)
    assert store.label("r1", False).success is False
    assert "no latencies are known" in text(old, tmp_path / "r1")


def test_a_first_chunk_that_was_held_back_is_told_and_any_other_is_not(tmp_path: Path) -> None:
    assert "bounded" not in text(record(), tmp_path)
    assert "7 ticks of the first chunk" in text(record(figures=RolloutFigures(bounded=7)), tmp_path)


def test_latencies_fall_into_fixed_bins() -> None:
    counts = latency_counts([0.0, 9.9, 10.0, 45.0, 45.0, 5000.0])
    assert sum(counts) == 6
    assert (counts[0], counts[1], counts[4], counts[-1]) == (2, 1, 2, 1)
    assert len(counts) == len(LATENCY_EDGES_MS) + 1
    lines = histogram(latency_counts([15.0, 45.0, 45.0])).splitlines()
    assert [line.split("ms")[0].strip() for line in lines] == [
        "10 to   20",
        "20 to   30",
        "30 to   40",
        "40 to   60",
    ]
    assert lines[0].count("█") * 2 == lines[3].count("█")
    assert histogram(latency_counts([5000.0])).startswith("1000 to    … ms     1 ")


def test_a_blinded_rollout_shows_nothing_that_tells_its_version() -> None:
    place = SeriesPlace(series="ab", place=3, seed=11, paired=True)
    hidden = record(blinded=True, place=place).shown
    assert (hidden.version, hidden.digest) == (None, None)
    assert hidden.place is not None
    assert (hidden.place.seed, hidden.place.place) == (None, 3)
    assert ("version", "hidden: a comparison goes on") in facts(hidden)
    assert dict(facts(hidden))["series"] == "ab, place 4, pair 2"
    assert record(place=place).shown.version == 3


def test_what_was_discarded_counts_for_nothing_and_gets_no_label(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path)
    (tmp_path / "r1").mkdir()
    (tmp_path / "r1/rollout.json").write_text(record(blinded=True).model_dump_json())
    assert store.discard("r1").success is None
    with pytest.raises(ArmfleetError, match="was discarded"):
        store.label("r1", True)
    assert store.unblind() == ["r1"]
    assert store.unblind() == []
    assert store.read("r1").discarded


def test_the_page_stands_alone_and_escapes_what_people_wrote(tmp_path: Path) -> None:
    odd = "<script>alert(1)</script>"
    rows = [{"state": [float(n)] * 6, "goal": [n + 1.0] * 6} for n in range(30)]
    (tmp_path / "trace.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "video.mp4").write_bytes(b"video")
    figures = RolloutFigures(latency_counts=latency_counts([45.0]))
    write_page(tmp_path, record(task=odd, figures=figures), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page
    assert re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?!data:|#)[^"'>)\s]+""", page) == []
    assert "data:video/mp4;base64,dmlkZW8=" in page
    assert page.count("<svg") == 1
    (tmp_path / "video.mp4").unlink()
    (tmp_path / "trace.jsonl").unlink()
    write_page(tmp_path, record(), tmp_path / "page.html")
    assert "There is no video." in (tmp_path / "page.html").read_text()


def test_what_was_wrong_with_the_policy_is_told_in_words_unless_it_would_name_a_hidden_version(
    tmp_path: Path,
) -> None:
    faults = [bad_actions(3), policy_changed(3, 4), policy_lost("x"), policy_silent(1, ""), starved(1, "")]
    for fault in faults:
        ended = record(reason=fault.reason, why=str(fault))
        assert REASONS[fault.reason] in text(ended, tmp_path)
        assert fault.what in text(ended, tmp_path)
        assert fault.what not in text(ended.model_copy(update={"blinded": True}).shown, tmp_path)
