"""`armfleet rollout` and `evaluate` in terminals and pipes, against an agent whose workers are stand-ins."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from agent.evaluation.rollouts import RolloutStore
from agent.sessions.series import OPERATOR_GONE, Act, Phase
from agent.sessions.series_messages import ResultTold, RolloutTold, SeriesAnswer, SeriesTold
from agent.sessions.session_messages import arm_told
from cli.attending import SAME_KEY_S
from cli.rollout import act_of
from cli.rollout_summary import as_json, exit_code, words
from cli.rollout_view import Screen, trouble_lines
from cli.status import agent_words
from shared.policy.digest import base_digest
from sim.joints import JointMap
from tests.agent.conftest import SmallFleet, read_reply
from tests.agent.test_daemon import Station
from tests.cli.terminal import LIMIT_S, ROOT, Terminal

TASK = "push the red cube to the left"


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    home = tmp_path_factory.mktemp("a")
    made = Station(home, ROOT / "sim/base")
    (home / "so100.json").write_text(JointMap().calibration_json())
    made.start()
    yield made
    made.stop(signal.SIGKILL)


@pytest.fixture(autouse=True)
def ended(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test did, no series is left."""
    yield
    if "station" in request.fixturenames:
        made = request.getfixturevalue("station")
        while phase(made) not in (None, Phase.DONE):
            made.client.post("/series/act", {"act": "end"})
            time.sleep(0.05)


def phase(station: Station) -> Phase | None:
    series = SeriesAnswer.model_validate(station.client.get("/series")).series
    return series.phase if series else None


def until_phase(station: Station, wanted: Phase) -> None:
    station.until(lambda: phase(station) is wanted, wanted, LIMIT_S)


def command(station: Station, name: str, *options: str) -> list[str]:
    return [sys.executable, "-m", "cli.main", name, "--socket", str(station.client.path), *options]


def test_a_series_with_its_keys_is_watched_by_another_terminal_and_summed_up(station: Station) -> None:
    first = Terminal(command(station, "evaluate", "--task", TASK, "--rollouts", "2"))
    first.await_words("set up the scene, then start")
    assert station.status()["activity"] == "evaluate"
    assert "0 of 2 rollouts done, ready; a terminal has its keys" in agent_words(station.status())[1]
    watcher = Terminal(command(station, "rollout", "--watch"))
    watcher.await_words("set up the scene")
    watcher.press(" ")  # it has no keys
    first.press(" ")
    until_phase(station, Phase.RUNNING)
    watcher.await_words("RUNNING")
    first.press("s")
    until_phase(station, Phase.READY)
    time.sleep(SAME_KEY_S)
    first.press(" ")
    until_phase(station, Phase.RUNNING)
    first.press("f")
    assert (first.end(), watcher.end()) == (0, 0), first.seen[-3000:]
    for terminal in (first, watcher):
        assert "1 of 2" in terminal.seen
        assert "9% to 91%" in terminal.seen
        assert "What this can't tell" in terminal.seen
        terminal.close()
    labels = [record.success for record in RolloutStore(station.state / "rollouts").records()]
    assert labels[-2:] == [True, False]
    assert station.status()["activity"] == "idle"


def test_a_terminal_that_is_killed_stops_the_arm_and_another_one_goes_on(station: Station) -> None:
    terminal = Terminal(command(station, "rollout", "--task", TASK))
    terminal.await_words("set up the scene")
    terminal.press(" ")
    until_phase(station, Phase.RUNNING)
    terminal.process.send_signal(signal.SIGKILL)
    terminal.close()
    gone = time.monotonic()
    until_phase(station, Phase.LABELLING)
    assert time.monotonic() - gone < 30
    assert station.client.get("/series")["series"]["reason"] == OPERATOR_GONE
    refused = subprocess.run(
        command(station, "rollout", "--task", "another"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert (refused.returncode, f"a series of rollouts is running: {TASK}" in refused.stderr) == (1, True)
    second = Terminal(command(station, "rollout"))
    second.await_words("the arm was stopped")
    second.press("s")
    assert second.end() == 0
    second.close()


def test_pipes_get_lines_and_a_summary_as_json_and_the_store_can_be_asked(station: Station, tmp_path) -> None:
    reads, writes = os.pipe()
    process = subprocess.Popen(
        command(station, "rollout", "--task", TASK, "--json"),
        cwd=ROOT,
        stdin=reads,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(reads)
    assert process.stderr is not None
    seen = ""
    for words_, keys in (("ready, rollout 1 of 1 (the base alone)", b" "), ("running", b"f")):
        while words_ not in seen:
            seen += process.stderr.readline()
        os.write(writes, keys)
    out, rest = process.communicate(timeout=LIMIT_S)
    os.close(writes)
    assert process.returncode == 0, seen + rest
    told = json.loads(out)
    assert (told["complete"], told["versions"][0]["successes"], told["versions"][0]["rollouts"]) == (
        True,
        0,
        1,
    )
    rollout = told["results"][0]["rollout"]

    def ask(*options: str, code: int = 0) -> str:
        argv = [sys.executable, "-m", "cli.main", "rollouts", *options, "--config", str(station.config)]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    listed = [
        json.loads(line) for line in ask("list", "--label", "failure", "--task", "RED", "--json").splitlines()
    ]
    assert rollout in [record["id"] for record in listed]
    assert all(record["success"] is False for record in listed)
    assert "no latencies are known" in ask("show", rollout)
    assert "is labelled a success" in ask("label", rollout, "--success")
    assert station.client.get(f"/rollouts/{rollout}")["success"] is True
    lines = tmp_path / "rollouts.jsonl"
    ask("export", str(lines), "--label", "success")
    assert rollout in [json.loads(line)["id"] for line in lines.read_text().splitlines()]
    assert "is there already" in ask("export", str(lines), code=1)
    ask("export", str(tmp_path / "whole"), "--videos")
    assert (tmp_path / "whole" / rollout / "rollout.json").is_file()


@pytest.fixture
def enrolled(tmp_path: Path) -> Iterator[Station]:
    """A station that holds the promoted version 2 and the one before it, 1."""
    fleet = SmallFleet(tmp_path / "fleet")
    shutil.copy(ROOT / "sim/base/config.json", fleet.base / "config.json")
    fleet.base_digest = base_digest(fleet.base)
    made = Station(tmp_path / "a", fleet.base)
    (tmp_path / "a/so100.json").write_text(JointMap().calibration_json())
    fleet.enrol(made.state, "station-a")
    made.start()
    made.until(lambda: made.status()["exchange"], "the exchange is set up")
    held = None
    for number in (1, 2):
        fleet.publish(promoted=fleet.offer(number))
        reply, _ = read_reply(made.client.post_bytes("/exchange/check-in", fleet.check_in(held)))
        held = reply.held
    made.until(lambda: (made.client.get("/versions")["running"] or {}).get("version") == 2, "version 2 runs")
    yield made
    made.stop(signal.SIGKILL)


def test_a_comparison_is_blind_to_everybody_until_it_is_over(enrolled: Station) -> None:
    reads, writes = os.pipe()
    process = subprocess.Popen(
        command(enrolled, "evaluate", "--task", TASK, "--rollouts", "1", "--against", "previous", "--json"),
        cwd=ROOT,
        stdin=reads,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(reads)
    assert process.stderr is not None
    seen = ""
    for words_ in ("ready, rollout 1 of 2: pair 1, first", "ready, rollout 2 of 2: pair 1, second"):
        while words_ not in seen:
            seen += process.stderr.readline()
        time.sleep(SAME_KEY_S)
        os.write(writes, b" ")
        until_phase(enrolled, Phase.RUNNING)
        told = enrolled.client.get("/series")["series"]
        assert enrolled.client.get(f"/rollouts/{told['rollout']}")["version"] is None
        assert enrolled.client.get("/versions")["running"] is None
        assert "policy: for nobody to know" in agent_words(enrolled.status())[1]
        assert (told["version"], told["seed"]) == (None, None)
        time.sleep(SAME_KEY_S)
        os.write(writes, b" ")
        until_phase(enrolled, Phase.LABELLING)
        records = RolloutStore(enrolled.state / "rollouts").records()
        assert all(record.blinded and record.shown.version is None for record in records)
        os.write(writes, b"s" if told["number"] == 1 else b"f")
    out, rest = process.communicate(timeout=LIMIT_S)
    os.close(writes)
    assert process.returncode == 0, seen + rest
    ended = json.loads(out)
    assert {result["version"] for result in ended["results"]} == {"version 1", "version 2"}
    assert (ended["comparison"], ended["complete"]) == ("undecided", True)
    records = sorted(RolloutStore(enrolled.state / "rollouts").records(), key=lambda r: r.place.place)  # type: ignore[union-attr]
    assert [f"version {record.version}" for record in records] == [r["version"] for r in ended["results"]]
    assert not any(record.blinded for record in records)
    enrolled.until(lambda: enrolled.client.get("/versions")["running"]["version"] == 2, "version 2 is back")


def test_what_can_not_be_is_refused_with_a_sentence(station: Station) -> None:
    for options, code, said in (
        (["evaluate", "--task", TASK, "--against", "promoted"], 1, "can't be compared with itself"),
        (["evaluate", "--task", TASK, "--against", "previous"], 53, "has joined no fleet"),
        (["rollout", "--task", TASK, "--version", "best"], 1, "version:"),
        (["rollout", "--task", TASK, "--watch"], 1, "leave --task or --watch out"),
    ):
        done = subprocess.run(
            command(station, *options), cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S
        )
        assert (done.returncode, said in done.stderr) == (code, True), done.stderr


# ------------------------------------------------------------------------------------------ without an agent


def test_a_key_means_what_the_person_saw() -> None:
    assert act_of(" ", Phase.RUNNING) is Act.STOP
    assert act_of("\n", Phase.STARTING) is Act.STOP
    assert act_of(" ", Phase.READY) is Act.START
    assert [act_of(key, Phase.RUNNING) for key in "asfrqQ"] == [
        Act.ABORT,
        Act.SUCCESS,
        Act.FAILURE,
        Act.REDO,
        Act.END,
        Act.END,
    ]
    assert act_of("\x03", Phase.RUNNING) is Act.END
    assert (act_of("x", Phase.READY), act_of(None, Phase.READY)) == (None, None)


def told(phase: Phase, labels: str = "", paired: bool = True, **fields: object) -> SeriesTold:
    """`labels`: of the rollouts in order, 1 success; of a pair, the first ran "version 7"."""
    names = ["version 7", "version 6"] if paired else ["version 7"]
    shown = phase is Phase.DONE or not paired
    results = [
        ResultTold(rollout=str(n), success=label == "1", version=names[n % len(names)] if shown else None)
        for n, label in enumerate(labels)
    ]
    values = {
        "id": "1",
        "task": "push the red cube " * 8,
        "phase": phase,
        "versions": names,
        "paired": paired,
        "wanted": 40,
        "number": len(labels) + 1,
        "version": names[0] if shown else None,
        "results": results,
        "discarded": 1,
        "lost": 1,
        "rollout": "r",
        "reason": "time_up",
        "label": None,
        "elapsed_s": 7.0,
        "limit_s": 20.0,
        "ending": True,
        "notice": "",
        "seed": None,
        **fields,
    }
    return SeriesTold.model_validate(values)


def answer(series: SeriesTold) -> SeriesAnswer:
    joints = {name: {"temperature": 61, "load": 100, "voltage": 5.0} for name in ("gripper", "elbow_flex")}
    account = {
        "cameras": {"front": {}, "wrist": {}},
        "pose": [0.0, 80, 0, 0, 0, 50],
        "limits": [[-81.0, 81.0]] * 6,
        "health": {"joints": joints, "warnings": ["joint 6 (gripper) is warm"]},
    }
    rollout = RolloutTold(phase="running", chunks=9, starved=2, latency_ms=45.2, chunk_age_s=0.31, queue=1)
    return SeriesAnswer(node="a", series=series, arm=arm_told(("ready", ""), account, []), rollout=rollout)


def drawn(series: SeriesTold, away: str = "") -> list[str]:
    console = Console(width=80, height=24, record=True, force_terminal=True, file=io.StringIO())
    console.print(Screen(answer(series), keys=True, away=away))
    return console.export_text().splitlines()


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("notice", ["", "the policy could not be made ready for the next rollout. " * 20])
def test_the_picture_fits_a_small_terminal_with_its_keys_whatever_there_is_to_say(phase, notice) -> None:
    lines = drawn(told(phase, "10" * 9, notice=notice), away="the agent has not answered for 3 s")
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert "SPACE" in lines[-1]
    assert "end" in lines[-1]
    for words_ in (
        "the agent has not answered",
        "6 gripper",
        "45 ms",
        "310 ms",
        "rollout 19 of 40: pair 10, first",
    ):
        assert any(words_ in line for line in lines), words_
    assert bool(notice) == any("could not be made ready" in line for line in lines)


def test_a_first_chunk_that_is_held_back_is_said_in_words_that_stay_the_same() -> None:
    said = []
    for ticks in (0, 1, 2):
        seen = answer(told(Phase.RUNNING, ""))
        assert seen.rollout is not None
        rollout = seen.rollout.model_copy(update={"bounded": ticks})
        shown = trouble_lines(seen.model_copy(update={"rollout": rollout}), "")
        said.append([line.plain for line in shown if "first chunk" in line.plain])
    assert said == [[], *[["the first chunk is held to what the version was trained on"]] * 2]


def test_the_picture_of_a_comparison_names_both_versions_and_never_which_one_runs() -> None:
    for phase in Phase:
        if phase is not Phase.DONE:
            text = "\n".join(drawn(told(phase, "1")))
            assert "version 6 or version 7, told at the end" in text
            assert text.count("version 7") == 1
    assert "version 7" in "\n".join(drawn(told(Phase.READY, "1", paired=False)))


def test_the_end_says_what_the_pairs_show_and_what_they_can_not_tell() -> None:
    better = told(Phase.DONE, "10" * 12)
    said = words(better)
    assert said[0] == (
        "version 7 is better than version 6: of 12 pairs only version 7 succeeded in 12, only version 6 in 0."
    )
    assert "5%" in said[1]
    assert "may be anything from" in said[2]
    assert exit_code(better) == 0, "it is decided"
    early = told(Phase.DONE, "1011")
    assert words(early)[0].startswith("Not decided: version 7 may be better than version 6 or not")
    assert exit_code(early) == 130
    worse = told(Phase.DONE, "01" * 12)
    assert words(worse)[0].startswith("It was not shown that version 7 is better than version 6")
    assert as_json(better)["comparison"] == "better"
    alone = told(Phase.DONE, "110", paired=False)
    assert "armfleet evaluate --against" in words(alone)[0]
    assert as_json(alone)["versions"][0]["successes"] == 2
