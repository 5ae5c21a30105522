"""What facts about an arm mean. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.robot.calibration import (
    Calibration,
    Role,
    check_fit,
    unusual_ranges,
)
from agent.robot.health import CURRENT, HEAT, NAMES, OVERLOAD, SENSOR, VOLTAGE
from agent.robot.joints import FULL_TURN, GRIPPER, JOINTS, label
from agent.robot.safety import HOT_C, SAGGED, SAGGING, TOO_HIGH, WARM_C
from cli.doctor.finding import Finding, fail, ok, refused, warn
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode

MODEL_STS3215 = 777
SPREAD_V = 0.6
"""Difference between two joints of a limp arm: a plug or cable of the chain has a bad contact."""
FAR_UNITS = 90.0
"""Where teleoperation refuses to start (`agent.robot.teleop.REFUSE_UNITS`; a test keeps both equal)."""
NOISY = 3
"""Repeated transactions among the 200 of one look: fewer happen on a busy PC."""
NOISY_SHARE = 0.01
"""The same share of a long session's readings."""


@dataclass(frozen=True)
class AccessFacts:
    """A device file, as this user meets it.

    Attributes:
        group: The file's group.
        member: This user is in it by the group database.
        active: And was so when logging in.
    """

    path: str
    exists: bool
    allowed: bool = False
    group: str = ""
    user: str = ""
    member: bool = False
    active: bool = False


@dataclass(frozen=True)
class PortFacts:
    """A configured port.

    Attributes:
        target: What the name leads to.
        known: Names in /dev/serial/by-id.
    """

    role: Role
    access: AccessFacts
    target: str = ""
    known: tuple[str, ...] = ()


@dataclass(frozen=True)
class ServoHealth:
    """What a servo says of itself; limits are its own registers, None where they were not read.

    Attributes:
        voltage, temperature: Volt, degrees C.
        errors: Bits of `agent.robot.health`.
    """

    voltage: float
    temperature: float
    errors: int
    voltage_limits: tuple[float, float] | None = None
    heat_limit: float = HOT_C


@dataclass(frozen=True)
class ServoFacts:
    """One servo's identity and registers; counts as they stand there."""

    model: int
    firmware: str
    position: int
    offset: int
    range_min: int
    range_max: int
    full_angle: bool
    torque: bool
    health: ServoHealth


@dataclass(frozen=True)
class BusFacts:
    """One look at the six servos of a port; a joint that is missing did not answer."""

    role: Role
    servos: Mapping[str, ServoFacts]
    strangers: frozenset[int] = frozenset()
    retries: int = 0


@dataclass(frozen=True)
class CalibrationFacts:
    """A calibration file: its contents, or why it can't be used."""

    role: Role
    path: Path
    calibration: Calibration | None = None
    error: ArmfleetError | None = field(default=None, compare=False)


def access_advice(facts: AccessFacts) -> str:
    """What opens a device file to this user."""
    if facts.member and not facts.active:
        return f"log out and in again: {facts.user} joined the group {facts.group} since then"
    if facts.member:
        return f"the group {facts.group} may not use it either: check its mode (install deploy/udev)"
    return f"sudo usermod -aG {facts.group} {facts.user}, then log in again"


def check_port(facts: PortFacts) -> Finding:
    """Name, presence and permission of a serial port."""
    what, port = f"{facts.role} port", facts.access.path
    if not facts.access.exists:
        there = ", ".join(facts.known) or "none at all"
        do = f"check cable and power; /dev/serial/by-id has: {there}"
        return fail(what, f"{port} is not there", do, ExitCode.PORT_MISSING)
    if not facts.access.allowed:
        means = f"{port}: no permission (group {facts.access.group})"
        return fail(what, means, access_advice(facts.access), ExitCode.PORT_MISSING)
    if Path(port).name.startswith(("ttyACM", "ttyUSB")):
        do = "name it by its /dev/serial/by-id/… in agent.toml"
        if facts.known:
            do += f" ({', '.join(facts.known)})"
        return warn(what, f"{port} may change places with the other arm after replugging", do)
    return ok(what, f"{port} -> {facts.target}")


def check_two_ports(follower: PortFacts, leader: PortFacts) -> list[Finding]:
    """Whether both arms are configured to be the same device."""
    if not follower.target or follower.target != leader.target:
        return []
    means = f"follower and leader are the same device {leader.target}"
    return [fail("two ports", means, "give each its own port in agent.toml", ExitCode.CONFIG_INVALID)]


def check_servos(facts: BusFacts) -> list[Finding]:
    """Ids, models, firmware, torque and the line's noise."""
    what = f"{facts.role} servos"
    silent = [joint for joint in JOINTS if joint not in facts.servos]
    if silent:
        names = ", ".join(label(joint) for joint in silent)
        means = f"{names} {'does' if len(silent) == 1 else 'do'} not answer"
        do = f"check the cable in front of {label(silent[0])} and the power supply"
        if facts.strangers:
            means += f"; but id {_numbers(facts.strangers)} does"
            do = f"set the servo's id (lerobot-setup-motors), or {do}"
        return [fail(what, means, do, ExitCode.SERVO_SILENT)]
    found = [_identity(what, facts)]
    if facts.strangers:
        means = f"id {_numbers(facts.strangers)} answers too, which an SO-100/SO-101 doesn't have"
        found.append(warn(f"{facts.role} ids", means, "take what doesn't belong to the arm off its bus"))
    stiff = [joint for joint in JOINTS if facts.servos[joint].torque]
    if stiff:
        means = f"{_named(stiff)} under torque although nobody drives the arm: motors grow hot"
        found.append(
            warn(f"{facts.role} torque", means, "support the arm, then: armfleet arm release --direct")
        )
    if facts.retries > NOISY:
        means = f"{facts.retries} requests had to be repeated"
        found.append(warn(f"{facts.role} line", means, "check plugs and cables; avoid USB hubs"))
    return found


def _identity(what: str, facts: BusFacts) -> Finding:
    foreign = {j: s.model for j, s in facts.servos.items() if s.model != MODEL_STS3215}
    if foreign:
        names = ", ".join(f"{label(joint)} has model {model}" for joint, model in foreign.items())
        do = "check that the port is that of an SO-100/SO-101, or change the servo"
        return fail(what, f"no STS3215 (model {MODEL_STS3215}): {names}", do, ExitCode.SERVO_MODEL)
    versions = {joint: servo.firmware for joint, servo in facts.servos.items()}
    if len(set(versions.values())) > 1:
        names = ", ".join(f"{label(joint)} {version}" for joint, version in versions.items())
        do = "bring all to the newest with Feetech's FD software (feetechrc.com/software)"
        return fail(what, f"different firmware: {names}", do, ExitCode.FIRMWARE_MIX)
    return ok(what, f"ids 1-6 answer, all STS3215 with firmware {next(iter(versions.values()))}")


def check_counters(role: Role, told: Mapping[str, Any]) -> Finding:
    """The arm worker's own count of what went wrong on the line and was cured."""
    what, reads, retries = f"{role} line", int(told.get("reads", 0)), int(told.get("retries", 0))
    means = f"{retries} of {reads} readings had to be repeated"
    if joints := told.get("joints"):
        means += f" ({', '.join(label(joint) for joint in joints)})"
    if retries > NOISY and retries > reads * NOISY_SHARE:
        return warn(what, means, "check plugs and cables; avoid USB hubs")
    return ok(what, means)


def check_voltage(role: Role, servos: Mapping[str, ServoHealth], expected: float | None) -> Finding:
    """Supply against `expected` volt (None: against the servos' own limits alone), by the limits at which the
    agent stops the arm (`agent.robot.safety`)."""
    what = f"{role} voltage"
    low, high = min(s.voltage for s in servos.values()), max(s.voltage for s in servos.values())
    seen = f"{low:.1f} V" if low == high else f"{low:.1f} to {high:.1f} V"
    seen += f" (expected {expected:g} V)" if expected else ""
    limits = [s.voltage_limits for s in servos.values() if s.voltage_limits]
    floors = [a for a, _ in limits] + ([expected * SAGGED] if expected else [])
    ceilings = [b for _, b in limits] + ([expected * TOO_HIGH] if expected else [])
    if ceilings and high > min(ceilings):
        do = "take the power off now; use the supply of these servos (12 V destroy the 7.4 V kind)"
        return fail(what, f"{seen}: too high", do, ExitCode.SUPPLY_VOLTAGE)
    if floors and low < max(floors):
        do = "check the power plug, and that the supply is that of these servos"
        means = f"{seen}: too low, the arm would sag and be stopped"
        return fail(what, means, do, ExitCode.SUPPLY_VOLTAGE)
    if expected and low < expected * SAGGING:
        return warn(what, f"{seen}: weak", "use a supply with more current (5 A or more), check its plug")
    if high - low > SPREAD_V:
        weakest = min(servos, key=lambda joint: servos[joint].voltage)
        return warn(what, f"{seen}: lowest at {label(weakest)}", f"check the plugs up to {label(weakest)}")
    return ok(what, seen)


def check_temperature(role: Role, servos: Mapping[str, ServoHealth]) -> Finding:
    """Temperatures against the limits of `agent.robot.safety`, or the servo's own if that is lower."""
    what = f"{role} temperature"
    joint = max(servos, key=lambda name: servos[name].temperature)
    degrees, limit = servos[joint].temperature, min(HOT_C, servos[joint].heat_limit)
    seen = f"warmest: {label(joint)} at {degrees:.0f} °C (the arm is stopped at {limit:.0f} °C)"
    if degrees >= limit:
        do = "release the arm and let it cool; look for what blocks or loads that joint"
        return fail(what, seen, do, ExitCode.SERVO_HOT)
    if degrees >= min(WARM_C, limit):
        return warn(what, seen, "let it rest; a gripper that keeps squeezing grows hot")
    return ok(what, seen)


def check_errors(role: Role, servos: Mapping[str, ServoHealth]) -> Finding:
    """The servos' own fault bits."""
    what = f"{role} errors"
    told = {joint: servo.errors for joint, servo in servos.items() if servo.errors}
    if not told:
        return ok(what, "no servo reports a fault")
    names = ", ".join(f"{label(joint)}: {_bits(errors)}" for joint, errors in told.items())
    every = 0
    for errors in told.values():
        every |= errors
    if every & (OVERLOAD | CURRENT | SENSOR):
        do = "free what blocks the joint, then take the arm's power off and on"
        return fail(what, names, do, ExitCode.SERVO_PROTECTION)
    if every & HEAT:
        return fail(what, names, "release the arm and let it cool", ExitCode.SERVO_HOT)
    code = ExitCode.SUPPLY_VOLTAGE if every & VOLTAGE else ExitCode.SERVO_PROTECTION
    return fail(what, names, "see the voltage above", code)


def check_turn(facts: BusFacts) -> Finding:
    """Whether each joint stands within its encoder's turn: else a calibration ends in "Magnitude exceeds"."""
    what = f"{facts.role} positions"
    outside = {
        joint: servo.position + servo.offset
        for joint, servo in facts.servos.items()
        if servo.full_angle and not 0 <= servo.position + servo.offset <= FULL_TURN
    }
    if outside:
        names = ", ".join(f"{label(joint)} at {position}" for joint, position in outside.items())
        do = "move it near its middle, take the arm's power off and on, then calibrate"
        return fail(what, f"outside 0..{FULL_TURN}: {names}", do, ExitCode.CALIBRATION_MISMATCH)
    return ok(what, f"all within 0..{FULL_TURN}: may be calibrated")


def check_calibration(facts: CalibrationFacts, bus: BusFacts | None) -> Finding:
    """The file, whether it makes sense, and (with `bus`) whether it fits where the arm stands."""
    what, role = f"{facts.role} calibration", facts.role
    if facts.error is not None:
        return refused(what, facts.error)
    assert facts.calibration is not None
    calibration, servos = facts.calibration, bus.servos if bus else {}
    if len(servos) == len(JOINTS):
        positions = {joint: servo.position for joint, servo in servos.items()}
        offsets = {joint: servo.offset for joint, servo in servos.items()}
        try:
            check_fit(calibration, positions, offsets, role, facts.path)
        except ArmfleetError as error:
            return refused(what, error)
    odd = [f"{label(joint)} {share:.0%}" for joint, share in unusual_ranges(calibration).items()]
    if odd:
        means = f"{facts.path}: share of an SO-101's usual range: {', '.join(odd)}"
        return warn(what, means, f"if a stop was not reached: armfleet calibrate {role}")
    other = [joint for joint, servo in servos.items() if not _holds(servo, calibration, joint)]
    if other:
        means = f"{facts.path}; the servos hold other values at {_named(other)}"
        return warn(what, means, "nothing: the agent writes the file to the servos when it connects")
    return ok(what, str(facts.path))


def _holds(servo: ServoFacts, calibration: Calibration, joint: str) -> bool:
    values = calibration[joint]
    return (servo.offset, servo.range_min, servo.range_max) == (
        values.homing_offset,
        values.range_min,
        values.range_max,
    )


def units(calibration: Calibration, bus: BusFacts) -> dict[str, float]:
    """Where the joints stand: degrees from the middle of the range; the gripper 0..100."""
    found = {}
    for index, joint in enumerate(JOINTS):
        values, servo = calibration[joint], bus.servos[joint]
        position = (servo.position + servo.offset - values.homing_offset) % (FULL_TURN + 1)
        span = values.range_max - values.range_min
        if index == GRIPPER:
            found[joint] = min(1.0, max(0.0, (position - values.range_min) / span)) * 100
        else:
            found[joint] = (position - (values.range_min + values.range_max) / 2) * 360 / FULL_TURN
    return found


def check_agreement(follower: Mapping[str, float], leader: Mapping[str, float]) -> Finding:
    """Leader against follower, in units."""
    what = "leader and follower"
    apart = {joint: abs(follower[joint] - leader[joint]) for joint in JOINTS}
    joint = max(apart, key=lambda name: apart[name])
    seen = f"differ most at {label(joint)}, by {apart[joint]:.0f}"
    if apart[joint] > FAR_UNITS:
        do = "bring the leader near the follower's pose; if they look alike, calibrate both again"
        return warn(what, f"{seen}: teleoperation refuses above {FAR_UNITS:.0f}", do)
    return ok(what, f"{seen} degrees; if they stand alike and this is above 5, calibrate both again")


def _named(joints: list[str]) -> str:
    return ", ".join(label(joint) for joint in joints)


def _numbers(ids: frozenset[int]) -> str:
    return ", ".join(str(number) for number in sorted(ids))


def _bits(errors: int) -> str:
    return ", ".join(name for bit, name in NAMES.items() if errors & bit) or f"bits {errors}"
