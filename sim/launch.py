"""Starts a virtual workstation as a process and waits until it can be used: for tests and benchmarks."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.config import load_config
from shared.errors import ArmfleetError
from shared.uds import UdsClient
from sim.workstation import WorkstationConfig

START_S = 180.0  # a few seconds on a quiet machine, most of them imports
STOP_S = 20.0
_RUN = "import sys, pathlib, sim.workstation as w; sys.exit(w.main(pathlib.Path(sys.argv[1])))"


@dataclass
class LaunchedWorkstation:
    """A workstation process.

    Attributes:
        folder: Its folder: `ttyFOLLOWER`, `ttyLEADER`, `calibration/`.
        control: Client of its control socket (`sim.control`).
        camera_ports: Where its cameras are published.
        log: What it wrote to its standard error.
    """

    process: subprocess.Popen[bytes]
    folder: Path
    control: UdsClient
    camera_ports: dict[str, int]
    log: Path

    def wait_until(self, url: str, key: str, value: Any, seconds: float = 20.0) -> dict[str, Any]:
        """Polls GET `url` until `key` has `value`; returns that answer.

        Raises:
            TimeoutError: It did not within `seconds`.
        """
        deadline = time.monotonic() + seconds
        while (answer := self.control.get(url))[key] != value:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{url} still says {answer}")
            time.sleep(0.05)
        return answer

    def stop(self) -> int:
        """SIGTERM, SIGKILL if that takes too long; the exit status."""
        self.process.terminate()
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait(STOP_S)


def launch(config_path: Path) -> LaunchedWorkstation:
    """Starts the workstation of `config_path` and waits for its first frame (or tick, without cameras).

    Raises:
        ArmfleetError: The configuration is wrong, or the process ended or was not ready in time.
    """
    config = load_config(config_path, WorkstationConfig)
    config.dir.mkdir(parents=True, exist_ok=True)
    log = config.dir / "workstation.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", _RUN, str(config_path)],
            stderr=stream,
            start_new_session=True,  # so that its priority counts against every other process
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    control = UdsClient(config.dir / "control.sock", timeout_s=10)
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        status = _status(control)
        if status and status["timing"]["frames" if config.cameras else "ticks"]:
            return LaunchedWorkstation(process, config.dir, control, status["camera_ports"], log)
        time.sleep(0.1)
    process.kill()
    process.wait(STOP_S)
    raise ArmfleetError(f"the virtual workstation of {config_path} did not start: {log.read_text()[-1000:]}")


def _status(control: UdsClient) -> dict[str, Any] | None:
    """The workstation's status, or None while its socket does not answer."""
    try:
        return control.get("/status")
    except ArmfleetError:
        return None
