"""The arm process on a virtual workstation, asked over its channel as the agent asks it."""

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shared import envelope
from shared.channel import FD_VARIABLE
from shared.errors import ArmfleetError
from shared.uds import UdsClient

START_S = 200.0


def wait_for(condition, timeout_s: float, what: str):
    """The first true result of `condition`; polling with a deadline."""
    deadline = time.monotonic() + timeout_s
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.02)
    return result


class Workstation:
    """A virtual workstation in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "workstation.toml"
        config.write_text(f'dir = "{folder}"\n[cameras.front]\nport = 0\n')
        code = "import sys, pathlib, sim.workstation as w; sys.exit(w.main(pathlib.Path(sys.argv[1])))"
        self.process = subprocess.Popen([sys.executable, "-c", code, str(config)])
        self.control = UdsClient(folder / "control.sock", timeout_s=10)
        wait_for((folder / "control.sock").exists, START_S, "the virtual workstation did not start")
        self.port = wait_for(
            lambda: self.status()["camera_ports"].get("front"), START_S, "the camera did not start"
        )

    def status(self) -> dict[str, Any]:
        return self.control.get("/status")

    def torque(self) -> bool:
        return any(self.status()["follower_torque"])

    def scene(self, verb: str = "push_left", color: str = "red", seed: int = 1) -> list[float]:
        return self.control.post("/scene", {"seed": seed, "task": {"verb": verb, "color": color}})[
            "start_pose"
        ]

    def move_leader(self, pose: list[float], seconds: float = 1.0) -> None:
        self.control.post("/leader/move", {"pose": pose, "seconds": seconds})
        wait_for(
            lambda: max(abs(a - b) for a, b in zip(self.status()["leader"], pose, strict=True)) < 1.0,
            seconds + 5,
            "the leader did not arrive",
        )

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)
        self.control.close()


class ArmProcess:
    """The worker and the daemon's end of its channel."""

    program: tuple[str, ...] = ("-m", "agent.robot.worker")
    ready: dict[str, Any]

    def __init__(self, config: Path, log: Path | None = None) -> None:
        ours, theirs = socket.socketpair()
        environment = os.environ | {FD_VARIABLE: str(theirs.fileno())}
        with (log or Path(os.devnull)).open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, *self.program, "--config", str(config)],
                pass_fds=[theirs.fileno()],
                env=environment,
                stderr=file if log else None,
            )
        theirs.close()
        self._sock = ours
        self._next = 0
        self._replies: dict[int, queue.Queue] = {}
        self.events: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                message = envelope.recv(self._sock)
            except (OSError, ArmfleetError):
                message = None
            if message is None:
                return
            fields = message[0]
            if "event" in fields:
                self.events.put(fields)
            else:
                self._replies[fields["id"]].put(fields)

    def ask(self, op: str, timeout_s: float = 15.0, **fields: Any) -> dict[str, Any]:
        self._next += 1
        number = self._next
        self._replies[number] = queue.Queue()
        envelope.send(self._sock, {"id": number, "op": op, **fields})
        answer = self._replies[number].get(timeout=timeout_s)
        if not answer["ok"]:
            raise ArmfleetError.from_dict(answer["error"])
        return answer["result"]

    def event(self, name: str, timeout_s: float = 30.0) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_s
        while True:
            fields = self.events.get(timeout=max(0.01, deadline - time.monotonic()))
            if fields["event"] == name:
                return fields

    def hang_up(self) -> None:
        """What the death of the agent looks like from here."""
        self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)


def write_agent_config(folder: Path, workstation: Workstation, base: str = "sim/base") -> Path:
    config = folder / "agent.toml"
    config.write_text(
        f"""
[node]
name = "a"
state_dir = "{folder}/state"
socket = "{folder}/agent.sock"
[policy]
base = "{base}"
[arm]
follower_port = "{workstation.folder}/ttyFOLLOWER"
leader_port = "{workstation.folder}/ttyLEADER"
calibration_dir = "{workstation.folder}/calibration"
[cameras.front]
type = "zmq"
port = {workstation.port}
width = 96
height = 96
fps = 30
[recording]
crf = 12
min_free_mb = 1
"""
    )
    return config


class PolicyProcess(ArmProcess):
    """The policy worker and the daemon's end of its channel."""

    program = ("-m", "agent.inference.worker")


@contextmanager
def running_workstation(folder: Path) -> Iterator[Workstation]:
    made = Workstation(folder)
    try:
        yield made
    finally:
        made.stop()


@contextmanager
def running_arm(config: Path, log: Path | None = None) -> Iterator[ArmProcess]:
    """`log`: file for what it logs, instead of our own stderr."""
    made = ArmProcess(config, log)
    try:
        made.ready = made.event("ready", START_S)
        yield made
    finally:
        made.stop()
