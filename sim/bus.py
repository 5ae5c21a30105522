"""An emulated Feetech bus with six STS3215 servos on a pseudo-terminal.

`ServoBus` answers instruction packets from its servos' registers (no port, no clock: tests call it directly).
`BusPort` puts it on a pseudo-terminal that LeRobot's unmodified drivers open like a USB adapter, and can be
unplugged and plugged in again under the same link.

Not emulated: baud rates, the half-duplex line, Return_Delay_Time, and modes other than position control.
"""

import os
import pty
import random
import select
import threading
import time
import tty
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from loguru import logger

from sim.faults import BusFaults
from sim.packets import BROADCAST, Instruction, Packet, PacketParser, encode_status
from sim.registers import MIDDLE, Command, Register, ServoRegisters
from sim.servo import ServoReading

LINE_PAUSE_S = 0.1
"""A packet whose rest does not arrive within this time is dropped."""

READ_LENGTH = 4096
TOLD_LENGTH = 16384
"""Answers remembered: nine minutes at 30 Hz."""


class Told(NamedTuple):
    """What a synchronous read was answered: seconds since the epoch, and the six positions in counts."""

    wall: float
    positions: tuple[int, ...]


class ServoBus:
    """Six servos behind one line. Thread-safe: the port's thread and the physics both use it.

    Args:
        positions: encoder positions at power-on, counts; one per servo.
        limits: (minimum, maximum) position in counts per servo, as a calibrated arm has stored them.
    """

    def __init__(
        self, positions: Sequence[int] = (MIDDLE,) * 6, limits: Sequence[tuple[int, int]] = ((0, 4095),) * 6
    ) -> None:
        self._lock = threading.Lock()
        self._servos = {
            servo_id: ServoRegisters(servo_id, position, limit)
            for servo_id, (position, limit) in enumerate(zip(positions, limits, strict=True), start=1)
        }
        self._order = list(self._servos.values())
        self._pending: dict[int, bytes] = {}
        self._readings: Sequence[ServoReading] = ()  # not yet in the registers: nobody has asked
        self._commands: list[Command] | None = None  # as of the last write
        self._faults = BusFaults()
        self._random = random.Random(0)
        self._told: deque[Told] = deque(maxlen=TOLD_LENGTH)
        self.set_faults(self._faults)

    # -- the physics' side ---------------------------------------------------------------------------------

    def commands(self) -> list[Command]:
        """What each servo is told to do now; a dead servo has no torque."""
        with self._lock:
            if self._commands is None:
                self._commands = [
                    replace(servo.command, torque=False) if i in self._faults.dead else servo.command
                    for i, servo in enumerate(self._order, start=1)
                ]
            return self._commands

    def present(self, readings: Sequence[ServoReading]) -> None:
        """New measurements of the six servos; they reach the registers when somebody asks."""
        with self._lock:
            self._readings = readings

    def set_faults(self, faults: BusFaults) -> None:
        """Replaces the state of health; what `faults` does not name is healthy."""
        with self._lock:
            self._faults = faults
            self._commands = None
            for servo_id, servo in enumerate(self._order, start=1):
                servo.set_identity(*faults.identity(servo_id))
                servo.set_environment(
                    faults.voltage,
                    faults.temperature.get(servo_id, 30.0),
                    servo_id in faults.overload,
                    voltage_limit=faults.voltage_limit,
                    errors=faults.errors.get(servo_id, 0),
                    load=faults.load.get(servo_id),
                )

    @property
    def faults(self) -> BusFaults:
        """The present state of health."""
        return self._faults

    def pause_s(self) -> float:
        """How long the line keeps the reply that `handle` has just given."""
        faults = self._faults
        stalls = faults.stalls and self._random.random() < faults.stalls
        return faults.delay_s + (faults.stall_s if stalls else 0.0)

    def told(self) -> list[Told]:
        """The latest answers to synchronous reads of the positions, oldest first; what a recording may
        hold is among them."""
        with self._lock:
            return list(self._told)

    def power_cycle(self) -> None:
        """Switches all servos off and on: torque is off, unlocked EEPROM writes survive, others are gone."""
        with self._lock:
            self._measure()
            self._pending.clear()
            self._commands = None
            for servo in self._order:
                servo.power_cycle()
            self._servos = {servo.byte(Register.ID): servo for servo in self._order}
        self.set_faults(self._faults)

    def registers(self, joint: int) -> ServoRegisters:
        """The registers of joint 0..5, with the latest measurements (for tests and status)."""
        with self._lock:
            self._measure()
            return self._order[joint]

    # -- the line's side -----------------------------------------------------------------------------------

    def handle(self, packet: Packet) -> bytes:
        """Obeys one instruction packet and returns the servos' replies (empty when nobody answers)."""
        with self._lock:
            self._measure()
            if packet.instruction not in (Instruction.PING, Instruction.READ, Instruction.SYNC_READ):
                self._commands = None
            try:
                replies = self._obey(packet)
            except IndexError:  # an instruction too short for its parameters: real servos ignore it
                return b""
            return b"".join(self._damage(reply) for reply in replies)

    def _measure(self) -> None:
        """Puts the latest measurements into the registers."""
        if self._readings:
            for servo, reading in zip(self._order, self._readings, strict=True):
                servo.present(reading)
            self._readings = ()

    def _obey(self, packet: Packet) -> list[bytes]:
        parameters = packet.parameters
        match packet.instruction:
            case Instruction.PING:
                return [self._status(i) for i in self._addressed(packet.servo_id)]
            case Instruction.READ if packet.servo_id != BROADCAST:
                return [self._read(i, parameters[0], parameters[1]) for i in self._addressed(packet.servo_id)]
            case Instruction.WRITE:
                return self._write(packet.servo_id, parameters)
            case Instruction.REG_WRITE:
                addressed = self._addressed(packet.servo_id)
                self._pending.update(dict.fromkeys(addressed, parameters))
                return self._acknowledge(packet.servo_id, addressed)
            case Instruction.ACTION:
                for servo_id, pending in self._pending.items():
                    self._servos[servo_id].write(pending[0], pending[1:])
                self._pending.clear()
            case Instruction.SYNC_READ:
                if parameters[0] == Register.PRESENT_POSITION:
                    positions = tuple(servo.word(Register.PRESENT_POSITION) for servo in self._order)
                    self._told.append(Told(time.time(), positions))
                return [self._read(i, parameters[0], parameters[1]) for i in parameters[2:] if self._alive(i)]
            case Instruction.SYNC_WRITE:
                self._sync_write(parameters)
        return []

    def _alive(self, servo_id: int) -> bool:
        return servo_id in self._servos and servo_id not in self._faults.dead

    def _addressed(self, servo_id: int) -> list[int]:
        if servo_id == BROADCAST:
            return [i for i in self._servos if self._alive(i)]
        return [servo_id] if self._alive(servo_id) else []

    def _status(self, servo_id: int, data: bytes = b"") -> bytes:
        return encode_status(servo_id, self._servos[servo_id].error, data)

    def _read(self, servo_id: int, address: int, length: int) -> bytes:
        return self._status(servo_id, self._servos[servo_id].read(address, length))

    def _write(self, servo_id: int, parameters: bytes) -> list[bytes]:
        addressed = self._addressed(servo_id)
        replies = self._acknowledge(servo_id, addressed)
        for i in addressed:
            servo = self._servos[i]
            servo.write(parameters[0], parameters[1:])
            if (renamed := servo.byte(Register.ID)) != i:
                self._servos[renamed] = self._servos.pop(i)
        return replies

    def _sync_write(self, parameters: bytes) -> None:
        address, length = parameters[0], parameters[1]
        for start in range(2, len(parameters) - length, length + 1):
            if self._alive(servo_id := parameters[start]):
                self._servos[servo_id].write(address, parameters[start + 1 : start + 1 + length])

    def _acknowledge(self, servo_id: int, addressed: list[int]) -> list[bytes]:
        """Replies to a write: none to a broadcast, none at response level 0."""
        if servo_id == BROADCAST:
            return []
        return [self._status(i) for i in addressed if self._servos[i].byte(Register.RESPONSE_LEVEL)]

    def _damage(self, reply: bytes) -> bytes:
        """What the line makes of a reply."""
        if self._faults.silent or self._random.random() < self._faults.lost:
            return b""
        if self._random.random() < self._faults.corrupt:
            return reply[:-1] + bytes([reply[-1] ^ 0x55])
        return reply


class BusPort:
    """A `ServoBus` on a pseudo-terminal behind a link, as a udev rule names a USB adapter.

    Args:
        bus: the servos.
        link: path of the link; replaced if it exists.
    """

    def __init__(self, bus: ServoBus, link: Path) -> None:
        self.bus = bus
        self.link = link
        self._thread: threading.Thread | None = None
        self._wake: tuple[int, int] = (-1, -1)

    @property
    def plugged(self) -> bool:
        """Whether the port exists."""
        return self._thread is not None

    def plug(self) -> None:
        """Opens a pseudo-terminal, points the link at it and serves it; nothing happens when plugged in."""
        if self.plugged:
            return
        master, slave = pty.openpty()
        # Raw on both ends, or the line discipline rewrites bytes before the first client has opened the port.
        tty.setraw(slave)
        tty.setraw(master)
        os.set_blocking(master, False)
        fresh = self.link.with_name(f".{self.link.name}.new")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(os.ttyname(slave))
        fresh.replace(self.link)
        self._wake = os.pipe()
        self._thread = threading.Thread(
            target=self._serve, args=(master, slave), name=f"bus-{self.link.name}", daemon=True
        )
        self._thread.start()

    def unplug(self) -> None:
        """Removes the link and hangs the port up: clients get I/O errors. The servos keep their power."""
        if self._thread is None:
            return
        self.link.unlink(missing_ok=True)
        os.write(self._wake[1], b"x")
        self._thread.join(timeout=10)
        for descriptor in self._wake:
            os.close(descriptor)
        self._thread = None

    def set_faults(self, faults: BusFaults) -> None:
        """Applies a fault description, the plug included."""
        self.bus.set_faults(faults)
        if faults.unplugged:
            self.unplug()
        else:
            self.plug()

    def _serve(self, master: int, slave: int) -> None:
        """Answers packets until `unplug`. The slave stays open here, else reads fail between two clients."""
        parser = PacketParser()
        poll = select.poll()
        poll.register(master, select.POLLIN)
        poll.register(self._wake[0], select.POLLIN)
        try:
            while True:
                patience_ms = LINE_PAUSE_S * 1000 if parser.pending else None
                ready = [descriptor for descriptor, _ in poll.poll(patience_ms)]
                if self._wake[0] in ready:
                    return
                if not ready:
                    parser.forget()
                    continue
                for packet in parser.feed(os.read(master, READ_LENGTH)):
                    self._answer(master, packet)
        except OSError as error:
            logger.error("The virtual port {} broke: {}", self.link, error)
        finally:
            os.close(master)
            os.close(slave)

    def _answer(self, master: int, packet: Packet) -> None:
        reply = self.bus.handle(packet)
        if not reply:
            return
        if pause := self.bus.pause_s():
            time.sleep(pause)
        try:
            os.write(master, reply)
        except BlockingIOError:
            logger.debug("The client of {} does not read: a reply was dropped", self.link)
