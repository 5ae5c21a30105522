"""How the gate's answers are counted, and how the peers' are read."""

import json
import sys

import pytest

from benchmarks.bench_gate import Result, Stopwatch, ask_peer, figures, found_by, judged, table
from benchmarks.gate.corpus_truth import Case
from benchmarks.gate.peers import NO_ANSWER, PEERS, PINS, Opinion, Peer


def defect(severity="plain", trim=False):
    return Case(
        name=f"d-{severity}",
        kind="defect",
        defect="d",
        severity=severity,
        about="",
        paths=["p"],
        fits=["video.frozen", "timing."],
        trim=trim,
        origin="model",
    )


SOUND = Case(name="s", kind="sound", defect="s", about="", paths=["p"], origin="model")


def line(verdict, reasons=(), notes=()):
    return {
        "verdict": verdict,
        "reasons": [{"check": check} for check in reasons],
        "notes": [{"check": check} for check in notes],
    }


@pytest.mark.parametrize(
    ("case", "lines", "found"),
    [
        (defect(), [line("quarantined", ["motion.jump", "timing.gap"])], True),
        (defect(), [line("admitted"), line("quarantined", ["video.frozen"])], True),
        (defect(), [line("quarantined", ["motion.jump"])], False),
        (defect(), [line("quarantined", ["motion.jump"], ["timing.gap"])], False),
        (defect(), [line("admitted", [], ["timing.gap"])], False),
        (defect(trim=True), [line("admitted", [], ["timing.gap"])], True),
        (defect(), [line("undecidable", ["timing.gap"])], False),
        (defect(), [], False),
    ],
)
def test_a_defect_is_found_when_it_is_quarantined_for_a_fitting_reason(case, lines, found):
    assert judged(case, lines).found is found


def test_a_sound_episode_is_refused_for_whatever_reason_and_a_note_is_none():
    assert judged(SOUND, [line("quarantined", ["x"])]).refused
    assert not judged(SOUND, [line("admitted", [], ["x"])]).refused
    assert judged(SOUND, []).undecided


def results(plain, subtle, refused=0):
    made = [Result(defect("plain"), found=n < plain) for n in range(20)]
    made += [Result(defect("subtle"), found=n < subtle) for n in range(20)]
    return made + [Result(SOUND, refused=n < refused) for n in range(3)]


@pytest.mark.parametrize(
    ("plain", "subtle", "refused", "seconds", "ok"),
    [
        (19, 15, 0, 0.9, True),
        (18, 20, 0, 0.9, False),
        (20, 14, 0, 0.9, False),
        (20, 20, 1, 0.9, False),
        (20, 20, 0, 1.1, False),
    ],
)
def test_every_target_counts(plain, subtle, refused, seconds, ok):
    watch = Stopwatch()
    watch.seconds, watch.episodes = seconds, 1
    met, numbers = figures(results(plain, subtle, refused), Stopwatch(), watch)
    assert met is ok
    assert (numbers["defects"], numbers["defects_found"]) == (40, plain + subtle)
    assert (numbers["sound"], numbers["sound_refused"]) == (3, refused)


def test_a_peer_finds_what_it_says_of_no_sound_episode():
    made = results(20, 20)
    for result in made:
        result.peers["p"] = Opinion(frozenset({"usual"}), False)
    made[0].peers["p"] = Opinion(frozenset({"usual", "new"}), False)
    assert found_by("p", made[0], made)
    assert not found_by("p", made[1], made)
    assert "ok" in table(made, ["p"])


def test_a_peer_that_cannot_be_installed_has_no_figures(monkeypatch, tmp_path):
    monkeypatch.setattr("benchmarks.gate.peers.ENVIRONMENTS", tmp_path)
    monkeypatch.setattr("benchmarks.gate.peers._uv", missing)
    said = []
    numbers = ask_peer(PEERS[0], tmp_path, results(1, 1), said.append)
    assert set(numbers.values()) == {None}
    assert len(numbers) == 3
    assert "no such program" in said[-1]


def missing(*arguments):
    raise OSError("no such program")


def scripted(monkeypatch, tmp_path, code):
    """A peer whose program is a line of Python."""
    monkeypatch.setattr("benchmarks.gate.peers.ENVIRONMENTS", tmp_path)
    program = tmp_path / "scripted" / "bin" / "program"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!{sys.executable}\nimport sys, json\n{code}\n")
    program.chmod(0o755)
    return Peer("scripted", ("program", "DATASET"), lambda report: report["said"])


def test_a_peers_numbers_are_left_out_and_its_exit_status_is_its_verdict(monkeypatch, tmp_path):
    code = f"print({json.dumps(json.dumps({'said': ['joint 3 jumps by 1.5e-3']}))}); sys.exit(1)"
    assert scripted(monkeypatch, tmp_path, code).ask(tmp_path) == Opinion(
        frozenset({"joint # jumps by #"}), True
    )


def test_a_peer_that_falls_over_has_rejected(monkeypatch, tmp_path):
    assert scripted(monkeypatch, tmp_path, "sys.exit('oops')").ask(tmp_path) == Opinion(
        frozenset({NO_ANSWER}), True
    )


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_every_peer_is_pinned(peer):
    lines = [line for line in (PINS / f"{peer.name}.txt").read_text().splitlines() if line[:1] != "#"]
    assert any(line.startswith(f"{peer.name}==") for line in lines)
    assert all("==" in line for line in lines)
