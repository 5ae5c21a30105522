"""The page about an episode stands alone, and says what can't be shown."""

import json
import re
from pathlib import Path

import pytest

from agent.episodes.page import write_page
from agent.episodes.record import SIDECAR, Reason
from agent.episodes.store import EpisodeStore


@pytest.fixture
def folder(store: EpisodeStore) -> Path:
    folder = store.folder(store.records()[0].id)
    rows = [
        {
            "frame": i,
            "period": 0.0333,
            "cameras": {"front": {"stamp": i / 30, "age": 0.02, "repeat": False}},
        }
        for i in range(store.records()[0].frames)
    ]
    (folder / SIDECAR).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_the_page_is_whole_and_asks_no_network(store: EpisodeStore, folder: Path, tmp_path: Path) -> None:
    odd = "<script>alert(1)</script> & more"
    reason = Reason(check="motion.jump", value=31.2, threshold=20.0, frames=[40, 41], message=odd)
    record = store.read(folder.name).model_copy(
        update={"reasons": [reason], "verdict": "quarantined", "task": odd, "label": "failure"}
    )
    write_page(folder, record, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page, "texts are escaped"
    assert re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?!data:|#)[^"'>)\s]+""", page) == []
    assert page.count("data:image/jpeg;base64,") == 3
    assert page.count("data:video/mp4;base64,") == 1
    assert page.count("<svg") == 2
    for text in (
        "quarantined",
        "motion.jump",
        "limit 20.0",
        "frames 40, 41",
        record.digest,
        "failure",
        "cubes",
    ):
        assert text in page
    for label in ("gripper", "loop time, ms", "age of picture, ms", "first: frame 0", "last: frame 119"):
        assert label in page


def test_concerned_frames_are_marked(store: EpisodeStore, folder: Path, tmp_path: Path) -> None:
    def drawn(frames: list[int]) -> int:
        reason = Reason(check="motion.jump", value=1, threshold=1, frames=frames, message="")
        record = store.read(folder.name).model_copy(update={"reasons": [reason], "notes": []})
        write_page(folder, record, tmp_path / "page.html")
        return (tmp_path / "page.html").read_text().count("#c0392b; opacity: 0.35")

    assert drawn([]) == 0
    assert drawn([10, 20]) == 2 * (6 + 2), "in each of six joints, the loop time and the age"


def test_a_damaged_episode_still_has_a_page(store: EpisodeStore, folder: Path, tmp_path: Path) -> None:
    next((folder / "data").rglob("*.parquet")).write_bytes(b"PAR1")
    next((folder / "videos").rglob("*.mp4")).write_bytes(b"no film")
    write_page(folder, store.judge(folder.name), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "quarantined" in page
    assert "can&#39;t be shown" in page
    assert "can&#39;t be decoded" in page
