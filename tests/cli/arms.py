"""Two emulated arms on pseudo-terminals, a published camera, and an agent.toml for them."""

import threading
import time
from pathlib import Path

import numpy as np

from sim.bus import BusPort, ServoBus
from sim.joints import JointMap
from sim.packets import Instruction, Packet
from sim.publisher import CameraPublisher
from sim.registers import PHASE_FULL_ANGLE, Register
from sim.servo import ServoReading

READS = frozenset({Instruction.PING, Instruction.READ, Instruction.SYNC_READ})


class EmulatedArm:
    """One arm whose joints are where a hand puts them; `written` is every packet that was no question."""

    def __init__(self, link: Path, middle: tuple[int, ...] | None = None) -> None:
        joints = JointMap()
        pose = joints.units_to_counts(np.array([0, 0, 0, 0, 0, 50.0])).tolist()
        limits = list(zip(joints.range_min, joints.range_max, strict=True))
        self.bus = ServoBus(middle or pose, limits)
        self.port = BusPort(self.bus, link)
        self.written: list[Packet] = []
        self.polls = 0
        """Answers of the last joint's position: one for each reading of the whole arm."""
        self._handle = self.bus.handle
        self.bus.handle = self._note  # type: ignore[method-assign]
        for joint in range(6):
            servo = self.bus.registers(joint)
            servo.write(Register.PHASE, bytes([servo.byte(Register.PHASE) & ~PHASE_FULL_ANGLE]))
        self.port.plug()

    def _note(self, packet: Packet) -> bytes:
        if packet.instruction not in READS:
            self.written.append(packet)
        if packet.servo_id == 6 and packet.parameters[:1] == bytes([Register.PRESENT_POSITION]):
            self.polls += 1
        return self._handle(packet)

    def put(self, encoders: list[int]) -> None:
        self.bus.present([ServoReading(count % 4096, 0, 0, 0) for count in encoders])

    def await_polls(self, number: int, limit_s: float = 250.0) -> None:
        """Until the arm was read so many times more."""
        wanted, deadline = self.polls + number, time.monotonic() + limit_s
        while self.polls < wanted:
            if time.monotonic() > deadline:
                raise TimeoutError("nobody reads the arm")
            time.sleep(0.002)


class PublishedCamera:
    """Noise at 30 Hz from a thread of its own."""

    def __init__(self, fps: float = 30.0, fault: str = "none") -> None:
        self._publisher = CameraPublisher("front", "127.0.0.1", 0)
        self._publisher.fault = fault  # type: ignore[assignment]
        self.port, self._period, self._end = self._publisher.port, 1 / fps, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        rng, due = np.random.default_rng(0), time.monotonic()
        while not self._end.is_set():
            self._publisher.publish(rng.integers(0, 256, (96, 96, 3), np.uint8), time.time())
            due += self._period
            self._end.wait(max(0.0, due - time.monotonic()))
        self._publisher.close()

    def stop(self) -> None:
        self._end.set()
        self._thread.join(10)


def write_config(folder: Path, base: Path, camera_port: int = 1) -> Path:
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
follower_port = "{folder}/ttyF"
leader_port = "{folder}/ttyL"
calibration_dir = "{folder}/calibration"
[cameras.front]
type = "zmq"
port = {camera_port}
width = 96
height = 96
fps = 30
"""
    )
    return config
