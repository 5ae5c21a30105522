"""One SO-100/SO-101 arm behind LeRobot's unmodified driver, made safe for an unattended service.

What this class cures:

* `connect(calibrate=True)` may wait for a key: here calibrations are compared, checked for fit and written.
* After a stall, every later reply is matched to the wrong request, for ever: here a reply shows which request
  it belongs to (`agent.robot.reader`), and leftovers after a read void it.
* A dead bus swallows commands, and an unplugged one raises `termios.error`, which is no OSError: here both
  become an ArmfleetError that names the joint and what to do, and the port is closed.
* The error byte of the servos is thrown away, or (in single reads and writes) a servo with an error counts as
  silent and those after it are left out: here it is kept, and judged (`agent.robot.safety`).

Follower and leader differ in LeRobot's class only; `Arm` is for both. Thread-safe: one transaction at a time.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import RLock

import numpy as np
from lerobot.robots.so_follower import SO101Follower, SO101FollowerConfig
from lerobot.teleoperators.so_leader import SO101Leader, SO101LeaderConfig
from loguru import logger

from agent.robot import wire
from agent.robot.calibration import Role, calibration_path, check_fit, load_calibration
from agent.robot.counters import BusCounters
from agent.robot.health import Health, describe
from agent.robot.joints import JOINTS, label, to_action, to_array
from agent.robot.reader import TaggedSyncRead
from agent.robot.safety import unfit
from agent.robot.wire import PORT_ERRORS, Device
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode

READ_LIMIT_S = 0.8
"""Longest search for a valid reading before a servo counts as silent: a busy PC stalls for a third of a
second now and then, and the arm holds its last goal meanwhile."""
NOISE_S = 0.003
"""Wait after a damaged reply: the rest of a synchronous read (108 bytes at 1 Mbaud) takes 1.1 ms."""
MODEL_STS3215 = 777
WRITE_RETRIES = 3
CONFIGURE_TRIES = 4


class Arm:
    """A follower or a leader on one serial port.

    Args:
        role: Which of LeRobot's two drivers.
        port: Serial device.
        arm_id: Name of the calibration file.
        calibration_dir: See `calibration_path`.
        supply_v: Nominal supply, volt; None leaves it to the servos' own limits.
    """

    def __init__(
        self, role: Role, port: str, arm_id: str, calibration_dir: Path, supply_v: float | None = None
    ) -> None:
        self.role, self.port, self.arm_id, self.supply_v = role, port, arm_id, supply_v
        self.calibration_file = calibration_path(calibration_dir, arm_id, role)
        self.counters = BusCounters()
        self.torque = False
        """Torque was last switched on by us, or found on; a power cycle of the servos is not noticed here."""
        self.rest: np.ndarray | None = None
        """(6,) units: where the arm lay limp when torque last came on."""
        self._lock = RLock()
        self._device: Device | None = None

    # -- connecting ----------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Open the port, check servos, their health and the calibration, configure. A limp arm stays
        limp; one that was stiff (its adapter came back) holds where it is.

        Raises:
            ArmfleetError: PORT_MISSING, SERVO_SILENT, SERVO_MODEL, FIRMWARE_MIX, CALIBRATION_MISMATCH,
            BUS_LOST, or as `agent.robot.safety` has it: SERVO_PROTECTION, SERVO_HOT, SUPPLY_VOLTAGE.
        """
        with self._lock:
            calibration = load_calibration(self.calibration_file, self.role)
            if not Path(self.port).exists():
                raise ArmfleetError(
                    f"the {self.role}'s port {self.port} is not there",
                    kept="all episodes and versions",
                    do="plug the adapter in; if it has another name, set the port in agent.toml",
                    code=ExitCode.PORT_MISSING,
                )
            self.close()
            device = self._build()
            try:
                with self._explained("connecting"):
                    device.bus.connect(handshake=False)
                    device.bus.port_handler.ser.reset_input_buffer()
                    self._check_servos(device)
                    self._check_health(device)
                    offsets = self._registers(device, "Homing_Offset")
                    positions = self._registers(device, "Present_Position")
                    check_fit(calibration, positions, offsets, self.role, self.calibration_file)
                    stiff = any(self._registers(device, "Torque_Enable").values())
                    self._configure(device, stiff)
            except BaseException:
                wire.close(device)
                raise
            self._device = device
            self.torque = stiff and self.role == "follower"
            logger.bind(role=self.role).info("the {} is connected at {}", self.role, self.port)

    def reconnect(self) -> None:
        """Connect again after the bus was lost; raises as `connect`."""
        self.connect()
        self.counters.reconnects += 1

    def close(self) -> None:
        """Close the port without a word to the servos; never fails."""
        with self._lock:
            device, self._device = self._device, None
            if device is not None:
                wire.close(device)

    @property
    def connected(self) -> bool:
        """The port is open and the last transaction did not find it dead."""
        return self._device is not None

    @property
    def device(self) -> Device:
        """LeRobot's driver.

        Raises:
            ArmfleetError: BUS_LOST, not connected.
        """
        if self._device is None:
            raise self._lost("it is not connected")
        return self._device

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """Calibrated ranges in counts, in the order of JOINTS."""
        values = load_calibration(self.calibration_file, self.role)
        return [(values[joint].range_min, values[joint].range_max) for joint in JOINTS]

    @property
    def errors(self) -> list[int]:
        """Error byte of each joint as it came with the last position; see `agent.robot.health`."""
        device = self._device
        return list(wire.reader(device).errors) if device else [0] * len(JOINTS)

    def _build(self) -> Device:
        folder = self.calibration_file.parent
        common = {"port": self.port, "id": self.arm_id, "calibration_dir": folder, "use_degrees": True}
        device: Device
        if self.role == "follower":
            config = SO101FollowerConfig(**common, num_read_retries=0, disable_torque_on_disconnect=False)
            device = SO101Follower(config)
        else:
            device = SO101Leader(SO101LeaderConfig(**common, num_read_retries=0))
        bus = device.bus
        bus.sync_reader = TaggedSyncRead(bus.port_handler, bus.packet_handler, self.counters)
        return device

    def _check_servos(self, device: Device) -> None:
        models = {joint: wire.ping(device, joint) for joint in JOINTS}
        silent = [joint for joint, model in models.items() if model is None]
        if silent:
            raise self._silent(silent)
        foreign = {joint: model for joint, model in models.items() if model != MODEL_STS3215}
        if foreign:
            names = ", ".join(f"{label(joint)} has model {model}" for joint, model in foreign.items())
            raise ArmfleetError(
                f"the {self.role} has a servo that is no STS3215 (model {MODEL_STS3215}): {names}",
                kept="nothing was written to the arm",
                do="check that the port is that of an SO-100/SO-101, or change the servo",
                code=ExitCode.SERVO_MODEL,
            )
        major = self._registers(device, "Firmware_Major_Version")
        minor = self._registers(device, "Firmware_Minor_Version")
        versions = {joint: f"{major[joint]}.{minor[joint]}" for joint in JOINTS}
        if len(set(versions.values())) > 1:
            names = ", ".join(f"{label(joint)} {version}" for joint, version in versions.items())
            raise ArmfleetError(
                f"the servos of the {self.role} have different firmware: {names}",
                kept="nothing was written to the arm",
                do="bring all six to the newest version with Feetech's FD software (feetechrc.com/software)",
                code=ExitCode.FIRMWARE_MIX,
            )

    def _check_health(self, device: Device) -> None:
        healths = wire.health_of_all(device)
        if healths is None:
            raise self._diagnose(device)
        if finding := unfit(healths, self.supply_v):
            wire.torque_off(
                device
            )  # it may still be stiff: LeRobot's driver would refuse it, and nobody let go
            raise finding.error(self.role)

    def _configure(self, device: Device, stiff: bool) -> None:
        """Write the calibration if the servos hold another one, let LeRobot configure, and end as it was.

        LeRobot asks each register once: on a busy PC one of the 120 answers may be late. Then all is done
        again.
        """
        for remaining in reversed(range(CONFIGURE_TRIES)):
            try:
                self._configure_once(device, stiff)
                return
            except (ConnectionError, RuntimeError, IndexError) as error:
                if not remaining:
                    raise
                logger.bind(role=self.role).info("configuring again: {}", error)
                wire.await_late_reply(device)

    def _configure_once(self, device: Device, stiff: bool) -> None:
        bus = device.bus
        if not bus.is_connected:
            bus.connect(handshake=False)
        bus.port_handler.ser.reset_input_buffer()
        if not device.is_calibrated:
            logger.bind(role=self.role).info("writing {} to the servos", self.calibration_file)
            bus.disable_torque(num_retry=WRITE_RETRIES)
            bus.write_calibration(device.calibration)
        # LeRobot's configure() ends with torque on: the goal must be where the arm is, or it would jump.
        positions = self._fresh(device, lambda: bus.sync_read("Present_Position"))
        bus.sync_write("Goal_Position", positions)
        bus.disconnect(disable_torque=False)
        device.connect(calibrate=False)
        if not (stiff and self.role == "follower"):
            bus.disable_torque(num_retry=WRITE_RETRIES)

    # -- moving --------------------------------------------------------------------------------------------

    def read(self) -> np.ndarray:
        """Present positions, (6,) float32, units; never older than this call.

        Raises:
            ArmfleetError: SERVO_SILENT (named joints don't answer) or BUS_LOST (none does, or the port is
            gone).
        """
        with self._lock, self._explained("reading"):
            device = self.device
            fetch = device.get_observation if isinstance(device, SO101Follower) else device.get_action
            return to_array(self._fresh(device, fetch))

    def send(self, goal: np.ndarray) -> None:
        """Command goal positions, (6,) units. The bus gives no receipt: `read` finds out about a dead one."""
        with self._lock, self._explained("commanding"):
            self.device.send_action(to_action(goal))

    def engage(self) -> np.ndarray:
        """Switch torque on where the arm is; returns that position, (6,) units."""
        with self._lock, self._explained("switching torque on"):
            position = self.read()
            if not self.torque:
                self.rest = position
            bus = self.device.bus
            bus.sync_write("Goal_Position", dict(zip(JOINTS, map(float, position), strict=True)))
            self.torque = True
            bus.enable_torque(num_retry=WRITE_RETRIES)
            return position

    def release(self) -> None:
        """Switch torque off and read back that it is. A servo that does not answer keeps no other stiff.

        Raises:
            ArmfleetError: SERVO_SILENT or BUS_LOST, as `read`; SERVO_PROTECTION, a servo does not obey.
        """
        with self._lock, self._explained("switching torque off"):
            device = self.device
            for _ in range(1 + WRITE_RETRIES):
                wire.torque_off(device)
                on = self._registers(device, "Torque_Enable")
                if not any(on.values()):
                    self.torque = False
                    return
            raise self._reports([joint for joint, value in on.items() if value], "keeps its torque")

    def probe(self, joint: int, limit_s: float) -> Health | None:
        """Health of joint 0..5, or None if it does not tell within `limit_s`.

        Raises:
            ArmfleetError: BUS_LOST, the port is gone.
        """
        with self._lock, self._explained("reading health"):
            return wire.reader(self.device).probe(joint, limit_s)

    def status(self) -> dict[str, object]:
        """For `status` of the arm process; JSON-ready."""
        return {
            "port": self.port,
            "connected": self.connected,
            "torque": self.torque,
            **self.counters.to_dict(),
        }

    # -- the line ------------------------------------------------------------------------------------------

    def _registers(self, device: Device, name: str) -> dict[str, int]:
        """One register of all six servos, as it stands there."""
        return self._fresh(device, lambda: device.bus.sync_read(name, normalize=False))

    def _fresh[Values](self, device: Device, fetch: Callable[[], Values]) -> Values:
        """The result of `fetch`, one synchronous read, from replies that can only belong to it."""
        port, reader = device.bus.port_handler.ser, wire.reader(device)
        deadline = time.monotonic() + READ_LIMIT_S
        while time.monotonic() < deadline:
            reader.flush()
            try:
                values = fetch()
            except ConnectionError:
                self.counters.retries += 1
                if reader.silent:
                    wire.await_late_reply(device)
                time.sleep(NOISE_S)
                continue
            self.counters.reads += 1
            if port.in_waiting == 0:
                return values
            self.counters.stale_reads += 1
            time.sleep(NOISE_S)
        raise self._diagnose(device)

    # -- errors --------------------------------------------------------------------------------------------

    @contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        """Turn what the drivers raise into ArmfleetError; a dead port is closed."""
        try:
            yield
        except ArmfleetError:
            raise
        except ConnectionError as error:
            device = self._device
            raise (self._diagnose(device) if device else self._lost(f"{doing}: {error}")) from error
        except PORT_ERRORS as error:
            self.close()
            raise self._lost(f"{doing}: {type(error).__name__}: {error}") from error
        except IndexError as error:  # the SDK's way of saying that a reply was too short
            raise self._lost(f"{doing}: replies are damaged") from error
        except RuntimeError as error:
            faulty = [joint for joint, bits in zip(JOINTS, self.errors, strict=True) if bits]
            raise self._reports(faulty, f"a servo reports a fault while {doing}: {error}") from error

    def _reports(self, joints: Sequence[str], what: str) -> ArmfleetError:
        bits = dict(zip(JOINTS, self.errors, strict=True))
        named = [f"{label(joint)} ({', '.join(describe(bits[joint])) or 'no error bit'})" for joint in joints]
        return ArmfleetError(
            f"{', '.join(named) or 'one joint'} of the {self.role}: {what}",
            kept="all saved episodes",
            do="free what blocks the joint and let it cool, then take the arm's power off and on",
            code=ExitCode.SERVO_PROTECTION,
        )

    def _diagnose(self, device: Device) -> ArmfleetError:
        """Find out who does not answer; a port on which nobody does is closed."""
        try:
            silent = [joint for joint in JOINTS if wire.ping(device, joint) is None]
        except PORT_ERRORS as error:
            self.close()
            return self._lost(f"{type(error).__name__}: {error}")
        if 0 < len(silent) < len(JOINTS):
            return self._silent(silent)
        if silent:
            self.close()
            return self._lost("no servo answers")
        return self._lost("replies are damaged again and again")

    def _silent(self, silent: list[str]) -> ArmfleetError:
        if len(silent) == len(JOINTS):
            return self._lost("no servo answers")
        return ArmfleetError(
            f"{', '.join(label(joint) for joint in silent)} of the {self.role} on {self.port} "
            + ("doesn't answer" if len(silent) == 1 else "don't answer"),
            kept="all saved episodes",
            do=f"check the cable to {label(silent[0])} and the servo's id, then the power supply",
            code=ExitCode.SERVO_SILENT,
        )

    def _lost(self, cause: str) -> ArmfleetError:
        return ArmfleetError(
            f"the {self.role} on {self.port} is lost: {cause}",
            kept="all saved episodes",
            do="check its USB cable and its power; the agent connects again by itself",
            code=ExitCode.BUS_LOST,
        )
