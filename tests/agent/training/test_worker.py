"""The trainer process, spoken to as the daemon does: a real process, real SIGKILL."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.training.history import History
from shared import envelope
from shared.adapters import Manifest, digest, write_adapter
from shared.channel import FD_VARIABLE
from shared.messages import UpdateHeader
from shared.policy.digest import base_digest
from shared.policy.initial import initial_adapter
from shared.recipe import Recipe

READY_S = 120.0


class Daemon:
    """The other end of a worker's channel."""

    def __init__(self, command: list[str]) -> None:
        self._sock, theirs = socket.socketpair()
        self._sock.settimeout(READY_S)
        environment = {**os.environ, FD_VARIABLE: str(theirs.fileno()), "OMP_NUM_THREADS": "1"}
        with theirs:
            self.process = subprocess.Popen(command, env=environment, pass_fds=[theirs.fileno()])
        self.events: list[dict[str, Any]] = []

    def message(self) -> dict[str, Any]:
        received = envelope.recv(self._sock)
        assert received is not None, "the worker closed its channel"
        return received[0]

    def until(self, event: str) -> dict[str, Any]:
        """The next event of this name; others are kept in `events`."""
        while (message := self.message()).get("event") != event:
            self.events.append(message)
            assert message.get("event") != "failed", message
        return message

    def request(self, op: str, **fields: Any) -> dict[str, Any]:
        envelope.send(self._sock, {"id": 1, "op": op, **fields})
        while "id" not in (message := self.message()):
            self.events.append(message)
        return message

    def hang_up(self) -> int:
        """Close the channel; the worker's exit status."""
        self._sock.close()
        return self.process.wait(20)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)
        self._sock.close()


@pytest.fixture
def station(tiny_base: Path, tmp_path: Path, recorded_episodes: Path) -> Path:
    """agent.toml of a workstation with one recorded episode and no arm."""
    config = tmp_path / "agent.toml"
    state = tmp_path / "state"
    state.mkdir()
    (state / "episodes").symlink_to(recorded_episodes)
    config.write_text(
        f"""
[node]
name = "station-a"
state_dir = "{state}"
socket = "{tmp_path}/agent.sock"
[policy]
base = "{tiny_base}"
[training]
checkpoint_s = 0.001
"""
    )
    return config


@pytest.fixture
def version(tiny_base: Path, recipe: Recipe, tmp_path: Path) -> Path:
    tensors, config = initial_adapter(tiny_base, recipe)
    manifest = Manifest(
        version=0,
        parent=None,
        base_digest=base_digest(tiny_base),
        tensors_digest=digest(tensors),
        recipe=recipe,
        created="2026-01-01T00:00:00Z",
    )
    folder = tmp_path / "version"
    folder.mkdir()
    write_adapter(folder, tensors, config, manifest)
    return folder


@pytest.fixture
def start(station: Path) -> Iterator[Any]:
    started: list[Daemon] = []

    def make() -> Daemon:
        command = [sys.executable, "-m", "agent.training.worker", "--config", str(station)]
        started.append(Daemon(command))
        return started[-1]

    yield make
    for daemon in started:
        daemon.kill()


def test_update_survives_sigkill_in_the_middle(
    start: Any, station: Path, version: Path, recipe: Recipe, tmp_path: Path
) -> None:
    outbox = station.parent / "state" / "outbox"
    long = recipe.model_copy(update={"steps": 400})
    order = {
        "version": 0,
        "folder": str(version),
        "recipe": long.model_dump(mode="json"),
        "learning_rate": 1e-3,
    }

    daemon = start()
    daemon.until("ready")
    assert os.getpriority(os.PRIO_PROCESS, daemon.process.pid) == 19
    refused = daemon.request("train", **order | {"folder": str(tmp_path / "gone")})
    assert "can't be read" in refused["error"]["what"]
    assert daemon.request("train", **order)["result"] == {"started": True}
    built = [daemon.until("building") for _ in range(2)]
    assert [event["tier"] for event in built] == ["features", "prefixes"]
    daemon.until("progress")
    assert 1 < daemon.until("progress")["step"] < 400  # a second later, with a checkpoint after each step
    daemon.kill()
    assert not outbox.exists()

    daemon = start()
    daemon.until("ready")
    assert daemon.request("train", **order | {"version": 1})["result"] == {"started": False}
    assert daemon.request("train", **order)["result"] == {"started": True}
    update_id = daemon.until("update")["id"]
    assert not [e for e in daemon.events if e.get("event") == "building"], "the cache is there"
    assert min(e["step"] for e in daemon.events if e.get("event") == "progress") > 1
    (folder,) = outbox.iterdir()
    header = UpdateHeader.model_validate_json((folder / "header.json").read_text())
    assert folder.name == header.id == update_id
    assert (header.steps, header.base_version, header.node) == (400, 0, "station-a")
    (record,) = History(station.parent / "state" / "training").records()
    assert (record.update, record.train_loss) == (update_id, pytest.approx(header.losses, rel=1e-3))

    endless = recipe.model_copy(update={"steps": 100_000}).model_dump(mode="json")
    daemon.request("train", **order | {"recipe": endless})
    daemon.until("progress")
    assert daemon.request("status")["result"]["training"] is True
    began = time.monotonic()
    assert daemon.hang_up() == 0  # the daemon died: the trainer ends in the middle of its update
    assert time.monotonic() - began < 5
