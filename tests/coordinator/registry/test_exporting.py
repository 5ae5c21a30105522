"""`armfleet versions export`: from the state folder, whether the coordinator runs or not."""

import subprocess
import sys
from pathlib import Path

import pytest

from coordinator.config import load
from coordinator.enrolment.setup import init
from coordinator.registry.exporting import export_policy
from coordinator.registry.registry import Registry
from shared.errors import ArmfleetError

CONFIG = """
[coordinator]
name = "lab"
state_dir = "{folder}/state"
socket = "{folder}/c.sock"
enrol_socket = "{folder}/e.sock"
[policy]
base = "{base}"
[public]
url = "https://robots.example:443"
"""


@pytest.fixture
def toml(tiny_base: Path, tmp_path: Path) -> Path:
    file = tmp_path / "coordinator.toml"
    file.write_text(CONFIG.format(folder=tmp_path, base=tiny_base))
    init(load(file))
    return file


def export(toml: Path, number: int, target: Path) -> subprocess.CompletedProcess[str]:
    command = ["versions", "export", str(number), "--policy", str(target), "--config", str(toml)]
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *command], capture_output=True, text=True, timeout=200, check=False
    )


def test_it_is_exported_beside_a_running_coordinator(toml: Path, tmp_path: Path) -> None:
    running = Registry(tmp_path / "state")
    done = export(toml, 0, tmp_path / "out")
    running.close()
    assert done.returncode == 0, done.stderr
    assert "On a probe its actions differ from the adapter's by at most" in done.stdout
    assert (tmp_path / "out/model.safetensors").exists()


def test_a_version_that_is_not_there_is_named(toml: Path, tmp_path: Path) -> None:
    with pytest.raises(ArmfleetError, match="there is no version 9"):
        export_policy(load(toml), 9, tmp_path / "out")
    assert not (tmp_path / "out").exists()
