"""`armfleet rollout` and `evaluate` in terminals and pipes, against an agent whose workers are stand-ins."""

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

from agent.evaluation.rollouts import RolloutStore
from agent.sessions.series import OPERATOR_GONE, Act, Phase
from agent.sessions.series_messages import SeriesAnswer
from cli.attending import SAME_KEY_S
from cli.rollout import act_of
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


def test_a_person_takes_over_by_a_key_and_what_he_showed_is_an_episode(station: Station) -> None:
    terminal = Terminal(command(station, "rollout", "--task", TASK))
    terminal.await_words("set up the scene")
    terminal.press(" ")
    terminal.await_words("take over")
    terminal.press("t")
    terminal.await_words("hand back")
    time.sleep(SAME_KEY_S)
    terminal.press("t")
    terminal.await_words("is kept: 4.2 s")
    terminal.press("s")
    terminal.await_words("a person took over")
    terminal.press("f")
    assert terminal.end() == 0, terminal.seen[-3000:]
    assert "Recorded by taking over: 000001" in terminal.seen
    terminal.close()
    argv = ("episodes", "list", "--origin", "intervention", "--json", "--config", str(station.config))
    listed = subprocess.run(
        [sys.executable, "-m", "cli.main", *argv], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S
    )
    (episode,) = (json.loads(line) for line in listed.stdout.splitlines())
    rollout = RolloutStore(station.state / "rollouts").records()[-1]
    assert episode["intervention"] == {"rollout": rollout.id, "version": None}
    assert (rollout.interventions, rollout.success) == (1, False)


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
    assert (act_of("t", Phase.RUNNING), act_of("t", Phase.RUNNING, led=True)) == (
        Act.TAKE_OVER,
        Act.HAND_BACK,
    )
