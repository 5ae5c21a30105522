"""`make soak-episodes`: a short one, and that it would see what it looks for."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.soak.checks import LISTED, TRASHED, Doing, Known, Ledger, Sight
from benchmarks.soak.kills import Forge, StepFailed

ROOT = Path(__file__).resolve().parents[2]
SOUND = Known(contents="c1", verdict="admitted", digest="d1", split="train", label=None)
WAITING = replace(SOUND, verdict="unjudged", digest="", split=None)


def test_a_short_soak_loses_nothing(tmp_path):
    out = tmp_path / "soak.json"
    argv = [
        sys.executable,
        "-m",
        "benchmarks.soak_episodes",
        "--kills",
        "8",
        "--calls",
        "1",
        "--out",
        str(out),
    ]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        argv, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    figures = told["figures"]
    assert told == json.loads(out.read_text())
    assert told["ok"] is True
    assert figures["kills"] >= 15
    assert figures["admitted"] > 4
    assert [figures[name] for name in ("lost", "half_written", "unloadable", "left_over")] == [0, 0, 0, 0]
    # What the killed steps had in the folder for temporary files is not the soak's: its own is gone.
    assert not list(tmp_path.glob("armfleet-soak-*"))


# ---------------------------------------------------------------------- kills


@pytest.fixture
def forge(tmp_path):
    return Forge(tmp_path / "log")


def writes(path):
    def act():
        with path.open("wb") as file:
            file.write(b"x" * 100)
            file.flush()
            os.fsync(file.fileno())
        path.rename(path.with_suffix(".done"))
        return "written"

    return lambda: act


def test_a_step_that_ends_tells_what_it_gave(forge, tmp_path):
    end = forge.run(writes(tmp_path / "a"))
    assert (end.inside, end.value) == (False, "written")
    assert (tmp_path / "a.done").is_file()


def test_a_kill_counts_only_inside_of_the_step(forge):
    assert forge.kill(lambda: lambda: time.sleep(30), 0.05).inside
    assert forge.kill(lambda: lambda: 7, 30.0).value == 7


def test_a_step_dies_right_after_each_of_its_file_calls(forge, tmp_path):
    seen = []
    for call in range(1, 10):
        path = tmp_path / f"at-{call}"
        if not forge.kill_at(writes(path), call).inside:
            break
        seen.append(path.stat().st_size if path.exists() else "renamed")
    assert seen == [0, 0, 100, 100, "renamed"]  # opened, written to the buffer, flushed, synced, renamed


def test_an_error_in_a_step_and_its_sudden_death_end_the_soak(forge):
    with pytest.raises(StepFailed, match="ZeroDivisionError"):
        forge.run(lambda: lambda: 1 / 0)
    with pytest.raises(StepFailed, match="status"):
        forge.run(lambda: lambda: os.abort())


# ---------------------------------------------------------------------- findings


def after(doing, now, index=None, before=None, **also):
    """The ledger of a store with the episode 000001 after a kill that left `now`."""
    ledger = Ledger()
    ledger.known = {"000001": before or SOUND}
    listed = [i for i, known in now.items() if known.place == LISTED]
    ledger.fresh = ledger.compare(Sight(now, listed if index is None else index, **also), doing)
    return ledger


MINE = ("000001",)


@pytest.mark.parametrize(
    ("doing", "now"),
    [
        (Doing("save", ("000002",)), {"000001": SOUND}),
        (Doing("delete", MINE), {"000001": replace(SOUND, place=TRASHED)}),
        (Doing("purge", MINE), {}),
        (Doing("label", MINE, "success"), {"000001": replace(SOUND, label="success")}),
        (Doing("save", ("000002",)), {"000001": SOUND, "000002": WAITING}),
    ],
)
def test_what_a_step_may_have_done_is_no_finding(doing, now):
    assert after(doing, now).findings.all() == []


@pytest.mark.parametrize(
    ("doing", "now"),
    [
        (Doing("save", ("000002",)), {}),
        (Doing("delete", MINE), {}),
        (Doing("purge", ("000007",)), {}),
        (Doing("label", MINE), {"000001": replace(SOUND, place=TRASHED)}),
        (Doing("build"), {"000001": replace(SOUND, contents="c2")}),
        (Doing("gate", MINE), {"000001": replace(SOUND, split="eval")}),
        (Doing("gate", MINE), {"000001": replace(SOUND, verdict="quarantined")}),
        (Doing("label", MINE, "success"), {"000001": replace(SOUND, label="failure")}),
        (Doing("import"), {"000001": replace(SOUND, label="success")}),
    ],
)
def test_an_episode_that_is_gone_or_changed_is_lost(doing, now):
    assert len(after(doing, now).findings.lost) == 1


def test_a_verdict_comes_from_the_gate_alone():
    assert after(Doing("gate", MINE), {"000001": SOUND}, before=WAITING).findings.all() == []
    assert len(after(Doing("build"), {"000001": SOUND}, before=WAITING).findings.lost) == 1


def test_what_is_listed_and_no_whole_episode_is_found():
    save = Doing("save", ("000002",))
    assert len(after(save, {"000001": SOUND}, index=["000001", "000002"]).findings.half_written) == 1
    assert len(after(save, {"000001": SOUND}, odd=[".inprogress-x"]).findings.half_written) == 1
    assert len(after(Doing("record"), {"000001": SOUND, "000002": WAITING}).findings.half_written) == 1
    assert len(after(save, {"000001": SOUND}, left_over=[".inprogress-000002"]).findings.left_over) == 1


def test_new_episodes_are_named_for_a_closer_look():
    ledger = after(Doing("import"), {"000001": SOUND, "imported-1": WAITING})
    assert ledger.fresh == ["imported-1"]
    assert ledger.training() == ["000001"]
