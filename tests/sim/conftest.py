"""A running virtual workstation for the tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sim.launch import LaunchedWorkstation, launch


@pytest.fixture(scope="module")
def workstation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LaunchedWorkstation]:
    folder = tmp_path_factory.mktemp("ws")
    config = folder / "workstation.toml"
    config.write_text(f'dir = "{folder}"\n[cameras.front]\nport = 0\n')
    launched = launch(config)
    yield launched
    launched.stop()


@pytest.fixture
def healed(workstation: LaunchedWorkstation) -> Iterator[LaunchedWorkstation]:
    """The workstation, healthy again after the test."""
    yield workstation
    for bus in ("follower", "leader"):
        workstation.control.post("/fault", {"bus": bus})
        workstation.control.post("/power-cycle", {"bus": bus})
    workstation.control.post("/camera-fault", {})


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    """A workstation of its own, not started."""
    config = tmp_path / "workstation.toml"
    config.write_text(f'dir = "{tmp_path}"\n[cameras.front]\nport = 0\n')
    return config
