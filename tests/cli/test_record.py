"""`armfleet record` in terminals and pipes, against a running agent whose arm is a stand-in."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from rich.console import Console

from agent.episodes.record import read_record
from agent.sessions.session import Act, Phase
from agent.sessions.session_messages import Answer, arm_told
from cli.attending import SAME_KEY_S, read_key
from cli.keys import Keys
from cli.record import act_of
from cli.recording_summary import exit_code, sentence, what_to_do
from cli.recording_view import GO_ON, Screen, trouble_lines
from cli.status import agent_words
from tests.agent.test_daemon import Station
from tests.cli.terminal import LIMIT_S, ROOT, Terminal

TASK = "push the red cube to the left"


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    home = tmp_path_factory.mktemp("a")
    made = Station(home, home / "base")
    made.start()
    yield made
    made.stop(signal.SIGKILL)


@pytest.fixture
def open_terminal(station):
    opened = []

    def open_one(*options: str) -> Terminal:
        opened.append(Terminal(command(station, *options)))
        return opened[-1]

    yield open_one
    for terminal in opened:
        terminal.close()
    if phase(station) is not Phase.DONE:  # a test that failed half-way
        for _ in range(2):
            station.client.post("/recording/act", {"act": "end"})
        until_phase(station, Phase.DONE)


def command(station: Station, *options: str) -> list[str]:
    return [sys.executable, "-m", "cli.main", "record", "--socket", str(station.client.path), *options]


def phase(station: Station) -> Phase | None:
    session = Answer.model_validate(station.client.get("/recording")).session
    return session.phase if session else None


def until_phase(station: Station, wanted: Phase) -> None:
    deadline = time.monotonic() + LIMIT_S
    while phase(station) is not wanted:
        assert time.monotonic() < deadline, f"{phase(station)} instead of {wanted}"
        time.sleep(0.02)


def pause_for_the_finger() -> None:
    """The same key counts again only after a while."""
    time.sleep(SAME_KEY_S)


def test_a_session_outlives_its_terminal_is_watched_by_another_and_ends_with_every_verdict(
    station, open_terminal
):
    first = open_terminal("--task", TASK, "--episodes", "3", "--reset", "600")
    first.await_words("waits for the key that starts episode 1 of 3")
    first.press(" ")
    until_phase(station, Phase.RECORDING)
    watcher = open_terminal("--watch")
    watcher.await_words("RECORDING")
    watcher.press("d")  # it has no keys
    first.press("s")
    first.await_words("marked success")
    pause_for_the_finger()
    first.press(" ")
    first.await_words("put things back")
    first.press("\n")
    until_phase(station, Phase.RECORDING)
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    assert "2 of 3" in watcher.seen
    second = open_terminal()
    second.await_words("RECORDING")
    second.press("d")
    second.await_words("discarded 1")
    for _ in range(2):
        second.press(" ")
        until_phase(station, Phase.RECORDING)
        second.await_words("RECORDING")
        pause_for_the_finger()
        second.press(" ")
        pause_for_the_finger()
    assert (second.end(), watcher.end()) == (0, 0), second.seen[-3000:]
    for terminal in (second, watcher):
        assert "3 of 3 episodes recorded: 3 admitted; 1 discarded." in terminal.seen
    labels = {folder.name: read_record(folder).label for folder in (station.state / "episodes").glob("0*")}
    assert sorted(labels.values(), key=str) == [None, None, "success"]
    assert station.status()["activity"] == "idle"


def test_ending_asks_first_and_the_exit_status_says_that_it_was_early(station, open_terminal):
    terminal = open_terminal("--task", TASK, "--episodes", "2")
    terminal.await_words("waits for the key")
    terminal.press(" ")
    terminal.await_words("RECORDING")
    assert "0 of 2 episodes kept, recording; a terminal has its keys" in agent_words(station.status())[1]
    terminal.press("\x03")
    terminal.await_words("q again throws it away")
    assert phase(station) is Phase.RECORDING
    terminal.press("q")
    assert terminal.end() == 130, terminal.seen[-2000:]
    assert "0 of 2 episodes recorded; 1 discarded." in terminal.seen
    assert f"armfleet record --task '{TASK}' --episodes 2" in terminal.seen


def test_a_terminal_that_is_hung_up_leaves_the_session_as_it_is(station, open_terminal):
    terminal = open_terminal("--task", TASK, "--episodes", "2")
    terminal.await_words("waits for the key")
    terminal.process.send_signal(signal.SIGHUP)
    assert terminal.end() == 129
    assert "armfleet record` goes on with it" in terminal.seen
    assert phase(station) is Phase.READY
    refused = subprocess.run(
        command(station, "--task", "another"), cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S
    )
    assert refused.returncode == 1
    assert f"a session is running: {TASK}" in refused.stderr


def test_pipes_get_lines_and_a_summary_as_json(station):
    reads, writes = os.pipe()
    process = subprocess.Popen(
        command(station, "--task", TASK, "--episodes", "1", "--json"),
        cwd=ROOT,
        stdin=reads,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(reads)
    assert process.stderr is not None
    seen = process.stderr.readline()
    while "ready" not in seen:
        seen += process.stderr.readline()
    os.write(writes, b" ")
    while "recording episode" not in seen:
        seen += process.stderr.readline()
    time.sleep(SAME_KEY_S)
    os.write(writes, b"f ")
    out, rest = process.communicate(timeout=LIMIT_S)
    os.close(writes)
    assert process.returncode == 0, seen + rest
    told = json.loads(out)
    assert (told["kept"], told["complete"], told["verdicts"]["admitted"]) == (1, True, 1)
    assert told["episodes"][0]["label"] == "failure"
    assert "neither trained on nor exported" in told["episodes"][0]["do"]
    assert "done (1 of 1 kept)" in seen + rest


def test_input_that_ends_detaches(station):
    done = subprocess.run(
        command(station, "--task", TASK),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == 129
    assert phase(station) is Phase.READY
    station.client.post("/recording/act", {"act": "end"})
    until_phase(station, Phase.DONE)


def test_what_can_not_be_is_refused_with_a_sentence(station, tmp_path):
    for options, words in (
        (["--task", TASK, "--watch"], "leave --task or --watch out"),
        (["--task", " "], "an episode needs a task"),
    ):
        done = subprocess.run(
            command(station, *options), cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S
        )
        assert done.returncode == 1
        assert words in done.stderr
    away = [*command(station)[:-1], str(tmp_path / "nobody.sock")]
    done = subprocess.run(away, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S)
    assert (done.returncode, "nobody answers" in done.stderr) == (50, True)


# ------------------------------------------------------------------------------------------ without an agent


@pytest.mark.parametrize(
    ("typed", "key"),
    [
        (" ", " "),
        ("\r", "\n"),
        ("\x1b[C", " "),
        ("\x1bOD", "d"),
        ("\x1b", "\x1b"),
        ("\x1b[A", None),
        ("\x1b[3~", None),
    ],
)
def test_arrow_keys_mean_what_they_mean_in_lerobot_and_never_end_a_session(typed, key):
    reads, writes = os.pipe()
    try:
        with Keys(reads) as keys:
            os.write(writes, typed.encode() + b"p")
            assert read_key(keys, 1.0) == (key if typed != "\x1b" else None)
            if typed != "\x1b":
                assert read_key(keys, 1.0) == "p", "and nothing of it is left"
            else:
                os.write(writes, b"\x1b")
                assert read_key(keys, 1.0) == key
    finally:
        os.close(reads)
        os.close(writes)


def test_a_key_means_what_the_person_saw():
    assert act_of(" ", Phase.RECORDING) is Act.STOP
    assert act_of(" ", Phase.RESETTING) is Act.START
    assert act_of("S", Phase.RECORDING) is Act.SUCCESS
    assert act_of("\x03", Phase.READY) is Act.END
    assert (act_of("x", Phase.READY), act_of(None, Phase.READY)) == (None, None)


def answer(phase: Phase, **fields: object) -> Answer:
    episodes = [
        {
            "id": f"{number:06d}",
            "frames": 240,
            "seconds": 8.0,
            "label": "success",
            "verdict": verdict,
            "reasons": ["the gripper never moves " * 5] if verdict == "quarantined" else [],
            "notes": [],
        }
        for number, verdict in enumerate(["admitted", "quarantined", "undecidable", "unjudged"] * 4, 1)
    ]
    session = {
        "id": "1",
        "task": "push the red cube " * 8,
        "wanted": 20,
        "phase": phase,
        "kept": [episode["id"] for episode in episodes],
        "discarded": 1,
        "lost": 1,
        "episode": None,
        "label": "failure",
        "elapsed_s": 7.0,
        "limit_s": 120.0,
        "reset_s": 10.0,
        "left_s": 3.0 if phase is Phase.RESETTING else None,
        "pausing": True,
        "notice": "",
        **fields,
    }
    return Answer.model_validate(
        {
            "node": "a",
            "session": session,
            "arm": arm_told(("ready", ""), {"cameras": {"front": {}, "wrist": {}}}, []),
            "space": {"minutes": 5, "bytes_per_s": 1e6, "measured": False},
            "episodes": episodes,
            "gate": {"waiting": 4, "fault": ""},
        }
    )


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("notice", ["", "camera front sent its last frame 1.2 s ago. " * 20])
def test_the_picture_fits_a_small_terminal_with_its_keys_whatever_there_is_to_say(phase, notice):
    console = Console(width=80, height=24, record=True, force_terminal=True, file=io.StringIO())
    console.print(Screen(answer(phase, notice=notice), keys=True, away="the agent has not answered for 3 s"))
    lines = console.export_text().splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert "SPACE" in lines[-1]
    assert "end" in lines[-1]
    assert any("the agent has not answered" in line for line in lines)
    assert any("6 gripper" in line for line in lines)
    assert bool(notice) == any("camera front sent" in line for line in lines)


def test_a_fault_that_stands_is_said_once_and_when_it_is_gone_what_to_do():
    told = answer(Phase.INTERRUPTED, notice="the camera stopped 1.0 s ago")
    standing = told.model_copy(update={"arm": arm_told(("ready", ""), {}, ["the camera stopped 7.0 s ago"])})
    assert [line.plain for line in trouble_lines(standing, "")] == ["the camera stopped 7.0 s ago"]
    assert [line.plain for line in trouble_lines(told, "")] == ["the camera stopped 1.0 s ago", GO_ON]
    gone = told.model_copy(update={"arm": arm_told(("failed", "it ended"), {}, [])})
    assert GO_ON not in [line.plain for line in trouble_lines(gone, "")]


def test_the_end_says_what_became_of_each_episode_and_what_to_do():
    told = answer(Phase.DONE)
    assert told.session is not None
    assert sentence(told, told.session) == (
        "16 of 20 episodes recorded: 4 admitted, 4 quarantined, 4 undecidable, 4 not judged yet; "
        "1 discarded, 1 lost."
    )
    assert [what_to_do(episode).split(";")[0] for episode in told.episodes[:4]] == [
        "",
        "armfleet episodes show 000002",
        "armfleet episodes show 000003",
        "the gate is not done with it",
    ]
    assert exit_code(told.session) == 130
    assert exit_code(told.session.model_copy(update={"wanted": 16})) == 0
