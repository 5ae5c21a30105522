"""The systemd units: what they promise, and that systemd itself can read them."""

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

from agent.cgroup import CONTROLLERS
from cli.main import app

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
PREFIX = "/opt/armfleet/.venv/bin/armfleet"
FINALISE_S = 60
"""Longest time that ending an episode may take; a SIGKILL before that loses it."""


def read(path):
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read(path)
    return parser


def test_there_are_five_services():
    names = {path.stem.removeprefix("armfleet-") for path in UNITS}
    assert names == {"agent", "supernode", "superlink", "superexec", "coordinator"}


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_each_restarts_for_ever_and_is_confined(path):
    unit = read(path)
    service = unit["Service"]
    assert (service["Restart"], service["RestartSec"]) == ("always", "5")
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"
    assert (service["NoNewPrivileges"], service["ProtectSystem"]) == ("yes", "strict")
    assert service["User"].startswith("armfleet")


@pytest.mark.parametrize("name", ["agent", "coordinator"])
def test_the_daemons_notify_and_are_watched(name):
    service = read(DEPLOY / "systemd" / f"armfleet-{name}.service")["Service"]
    assert service["Type"] == "notify"
    assert int(service["WatchdogSec"]) > 0


def test_the_agent_may_finish_an_episode_and_always_lets_go_of_the_arm():
    service = read(DEPLOY / "systemd" / "armfleet-agent.service")["Service"]
    assert int(service["TimeoutStopSec"]) > FINALISE_S
    assert "arm release --direct" in service["ExecStopPost"]


def test_the_agent_may_divide_its_own_control_group_and_a_starved_trainer_ends_alone():
    service = read(DEPLOY / "systemd" / "armfleet-agent.service")["Service"]
    assert service["Delegate"].split() == list(CONTROLLERS)
    assert service["ProtectControlGroups"] == "no"
    assert service["User"] == "armfleet"  # whose permissions keep the rest of the tree from it
    assert service["OOMPolicy"] == "continue"


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_what_a_unit_runs_is_a_command_of_armfleet(path):
    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    known |= {group.name for group in app.registered_groups}
    service = read(path)["Service"]
    for line in (service["ExecStart"], service.get("ExecStopPost", "")):
        if line:
            program, command = line.lstrip("-").split()[:2]
            assert program == PREFIX
            assert command in known


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_can_read_the_units(tmp_path):
    program = tmp_path / "armfleet"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    copies = []
    for path in UNITS:
        copy = tmp_path / path.name
        copy.write_text(path.read_text().replace(PREFIX, str(program)))
        copies.append(str(copy))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", *copies],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    complaints = [line for line in done.stderr.splitlines() if "armfleet" in line]
    assert complaints == []
    assert done.returncode == 0, done.stderr
