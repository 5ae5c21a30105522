"""The whole journey with small numbers: the demo's own code, real Flower processes, two workstations."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli.demo import keeper

ROOT = Path(__file__).parents[2]
LIMIT_S = 900


@pytest.mark.slow
@pytest.mark.timeout(LIMIT_S + 60)
def test_two_arms_go_the_whole_way(tmp_path):
    pytest.importorskip("mujoco", reason="the `sim` extra is not installed")
    report = tmp_path / "report.json"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "cli.main",
            "demo",
            "--small",
            "--folder",
            tmp_path / "run",
            "--report",
            report,
        ],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    words = f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    figures = json.loads(report.read_text())
    last = json.loads(done.stdout.strip().splitlines()[-1])
    assert last["benchmark"] == "demo", words
    assert "error" not in figures, words
    check_journey(figures, tmp_path / "run")
    assert keeper.marked((tmp_path / "run" / "mark").read_text()) == []


def check_journey(figures, folder):
    """What must hold whatever was learned: every stage was passed, and nothing recorded left."""
    assert figures["rounds"] >= 4
    assert figures["updates"] >= 4
    assert figures["raw_records_sent"] == 0
    assert figures["canaries"] > 1000
    assert 0 < figures["bytes_per_update"] < 500_000
    assert set(figures["tasks"]) == {"push_left", "push_right"}
    for cells in figures["tasks"].values():
        assert set(cells) == {"a", "b"}
        assert all(cell["after"]["rollouts"] == 2 for cell in cells.values())
    assert any(version["evaluation"] for version in figures["versions"])
    assert figures["interruption"]["seconds"] < 1.0
    assert figures["interruption"]["resumed_same_update"]
    for station in "ab":
        episodes = [path for path in (folder / station / "state" / "episodes").iterdir() if path.is_dir()]
        assert len(episodes) >= 3
        assert not [path for path in episodes if path.name.startswith(".")]
    assert (folder / "report" / "success.png").stat().st_size > 1000
