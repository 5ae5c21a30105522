"""The trainer's cgroup: values on a tree of plain files, processes on a real one."""

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from loguru import logger

from agent.cgroup import Cgroup, divide

UNIT = "system.slice/armfleet-agent.service"


@pytest.fixture
def said() -> Iterator[list[str]]:
    lines: list[str] = []
    sink = logger.add(lambda line: lines.append(line.rstrip()), level="INFO", format="{level} {message}")
    yield lines
    logger.remove(sink)


@pytest.fixture
def unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for what systemd delegates: plain files, as few machines that run tests hand over their
    controllers. It shows what is written where, not what the kernel makes of it."""
    monkeypatch.setenv("SYSTEMD_EXEC_PID", str(os.getpid()))
    (tmp_path / "own").write_text(f"3:cpuset:/elsewhere\n0::/{UNIT}\n")
    (tmp_path / "cgroup.controllers").touch()
    unit = tmp_path / UNIT
    unit.mkdir(parents=True)
    (unit / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    return unit


def train(unit: Path, **files: str) -> Path:
    """The group `train` with the kernel's files in it; `__` stands for a dot."""
    folder = unit / "train"
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def divided(unit: Path, memory_limit_gb: float | None = None) -> Cgroup | None:
    root = unit.parents[1]
    return divide(memory_limit_gb, root, root / "own")


def test_the_daemon_leaves_the_unit_s_group_before_controllers_are_enabled(
    unit: Path, said: list[str]
) -> None:
    assert divided(unit) is not None
    assert (unit / "agent" / "cgroup.procs").read_text() == "0"
    assert (unit / "cgroup.subtree_control").read_text() == "+cpu +io +memory"
    assert said == [f"INFO training has the cgroup {unit / 'train'}, with limits of: cpu, io, memory"]


@pytest.mark.parametrize(("limit_gb", "written"), [(None, "max"), (6.5, "6500000000")])
def test_the_trainer_gets_the_least_of_everything_and_hurries_only_to_its_end(
    unit: Path, limit_gb: float | None, written: str
) -> None:
    names = ("cpu__weight", "io__weight", "memory__max", "memory__oom__group", "cgroup__procs")
    folder = train(unit, **dict.fromkeys(names, "?"))
    cgroup = divided(unit, limit_gb)
    assert cgroup is not None
    cgroup.enclose(4711)
    wanted = {"cpu.weight": "1", "io.weight": "1", "memory.max": written, "memory.oom.group": "1"}
    assert {file.name: file.read_text() for file in folder.iterdir()} == wanted | {"cgroup.procs": "4711"}
    cgroup.hasten()
    assert (folder / "cpu.weight").read_text() == "100"
    cgroup.enclose(4712)
    assert (folder / "cpu.weight").read_text() == "1"


def test_a_limit_that_the_kernel_refuses_is_named_and_the_others_hold(unit: Path, said: list[str]) -> None:
    folder = train(unit, memory__max="max", cgroup__procs="")
    (folder / "io.weight").mkdir()  # can't be written, also by root
    cgroup = divided(unit, 2)
    assert cgroup is not None
    cgroup.enclose(4711)
    assert (folder / "memory.max").read_text() == "2000000000"
    assert (folder / "cgroup.procs").read_text() == "4711"
    assert [line for line in said if line.startswith("WARNING io.weight = 1 of the trainer's")] == said[1:]


def test_only_what_was_killed_since_the_start_counts(unit: Path) -> None:
    events = train(unit, memory__events="oom 1\noom_kill 4\noom_group_kill 1\n") / "memory.events"
    cgroup = divided(unit)
    assert cgroup is not None
    cgroup.enclose(4711)
    assert not cgroup.ran_out_of_memory()
    events.write_text("oom 2\noom_kill 6\noom_group_kill 2\n")
    assert cgroup.ran_out_of_memory()
    cgroup.enclose(4712)
    assert not cgroup.ran_out_of_memory()
    events.unlink()  # no memory controller
    assert not cgroup.ran_out_of_memory()


def without_systemd(unit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYSTEMD_EXEC_PID", str(os.getppid()))  # inherited from a service that started us


def with_version_1(unit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (unit.parents[1] / "cgroup.controllers").unlink()


def with_nothing_delegated(unit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (unit / "agent").touch()  # can't be made, also by root


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (without_systemd, "the agent was not started by systemd."),
        (with_version_1, "the system has no cgroup v2."),
        (with_nothing_delegated, "the unit's can't be divided (Delegate=): "),
    ],
)
def test_without_a_group_one_line_says_why_and_nothing_changes(
    unit: Path, said: list[str], monkeypatch: pytest.MonkeyPatch, spoil: object, reason: str
) -> None:
    assert callable(spoil)
    spoil(unit, monkeypatch)
    assert divided(unit, 6) is None
    assert len(said) == 1
    assert said[0].startswith(f"INFO training has no cgroup limits: {reason}")
    assert not (unit / "cgroup.subtree_control").exists()


# ---------------------------------------------------------------- on the kernel's own tree

TRAINER = """
import os, subprocess, sys
from shared.channel import WorkerChannel, serve
channel = WorkerChannel.from_environment()
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
channel.emit("ready")
serve({"pids": lambda _: {"pids": [os.getpid(), child.pid]}}, channel)
"""
AGENT = """
import asyncio, json, os, sys
from pathlib import Path
from agent.cgroup import divide
from agent.supervision import Worker, WorkerSpec

root, unit, trainer = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
(unit / "cgroup.procs").write_text("0")
os.environ["SYSTEMD_EXEC_PID"] = str(os.getpid())

async def main():
    def where(pid):
        return Path(f"/proc/{pid}/cgroup").read_text().split("0::")[1].strip()
    worker = Worker(WorkerSpec("trainer", (trainer,), background=True, cgroup=divide(None, root)))
    for _ in range(2):  # it is killed, and started again
        worker.start()
        await worker.wait_ready(20)
        pids = (await worker.request("pids"))["pids"]
        groups = [where(os.getpid()), *map(where, pids)]
        left = (unit / "cgroup.procs").read_text()
        await worker.kill("the operator records")
        print(json.dumps([groups, left]), flush=True)

asyncio.run(main())
"""


@pytest.fixture
def real_unit(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """The kernel's cgroup v2 tree, mounted for the test, and a group in it as systemd would make one."""
    root = tmp_path / "cgroup2"
    root.mkdir()
    done = subprocess.run(
        ["mount", "-t", "cgroup2", "none", root], capture_output=True, text=True, timeout=30, check=False
    )
    if done.returncode:
        pytest.skip(f"cgroup v2 can't be mounted here: {done.stderr.strip()}")
    unit = root / f"armfleet-test-{uuid.uuid4().hex}"
    try:
        unit.mkdir()
        try:
            yield root, unit
        finally:
            remove(unit)
    finally:
        subprocess.run(["umount", root], timeout=30, check=True)


def remove(unit: Path) -> None:
    deadline = time.monotonic() + 10
    while "populated 1" in (unit / "cgroup.events").read_text() and time.monotonic() < deadline:
        time.sleep(0.01)  # what was killed takes a moment to be gone
    for group in (unit / "agent", unit / "train", unit):
        if group.exists():
            group.rmdir()


def test_the_trainer_and_its_children_live_in_one_group_and_the_daemon_in_another(
    tmp_path: Path, real_unit: tuple[Path, Path]
) -> None:
    root, unit = real_unit
    script = tmp_path / "trainer.py"
    script.write_text(TRAINER)
    done = subprocess.run(
        [sys.executable, "-c", AGENT, root, unit, script],
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    agent, trainer = f"/{unit.name}/agent", f"/{unit.name}/train"
    assert [json.loads(line) for line in done.stdout.splitlines()] == [[[agent, trainer, trainer], ""]] * 2
    assert "with limits of:" in done.stderr
