"""Public checkers of LeRobot datasets, each in an environment of its own, asked the way their manuals say.

The environments lie in `.venv-tools/peers`, which git ignores; versions are pinned in `benchmarks/peers`.
"""

import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PINS = ROOT / "benchmarks" / "gate" / "pins"
ENVIRONMENTS = ROOT / ".venv-tools" / "peers"
INSTALL_S = 1800.0
CALL_S = 300.0
NO_ANSWER = "no answer"


@dataclass(frozen=True)
class Opinion:
    """What a peer says of a dataset folder.

    Attributes:
        said: Everything above its level of information, without the numbers in it.
        rejected: By its own verdict the dataset fails, or it could not read it.
    """

    said: frozenset[str]
    rejected: bool


@dataclass(frozen=True)
class Peer:
    """A checker.

    Attributes:
        name: On the package index; pinned in benchmarks/gate/pins/NAME.txt.
        command: Program and arguments; DATASET and REPORT stand for the folder and the file it writes its
            answer to. Without REPORT it answers on standard output.
        read: From its JSON to what it said.
        rejects: From this exit status on, the dataset has failed.
        borrows: It finds its dependencies in the project's environment.
    """

    name: str
    command: tuple[str, ...]
    read: Callable[[dict[str, Any]], list[str]]
    rejects: int = 1
    borrows: bool = False

    @property
    def key(self) -> str:
        """Its name in the figures."""
        return self.name.replace("-", "_")

    @property
    def folder(self) -> Path:
        """Of its environment."""
        return ENVIRONMENTS / self.name

    def install(self) -> str:
        """Make its environment, unless it is there with these pins; why it could not be made, or ""."""
        pins = PINS / f"{self.name}.txt"
        stamp = self.folder / "installed.txt"
        if stamp.is_file() and stamp.read_text() == pins.read_text():
            return ""
        python = self.folder / "bin" / "python"
        packages = ["pip", "install", "-q", "--python", str(python), "-r", str(pins)]
        try:
            _uv("venv", "-q", "--clear", "--python", sys.executable, str(self.folder))
            _uv(*packages, *(["--no-deps"] if self.borrows else []))
        except (OSError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", None) or str(error)
            return said.strip().splitlines()[-1]
        if self.borrows:
            (site,) = self.folder.glob("lib/python*/site-packages")
            (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
        stamp.write_text(pins.read_text())
        return ""

    def ask(self, dataset: Path) -> Opinion:
        """Its opinion of a folder."""
        with tempfile.TemporaryDirectory(prefix="armfleet-peer-") as scratch:
            report = Path(scratch) / "report.json"
            stand_for = {"DATASET": str(dataset), "REPORT": str(report)}
            program, *arguments = (stand_for.get(word, word) for word in self.command)
            try:
                done = subprocess.run(
                    [str(self.folder / "bin" / program), *arguments],
                    cwd=scratch,
                    capture_output=True,
                    text=True,
                    timeout=CALL_S,
                    env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": scratch, "PYTHONPATH": ""},
                    check=False,
                )
                answer = json.loads(report.read_text() if "REPORT" in self.command else done.stdout)
            except (OSError, ValueError, subprocess.TimeoutExpired):
                return Opinion(frozenset({NO_ANSWER}), True)
        said = frozenset(re.sub(r"-?\d+(\.\d+)?(e[-+]?\d+)?", "#", text) for text in self.read(answer))
        return Opinion(said, done.returncode >= self.rejects)


def _uv(*arguments: str) -> None:
    tool = ROOT / ".venv-tools" / "bin" / "uv"
    command = [str(tool)] if tool.exists() else [sys.executable, "-m", "uv"]
    subprocess.run(
        [*command, *arguments],
        capture_output=True,
        text=True,
        timeout=INSTALL_S,
        env={**os.environ, "UV_PYTHON_DOWNLOADS": "never"},
        check=True,
    )


def _doctor(report: dict[str, Any]) -> list[str]:
    return [
        f"{check['name']}: {message['message']}"
        for check in report["checks"]
        for message in check["messages"]
        if message["severity"] != "PASS"
    ]


def _lint(report: dict[str, Any]) -> list[str]:
    return [finding["check"] for finding in report["findings"] if finding["severity"] != "info"]


def _calibra(report: dict[str, Any]) -> list[str]:
    return [f"{level}: {flag['metric']}" for level in ("critical", "warnings") for flag in report[level]]


PEERS = (
    Peer("lerobot-doctor", ("lerobot-doctor", "check", "DATASET", "--json"), _doctor),
    Peer(
        "lerobot-lint",
        ("lelint", "check", "DATASET", "--json", "REPORT"),
        _lint,
        rejects=2,
        borrows=True,
    ),
    Peer("calibra-robotics", ("calibra", "integrity", "DATASET", "--json", "--decode-video"), _calibra),
)
"""Two that know LeRobot best, and the one that found most among eight when they were compared."""
