"""What an ordinary user meets on a real workstation: folders that only the service may read, no base here."""

import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agent.config import load_agent_config
from cli.doctor.report import Examination
from cli.main import app
from cli.status import show
from shared.exit_codes import ExitCode
from shared.policy.digest import base_digest

ROOT = Path(__file__).parents[2]
RUNNER = CliRunner()


def look(config):
    examination = Examination(load_agent_config(config), config.parent / "pictures")
    return {finding.what: finding for finding in examination.findings(lambda what: None)}


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "agent.toml"

    def write(base):
        path.write_text(
            f'[node]\nname = "a"\nstate_dir = "{tmp_path}/closed/state"\n'
            f'socket = "{tmp_path}/closed/agent.sock"\n[policy]\nbase = "{base}"\n'
            f'[arm]\nfollower_port = "{tmp_path}/F"\nleader_port = "{tmp_path}/L"\n'
            f'calibration_dir = "{tmp_path}/closed"\n[cameras.front]\ntype = "opencv"\n'
            f'index_or_path = "{tmp_path}/video"\nwidth = 96\nheight = 96\nfps = 30\n'
        )
        return path

    return write


@pytest.fixture
def closed(tmp_path, monkeypatch):
    """A folder that this user may not look into, also when the tests run as root."""
    folder, look = tmp_path / "closed", Path.stat

    def refused(path, **options):
        if folder in path.parents:
            raise PermissionError(13, "Permission denied", str(path))
        return look(path, **options)

    monkeypatch.setattr(Path, "stat", refused)
    monkeypatch.setattr("os.access", lambda path, mode: folder not in Path(path).parents)
    return folder


def test_doctor_says_what_it_may_not_look_at_and_goes_on(config, closed):
    findings = look(config(ROOT / "sim/base"))
    assert findings["servos"].verdict == "warn", "the agent that can't be asked may have the ports"
    for what in ("calibration", "disk", "agent", "enrolment"):
        assert findings[what].verdict == "warn"
        assert "usermod -aG armfleet" in findings[what].do
    assert findings["follower port"].code == ExitCode.PORT_MISSING
    assert findings["base policy"].verdict == "ok"


def test_status_says_how_to_be_let_in(closed, capsys):
    assert show(None, closed / "agent.sock", closed / "coordinator.sock", True) == ExitCode.COORDINATOR_AWAY
    assert capsys.readouterr().out.count("usermod -aG armfleet") == 2


def test_doctor_downloads_nothing_and_says_in_whose_cache_it_looked(config, monkeypatch):
    asked = []

    def snapshot(hub_id, **options):
        asked.append(options)
        raise OSError("not here")

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr("shared.policy.source.snapshot_download", snapshot)
    findings = look(config("some/base"))
    assert findings["base policy"].code == ExitCode.BASE_MISSING
    assert "the cache of" in findings["base policy"].means
    assert [options.get("local_files_only") for options in asked] == [True]


def test_join_compares_the_installed_base_with_the_fleets(config, monkeypatch):
    given = []
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("agent.exchange.join.join", lambda *arguments: given.append(arguments))
    base = ROOT / "sim" / "base"
    assert RUNNER.invoke(app, ["join", "b.json", "--config", str(config(base))]).exit_code == 0
    assert given[0][2] == base_digest(base)


def test_an_invitation_is_not_asked_for_where_it_cannot_be_written(tmp_path, monkeypatch):
    posted = []

    def post(client, url, body):
        posted.append(body)
        return {"secret": "s"}

    monkeypatch.setattr("shared.uds.UdsClient.post", post)
    nowhere = str(tmp_path / "nowhere" / "a.join.json")
    assert RUNNER.invoke(app, ["node", "invite", "a", "--out", nowhere]).exit_code == ExitCode.CONFIG_INVALID
    assert posted == []
    bundle = tmp_path / "a.join.json"
    assert RUNNER.invoke(app, ["node", "invite", "a", "--out", str(bundle)]).exit_code == 0
    assert stat.S_IMODE(bundle.stat().st_mode) == 0o600
