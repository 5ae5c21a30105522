"""The command: fast help, sentences and numbered exit codes for people, documented codes."""

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from agent.config import load_agent_config
from cli.doctor.report import Examination
from cli.main import app
from cli.status import agent_words, coordinator_words, held_versions
from shared.exit_codes import ExitCode

ROOT = Path(__file__).parents[2]
FIELD = {"task": "push", "successes": 14, "rollouts": 20, "interventions": 3, "unsafe": 1}
RUNNER = CliRunner()


def test_help_needs_neither_torch_nor_lerobot_nor_flower():
    code = (
        "import sys\nfrom cli.main import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'lerobot', 'flwr', 'mujoco', 'tuf'} & {n.split('.')[0] for n in sys.modules}\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-1000:]
    assert "demo" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["doctor", "--config", "nowhere.toml"], ExitCode.CONFIG_UNREADABLE),
        (["coordinator-init", "--config", "nowhere.toml"], ExitCode.CONFIG_UNREADABLE),
        (["arm", "hold", "--socket", "nowhere.sock"], ExitCode.COORDINATOR_AWAY),
        (["versions", "--socket", "nowhere.sock"], ExitCode.COORDINATOR_AWAY),
        (["versions", "verify", "1", "--socket", "nowhere.sock"], ExitCode.COORDINATOR_AWAY),
        (["status", "--demo", "nowhere"], ExitCode.CONFIG_UNREADABLE),
        (["demo", "--stations", "1"], ExitCode.CONFIG_INVALID),
    ],
)
def test_an_error_is_a_sentence_and_a_number(arguments, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code
    assert done.stderr.startswith("armfleet: ")
    assert "Traceback" not in done.stderr
    assert f"Exit code {int(code)}" in done.stderr


def test_a_wrong_key_is_named_with_file_and_line(tmp_path):
    config = tmp_path / "agent.toml"
    config.write_text('[node]\nname = "a"\nstate_dir = "/tmp"\n[polcy]\nbase = "x"\n')
    result = RUNNER.invoke(app, ["doctor", "--config", str(config)])
    assert result.exit_code == ExitCode.CONFIG_INVALID


def test_doctor_names_what_is_wrong(tmp_path):
    config = tmp_path / "agent.toml"
    config.write_text(
        f"""
        [node]
        name = "a"
        state_dir = "{tmp_path}"
        socket = "{tmp_path}/agent.sock"
        [policy]
        base = "{tmp_path}/no-base"
        [arm]
        follower_port = "{tmp_path}/ttyF"
        leader_port = "{tmp_path}/ttyL"
        calibration_dir = "{tmp_path}"
        [cameras.front]
        type = "opencv"
        index_or_path = "{tmp_path}/video"
        width = 640
        height = 480
        fps = 30
        """
    )
    looked = Examination(load_agent_config(config), tmp_path / "pictures").findings(lambda what: None)
    findings = {finding.what: finding for finding in looked}
    assert findings["follower port"].code == ExitCode.PORT_MISSING
    assert findings["leader calibration"].code == ExitCode.CALIBRATION_MISMATCH
    assert findings["camera front"].code == ExitCode.CAMERA_LOST
    assert findings["base policy"].code == ExitCode.BASE_MISSING
    assert "in no fleet" in findings["enrolment"].means
    assert RUNNER.invoke(app, ["doctor", "--config", str(config)]).exit_code == ExitCode.PORT_MISSING


def test_every_exit_code_has_its_paragraph():
    page = (ROOT / "docs" / "exit-codes.md").read_text()
    documented = {int(number): name for number, name in re.findall(r"^### (\d+) (\w+)$", page, re.MULTILINE)}
    assert documented == {int(code): code.name for code in ExitCode}


MEASURED = {
    "evaluation": {
        "known": {"pull_red": {"successes": 16, "rollouts": 20, "wilson": [0.584, 0.919]}},
        "unseen": {
            "pull_blue": {
                "successes": 2,
                "rollouts": 20,
                "wilson": [0.028, 0.301],
                "kind": "unseen combination",
            }
        },
        "generalisation": {"score": 0.125, "low": 0.034, "high": 0.4},
    },
    "at_stations": [{"task": "pull the red cube back", "loss": 0.51234, "action_mse": 0.25, "stations": 2}],
    "field": [FIELD],
}
SHOWN = (
    "pull_red: 16/20 [58%-92%]",
    "pull_blue: 2/20 [3%-30%] (unseen combination)",
    "generalisation: 0.12 [0.03-0.40]",
    "pull the red cube back: loss 0.5123, action MSE 0.25, 2 stations",
    "push: 14/20 [48%-85%], 3 interventions",
)


def test_the_versions_of_a_coordinator_say_what_each_can_do(tmp_path, monkeypatch):
    (tmp_path / "c.sock").touch()
    version = {"version": 20, "state": "promoted", "why": "better", "contributions": [], "remembered": []}
    fresh = {**version, "version": 21, "evaluation": None, "at_stations": [], "field": []}
    answer = {"versions": [{**version, **MEASURED}, fresh]}
    monkeypatch.setattr("cli.status.UdsClient.get", lambda client, path: answer)
    monkeypatch.setenv("COLUMNS", "300")
    result = RUNNER.invoke(app, ["versions", "--socket", str(tmp_path / "c.sock")])
    assert result.exit_code == 0, result.output
    assert [words for words in SHOWN if words not in result.output] == []


def test_the_status_of_a_coordinator_in_words():
    status = {
        "promoted": {"version": 20, "why": "mean success rose from 10% to 80%", **MEASURED},
        "field": {"now": "version 20 against 15: not shown to be worse"},
        "newest": 24,
        "rounds": 60,
        "aggregation": {
            "now": "1 of 2 updates is in",
            "set_aside": ["update 1 began from version 9, which is gone"],
        },
        "evaluation": {"now": "idle: no version is due", "version": None},
        "exchange": {"now": "2 of 2 nodes are online", "training": "all 60 rounds are done"},
        "nodes": [{"name": "a", "online": True, "activity": "train", "updates": 9, "trouble": ""}],
    }
    now, why = coordinator_words(status)
    assert now == "version 24 of 60 rounds; 20 is promoted"
    assert "not asked for: all 60 rounds are done" in why
    assert "a: online, train, 9 updates" in why
    assert "set aside: update 1 began from version 9, which is gone" in why
    assert "in the field: version 20 against 15: not shown to be worse" in why
    assert "version 20, push: 14/20 [48%-85%], 3 interventions, 1 ended by an unsafe arm" in why
    assert [words for words in SHOWN if words not in why] == []


REPORTED = {"version": 20, "task": "push", "labels": "110", "interventions": None, "unsafe": 0}
HELD = {
    "blinded": False,
    "promoted": {"version": 20, "digest": "d"},
    "candidate": {"version": 24, "digest": "e"},
    "running": {"version": 20, "digest": "d"},
    "fault": "",
    "why": "rolled back to, from version 22: worse in the field [all]",
    "field": [REPORTED, {**REPORTED, "version": 22, "labels": "000"}],
}


def test_a_workstation_shows_the_versions_it_holds_why_and_what_they_did_on_its_arm():
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(held_versions(HELD))
    lines = console.export_text().splitlines()
    (promoted,) = (line for line in lines if "promoted, running" in line)
    assert "rolled back to, from version 22: worse in the field [all]" in promoted
    assert "push: 2/3 [21%-94%]" in promoted
    assert any("22" in line and "push: 0/3" in line for line in lines if line != promoted)
    assert any("24" in line and "candidate" in line for line in lines)


BUILDING = {"tier": "features", "episode": 3, "episodes": 22}


@pytest.mark.parametrize(
    ("progress", "words"),
    [
        (BUILDING, "training: building the cache: episode 3 of 22 (features)"),
        ({"step": 2, "steps": 16, "loss": 0.25}, "training: step 2 of 16, loss 0.250"),
        ({}, None),
    ],
)
def test_the_status_of_an_agent_says_why_its_version_is_promoted_what_it_did_and_what_it_trains(
    progress, words
):
    exchange = {
        "last_check_in_s": 3.0,
        "refused": "",
        "outbox": {"updates": 0},
        "versions": HELD,
        "training": {"progress": progress, "fault": ""},
    }
    status = {
        "activity": "idle",
        "why": "nothing to do",
        "faults": {},
        "arm": None,
        "episodes": {},
        "exchange": exchange,
        "workers": {},
    }
    _, why = agent_words(status)
    assert "promoted: rolled back to, from version 22: worse in the field" in why
    assert "version 22, push: 0/3" in why
    assert [line for line in why.splitlines() if line.startswith("training:")] == ([words] if words else [])


def test_versions_asks_the_agent_where_there_is_no_coordinator(tmp_path, monkeypatch):
    (tmp_path / "agent.sock").touch()
    asked = []

    def get(client, path):
        asked.append((client.path.name, path))
        return HELD

    monkeypatch.setattr("cli.status.UdsClient.get", get)
    sockets = ["--socket", str(tmp_path / "c.sock"), "--agent-socket", str(tmp_path / "agent.sock")]
    result = RUNNER.invoke(app, ["versions", *sockets])
    assert result.exit_code == 0, result.output
    assert asked == [("agent.sock", "/versions")]


def test_the_status_of_an_agent_in_words():
    status = {
        "activity": "idle",
        "why": "training waits: the arm was used 2 s ago",
        "faults": {},
        "arm": {"fault": "joint 6 (gripper) is silent", "torque_fault": ""},
        "episodes": {"admitted": 3, "quarantined": 0},
        "exchange": None,
        "workers": {"arm": {"state": "failed", "reason": "was killed by SIGKILL"}},
    }
    now, why = agent_words(status)
    assert now == "idle"
    for words in ("used 2 s ago", "gripper", "3 admitted", "no fleet was joined", "killed by SIGKILL"):
        assert words in why
