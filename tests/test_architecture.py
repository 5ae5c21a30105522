"""The house rules: which room may look into which, what stays free of torch, how large a file may grow."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "shared": {"agent", "coordinator", "sim", "cli"},
    "agent": {"coordinator", "sim", "cli"},
    "coordinator": {"agent", "cli"},
    "sim": {"agent", "coordinator", "cli"},
}
TORCH_FREE = [
    "agent.daemon",
    "agent.episodes.gate",
    "agent.exchange.client_app",
    "agent.exchange.executor",
    "agent.exchange.join",
    "agent.robot.release",
    "cli.calibrate",
    "cli.doctor.look_at_cameras",
    "cli.doctor.report",
    "cli.main",
    "cli.record",
    "cli.rollout",
    "cli.rollout_report",
    "coordinator.daemon",
    "coordinator.exchange.server_app",
]


def sources(*folders):
    return [path for folder in folders for path in (ROOT / folder).rglob("*.py")]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("room", FORBIDDEN)
def test_imports_run_one_way(room):
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources(room)
        for name in imported(path)
        if name.split(".")[0] in FORBIDDEN[room]
    ]
    assert wrong == []


def test_no_file_is_longer_than_400_lines():
    folders = ["agent", "coordinator", "shared", "sim", "cli", "tests", "benchmarks"]
    long = {str(path): n for path in sources(*folders) if (n := len(path.read_text().splitlines())) > 400}
    assert long == {}


@pytest.mark.parametrize("module", TORCH_FREE)
def test_what_must_start_fast_is_free_of_torch_and_lerobot(module):
    code = (
        f"import sys, {module}\n"
        "heavy = {'torch', 'lerobot', 'transformers'} & {name.split('.')[0] for name in sys.modules}\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
