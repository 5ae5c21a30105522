"""The arm process without its agent, and a person at the leader: what benchmarks of the arm share."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shared import envelope
from shared.channel import FD_VARIABLE
from shared.errors import ArmfleetError
from shared.uds import UdsClient
from sim.launch import LaunchedWorkstation
from sim.workstation import ARM_ID

FPS = 30
WORKER_START_S = 300.0  # importing torch and LeRobot's datasets on a busy machine
PATIENCE_S = 120.0  # the simulator gets no processor while lerobot-record encodes a minute of pictures
TASK = {"verb": "push_left", "color": "red"}
TEXT = "push the red cube to the left"


def agent_config(
    workstation: LaunchedWorkstation,
    folder: Path,
    width: int = 96,
    height: int = 96,
    base: Path = Path("none"),
) -> Path:
    """Writes an agent.toml for the workstation's arm and all its cameras into `folder`; recording needs no
    `base`."""
    ws = workstation.folder
    path = folder / "agent.toml"
    text = (
        f'[node]\nname = "bench"\nstate_dir = "{folder}/state"\nsocket = "{folder}/agent.sock"\n'
        f'[policy]\nbase = "{base}"\n'
        f'[arm]\nfollower_port = "{ws}/ttyFOLLOWER"\nleader_port = "{ws}/ttyLEADER"\nid = "{ARM_ID}"\n'
        f'calibration_dir = "{ws}/calibration"\n'
    )
    for name, port in workstation.camera_ports.items():
        text += f'[cameras.{name}]\ntype = "zmq"\nport = {port}\n'
        text += f"width = {width}\nheight = {height}\nfps = {FPS}\n"
    path.write_text(text)
    return path


class ChannelWorker:
    """A worker process, and the daemon's end of its channel.

    Args:
        module: With a `main` of its own that takes `--config`.
        config: agent.toml.
        options: Further arguments.
    """

    def __init__(self, module: str, config: Path, *options: str) -> None:
        self._sock, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, "--config", str(config), *options],
                env={**os.environ, FD_VARIABLE: str(theirs.fileno()), "OMP_NUM_THREADS": "1"},
                pass_fds=[theirs.fileno()],
            )
        self.pid = self._process.pid
        self._module, self._requests = module, 0
        self._sock.settimeout(WORKER_START_S)
        self.ready = self._receive()
        while self.ready.get("event") != "ready":
            self.ready = self._receive()

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        """Carries out one operation; raises the worker's own error."""
        self._requests += 1
        envelope.send(self._sock, {"id": self._requests, "op": op, **fields})
        while (message := self._receive()).get("id") != self._requests:
            pass  # an event
        if not message["ok"]:
            raise ArmfleetError.from_dict(message["error"])
        return message["result"]

    def close(self) -> None:
        """Hangs up: the worker ends, that of the arm after it released it."""
        self._sock.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)

    def _receive(self) -> dict[str, Any]:
        message = envelope.recv(self._sock)
        if message is None:
            raise ArmfleetError(f"{self._module} ended ({self._process.wait(10)})")
        return message[0]


class ArmWorker(ChannelWorker):
    """The arm process, with its arms and cameras ready."""

    def __init__(self, config: Path, module: str = "agent.robot.worker") -> None:
        super().__init__(module, config)
        if self.ready["fault"]:
            raise ArmfleetError.from_dict(self.ready["fault"])


@contextmanager
def person_at_work(control: UdsClient) -> Iterator[None]:
    """Somebody demonstrates scene after scene while the block runs."""
    stop, patient = threading.Event(), UdsClient(control.path, PATIENCE_S)

    def demonstrate_for_ever() -> None:
        seed = 0
        while not stop.is_set():
            start = patient.post("/scene", {"seed": seed, "task": TASK})["start_pose"]
            patient.post("/leader/move", {"pose": start, "seconds": 1.0})
            stop.wait(1.8)
            if patient.get("/outcome")["placed"]:
                stop.wait(patient.post("/demonstrate", {"seed": seed})["seconds"] + 0.3)
            seed += 1

    thread = threading.Thread(target=demonstrate_for_ever, name="person")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
