"""Gathers facts about the arms: from the agent where it runs, else from the ports, read-only."""

import getpass
import grp
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.config import ArmSection
from agent.robot.calibration import Role, calibration_path, load_calibration
from agent.robot.health import NAMES
from agent.robot.joints import JOINTS
from agent.robot.line import FULL_ANGLE, Line, Register
from cli.doctor import arm_checks as checks
from cli.doctor.arm_checks import AccessFacts, BusFacts, CalibrationFacts, PortFacts, ServoFacts, ServoHealth
from cli.doctor.finding import Finding, ok, refused, warn
from shared.errors import ArmfleetError

ROLES: tuple[Role, ...] = ("follower", "leader")
BY_ID = Path("/dev/serial/by-id")
ASKED = tuple(register for register in Register if register is not Register.LOCK)


def look_at_ports(arm: ArmSection) -> list[PortFacts]:
    """Both configured ports; nothing is opened."""
    known = tuple(sorted(str(path) for path in BY_ID.iterdir())) if BY_ID.is_dir() else ()
    ports: Mapping[Role, str] = {"follower": arm.follower_port, "leader": arm.leader_port}
    return [
        PortFacts(role, access(port), str(Path(port).resolve()) if Path(port).exists() else "", known)
        for role, port in ports.items()
    ]


def access(name: str) -> AccessFacts:
    """A device file and this user's groups."""
    path = Path(name)
    if not path.exists():
        return AccessFacts(name, False)
    user, gid = getpass.getuser(), path.stat().st_gid
    try:
        group = grp.getgrgid(gid)
    except KeyError:
        return AccessFacts(name, True, os.access(path, os.R_OK | os.W_OK), str(gid), user)
    return AccessFacts(
        name,
        exists=True,
        allowed=os.access(path, os.R_OK | os.W_OK),
        group=group.gr_name,
        user=user,
        member=user in group.gr_mem,
        active=gid in {*os.getgroups(), os.getegid()},
    )


def look_at_bus(role: Role, port: str) -> BusFacts:
    """All registers of interest of the six servos, by reading alone.

    Raises:
        ArmfleetError: PORT_MISSING or BUS_LOST.
    """
    servos: dict[str, ServoFacts] = {}
    with Line(port, role) as line:
        heard = line.scan()
        for servo, joint in enumerate(JOINTS, start=1):
            values = line.look(servo, ASKED)
            if values is not None:
                servos[joint] = _facts(values)
        return BusFacts(role, servos, frozenset(heard - set(range(1, len(JOINTS) + 1))), line.retries)


def _facts(values: Mapping[Register, int]) -> ServoFacts:
    firmware = values[Register.FIRMWARE]
    return ServoFacts(
        model=values[Register.MODEL],
        firmware=f"{firmware & 0xFF}.{firmware >> 8}",
        position=values[Register.PRESENT_POSITION],
        offset=values[Register.HOMING_OFFSET],
        range_min=values[Register.MIN_POSITION],
        range_max=values[Register.MAX_POSITION],
        full_angle=bool(values[Register.PHASE] & FULL_ANGLE),
        torque=values[Register.TORQUE_ENABLE] != 0,
        health=ServoHealth(
            voltage=values[Register.PRESENT_VOLTAGE] / 10,
            temperature=values[Register.PRESENT_TEMPERATURE],
            errors=values[Register.STATUS],
            voltage_limits=(values[Register.MIN_VOLTAGE] / 10, values[Register.MAX_VOLTAGE] / 10),
            heat_limit=values[Register.MAX_TEMPERATURE],
        ),
    )


def look_at_calibration(arm: ArmSection, role: Role) -> CalibrationFacts:
    """The file as it is."""
    path = calibration_path(arm.calibration_dir, arm.id, role)
    try:
        return CalibrationFacts(role, path, load_calibration(path, role))
    except ArmfleetError as error:
        return CalibrationFacts(role, path, error=error)


def expected_supply(arm: ArmSection, role: Role) -> float | None:
    """Nominal volt; a leader's is not configured, since it only ever carries itself."""
    return arm.supply_v if role == "follower" else None


def findings_of_bus(arm: ArmSection, bus: BusFacts) -> list[Finding]:
    """All checks of one arm that was read directly, calibration aside."""
    found = checks.check_servos(bus)
    health = {joint: servo.health for joint, servo in bus.servos.items()}
    if health:
        found += _health(bus.role, health, expected_supply(arm, bus.role))
        found.append(checks.check_turn(bus))
    return found


def findings_of_status(arm: ArmSection, status: Mapping[str, Any]) -> list[Finding]:
    """What the arm worker says of both arms: it owns the ports."""
    found = []
    if status.get("fault"):
        found.append(refused("arm", ArmfleetError.from_dict(status["fault"])))
    for role in ROLES:
        told = status.get(role) or {}
        if not told.get("connected"):
            do = "see the fault above; the agent connects again by itself"
            found.append(warn(f"{role} servos", "the agent is not connected to it", do))
            continue
        means = "the agent has it: ids, models, firmware, health and calibration were right on connecting"
        found += [ok(f"{role} servos", means), checks.check_counters(role, told)]
    watched = status.get("health") or {}
    health = {joint: _told(values) for joint, values in (watched.get("joints") or {}).items()}
    if health:
        found += _health("follower", health, expected_supply(arm, "follower"))
    found += [warn("follower health", sentence) for sentence in watched.get("warnings") or ()]
    return found


def _told(values: Mapping[str, Any]) -> ServoHealth:
    """The arm worker's form of `agent.robot.health.Health`."""
    bits = sum(bit for bit, name in NAMES.items() if name in values.get("errors", ()))
    return ServoHealth(float(values["voltage"]), float(values["temperature"]), bits)


def _health(role: Role, health: Mapping[str, ServoHealth], expected: float | None) -> list[Finding]:
    return [
        checks.check_voltage(role, health, expected),
        checks.check_temperature(role, health),
        checks.check_errors(role, health),
    ]
