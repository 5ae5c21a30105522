"""What `armfleet doctor` makes of facts: tables, no hardware."""

from dataclasses import replace
from pathlib import Path

import pytest

from agent.config import ArmSection
from agent.robot.calibration import Calibration, JointCalibration
from agent.robot.health import CURRENT, HEAT, OVERLOAD, VOLTAGE
from agent.robot.joints import JOINTS
from cli.doctor.arm_checks import (
    FAR_UNITS,
    AccessFacts,
    BusFacts,
    CalibrationFacts,
    PortFacts,
    ServoFacts,
    ServoHealth,
    check_agreement,
    check_calibration,
    check_counters,
    check_errors,
    check_port,
    check_servos,
    check_temperature,
    check_turn,
    check_two_ports,
    check_voltage,
    units,
)
from cli.doctor.camera_checks import CameraFacts, check_camera
from cli.doctor.look_at_arm import findings_of_status
from cli.doctor.look_at_machine import parse_gpus
from cli.doctor.machine_checks import GpuFacts, check_clock, check_clock_service, check_disk, check_gpu
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode

ROOT = Path(__file__).parents[2]
ACCESS = AccessFacts("/dev/serial/by-id/a", True, True, "dialout", "ann", True, True)
SOUND = ServoHealth(voltage=5.0, temperature=30, errors=0, voltage_limits=(4.0, 8.0), heat_limit=70)
SERVO = ServoFacts(777, "3.10", 2047, 100, 900, 3200, False, False, SOUND)


def port(**changed):
    return PortFacts("follower", replace(ACCESS, **changed), "/dev/ttyACM0", ("/dev/serial/by-id/b",))


def bus(changed=None, without=(), **facts):
    servos = {joint: SERVO for joint in JOINTS if joint not in without}
    return BusFacts("follower", servos | (changed or {}), **facts)


def healths(**changed):
    return dict.fromkeys(JOINTS, SOUND) | {"gripper": replace(SOUND, **changed)}


def calibration(**ranges) -> Calibration:
    usual = {"wrist_roll": (0, 4095), "gripper": (1500, 2700), **ranges}
    values = {}
    for number, joint in enumerate(JOINTS, start=1):
        low, high = usual.get(joint, (900, 3200))
        values[joint] = JointCalibration(id=number, homing_offset=100, range_min=low, range_max=high)
    return values


def calibrated(**ranges):
    return CalibrationFacts("follower", Path("/c/arm.json"), calibration(**ranges))


@pytest.mark.parametrize(
    ("facts", "verdict", "words"),
    [
        (port(), "ok", "/dev/ttyACM0"),
        (port(exists=False), "fail", "is not there by-id has: /dev/serial/by-id/b"),
        (port(allowed=False, member=False, active=False), "fail", "usermod -aG dialout ann"),
        (port(allowed=False, active=False), "fail", "log out and in again"),
        (port(allowed=False), "fail", "check its mode"),
        (port(path="/dev/ttyACM0"), "warn", "may change places /dev/serial/by-id/b"),
    ],
)
def test_ports(facts, verdict, words):
    finding = check_port(facts)
    assert finding.verdict == verdict
    assert finding.code == (ExitCode.PORT_MISSING if verdict == "fail" else ExitCode.OK)
    for word in words.split(" "):
        assert word in f"{finding.means} {finding.do}"


def test_one_device_for_both_arms():
    assert check_two_ports(port(), replace(port(), role="leader"))[0].code is ExitCode.CONFIG_INVALID
    assert check_two_ports(port(), replace(port(), role="leader", target="/dev/ttyACM1")) == []
    assert check_two_ports(replace(port(), target=""), replace(port(), target="")) == []  # neither is there


@pytest.mark.parametrize(
    ("facts", "verdict", "code", "words"),
    [
        (bus(), "ok", ExitCode.OK, "firmware 3.10"),
        (bus(without=["elbow_flex"]), "fail", ExitCode.SERVO_SILENT, "joint 3 (elbow_flex) does not answer"),
        (
            bus(without=["gripper"], strangers=frozenset({1, 9})),
            "fail",
            ExitCode.SERVO_SILENT,
            "id 1, 9 does",
        ),
        (bus({"gripper": replace(SERVO, model=1)}), "fail", ExitCode.SERVO_MODEL, "has model 1"),
        (bus({"gripper": replace(SERVO, firmware="3.9")}), "fail", ExitCode.FIRMWARE_MIX, "(gripper) 3.9"),
        (bus({"gripper": replace(SERVO, torque=True)}), "warn", ExitCode.OK, "under torque"),
        (bus(strangers=frozenset({9})), "warn", ExitCode.OK, "id 9 answers too"),
        (bus(retries=20), "warn", ExitCode.OK, "20 requests had to be repeated"),
    ],
)
def test_servos(facts, verdict, code, words):
    worst = check_servos(facts)[-1]
    assert (worst.verdict, worst.code) == (verdict, code)
    assert words in worst.means


@pytest.mark.parametrize(
    ("voltage", "expected", "verdict", "words"),
    [
        (5.0, 5.0, "ok", "expected 5 V"),
        (5.0, None, "ok", "5.0 V"),
        (4.4, 5.0, "warn", "weak"),
        (3.9, 5.0, "fail", "too low"),
        (7.4, 5.0, "fail", "power off now"),
        (12.1, 5.0, "fail", "power off now"),
        (5.0, 12.0, "fail", "too low"),
        (5.0, 7.4, "fail", "too low"),
        (12.0, None, "fail", "power off now"),
        (3.5, None, "fail", "too low"),
    ],
)
def test_supplies(voltage, expected, verdict, words):
    finding = check_voltage("follower", dict.fromkeys(JOINTS, replace(SOUND, voltage=voltage)), expected)
    assert finding.verdict == verdict
    assert words in f"{finding.means} {finding.do}"
    assert finding.code == (ExitCode.SUPPLY_VOLTAGE if verdict == "fail" else ExitCode.OK)


def test_a_bad_contact_in_the_chain_is_placed():
    finding = check_voltage("follower", healths(voltage=4.6) | {"wrist_roll": SOUND}, None)
    assert finding.verdict == "ok"
    finding = check_voltage("follower", healths(voltage=4.2), None)
    assert (finding.verdict, "joint 6 (gripper)" in finding.means) == ("warn", True)


def test_twelve_volt_servos_at_twelve_volt():
    strong = replace(SOUND, voltage=12.0, voltage_limits=(4.0, 14.0))
    assert check_voltage("follower", dict.fromkeys(JOINTS, strong), 12.0).verdict == "ok"


@pytest.mark.parametrize(
    ("degrees", "limit", "verdict"),
    [(30, 70, "ok"), (61, 70, "warn"), (65, 70, "fail"), (56, 55, "fail"), (54, 55, "ok")],
)
def test_temperatures(degrees, limit, verdict):
    finding = check_temperature("leader", healths(temperature=degrees, heat_limit=limit))
    assert finding.verdict == verdict
    assert "joint 6 (gripper)" in finding.means or degrees == 30
    assert finding.code == (ExitCode.SERVO_HOT if verdict == "fail" else ExitCode.OK)


@pytest.mark.parametrize(
    ("errors", "code", "word"),
    [
        (0, ExitCode.OK, "no servo"),
        (OVERLOAD, ExitCode.SERVO_PROTECTION, "overload"),
        (OVERLOAD | HEAT, ExitCode.SERVO_PROTECTION, "heat"),
        (CURRENT, ExitCode.SERVO_PROTECTION, "current"),
        (HEAT, ExitCode.SERVO_HOT, "heat"),
        (VOLTAGE, ExitCode.SUPPLY_VOLTAGE, "voltage"),
        (16, ExitCode.SERVO_PROTECTION, "bits 16"),
    ],
)
def test_error_flags(errors, code, word):
    finding = check_errors("follower", healths(errors=errors))
    assert (finding.code, finding.verdict) == (code, "fail" if errors else "ok")
    assert word in finding.means


@pytest.mark.parametrize(
    ("position", "offset", "full_angle", "verdict"),
    [
        (2047, 0, True, "ok"),
        (-900, 1000, True, "ok"),
        (5000, 0, True, "fail"),
        (-100, 50, True, "fail"),
        (4000, 1000, False, "ok"),
    ],
)
def test_positions_before_calibrating(position, offset, full_angle, verdict):
    servo = replace(SERVO, position=position, offset=offset, full_angle=full_angle)
    finding = check_turn(bus({"wrist_roll": servo}))
    assert finding.verdict == verdict
    assert finding.code == (ExitCode.CALIBRATION_MISMATCH if verdict == "fail" else ExitCode.OK)


def test_calibrations():
    ends = {"wrist_roll": replace(SERVO, range_min=0, range_max=4095)}
    held = bus(ends | {"gripper": replace(SERVO, range_min=1500, range_max=2700)})
    assert check_calibration(calibrated(), held).verdict == "ok"
    assert check_calibration(calibrated(), None).verdict == "ok"
    other = check_calibration(calibrated(), bus(ends))
    assert (other.verdict, "other values at joint 6 (gripper)" in other.means) == ("warn", True)
    narrow = check_calibration(calibrated(elbow_flex=(1500, 2500)), held)
    assert (narrow.verdict, "joint 3 (elbow_flex) 45%" in narrow.means) == ("warn", True)
    astray = check_calibration(calibrated(), bus({"elbow_flex": replace(SERVO, position=3900)}))
    assert (astray.verdict, astray.code) == ("fail", ExitCode.CALIBRATION_MISMATCH)
    error = ArmfleetError("none", code=ExitCode.CALIBRATION_MISMATCH)
    assert check_calibration(CalibrationFacts("leader", Path("x"), error=error), None).verdict == "fail"


HEALTH = {"load": 0, "voltage": 5.1, "temperature": 31, "current": 0.0, "errors": []}
ARM = ArmSection(follower_port="/f", leader_port="/l", calibration_dir=Path("/c"))


def test_what_the_arm_worker_tells():
    one = {"connected": True, "reads": 1000, "retries": 2}
    status = {"follower": one, "leader": one, "health": {"joints": {"gripper": HEALTH}, "warnings": []}}
    assert {finding.verdict for finding in findings_of_status(ARM, status)} == {"ok"}
    hot = status | {"health": {"joints": {"gripper": HEALTH | {"temperature": 66, "errors": ["heat"]}}}}
    codes = {finding.code for finding in findings_of_status(ARM, hot) if finding.verdict == "fail"}
    assert codes == {ExitCode.SERVO_HOT}
    warned = status | {"health": {"joints": {}, "warnings": ["joint 6 (gripper) pushes with 85 %"]}}
    assert [f.means for f in findings_of_status(ARM, warned) if f.verdict == "warn"] == [
        "joint 6 (gripper) pushes with 85 %"
    ]
    fault = ArmfleetError("the follower is lost", code=ExitCode.BUS_LOST).to_dict()
    lost = findings_of_status(ARM, {"fault": fault, "follower": {"connected": False}, "leader": one})
    assert [(f.what, f.verdict) for f in lost[:2]] == [("arm", "fail"), ("follower servos", "warn")]
    assert lost[0].code is ExitCode.BUS_LOST
    noisy = check_counters("follower", one | {"retries": 40, "joints": {"gripper": {"checksum": 40}}})
    assert (noisy.verdict, "joint 6 (gripper)" in noisy.means) == ("warn", True)


def test_leader_and_follower():
    teleop = (ROOT / "agent" / "robot" / "teleop.py").read_text()  # importing it would bring torch
    assert f"REFUSE_UNITS = {FAR_UNITS}" in teleop
    here = units(calibration(), bus())
    there = units(calibration(), bus({"elbow_flex": replace(SERVO, position=2047 + 1100)}))
    assert here["gripper"] == pytest.approx(45.6, abs=0.1)
    assert there["elbow_flex"] - here["elbow_flex"] == pytest.approx(96.7, abs=0.1)
    assert check_agreement(here, here).verdict == "ok"
    far = check_agreement(here, there)
    assert (far.verdict, "joint 3 (elbow_flex), by 97" in far.means) == ("warn", True)


CAMERA = CameraFacts("front", (640, 480, 30), size=(640, 480), rate=30.0, frames=45, different=45)


@pytest.mark.parametrize(
    ("changed", "verdict", "words"),
    [
        ({}, "ok", "30.0 of 30 Hz"),
        ({"snapshot": "/s/front.jpg"}, "ok", "/s/front.jpg"),
        ({"trouble": "/dev/video0 is not there", "do": "check its cable"}, "fail", "check its cable"),
        ({"size": (320, 240)}, "fail", "wants 640x480"),
        ({"different": 1}, "fail", "frozen"),
        ({"different": 1, "published": True}, "warn", "wave a hand"),
        ({"rate": 25.0}, "warn", "light"),
        ({"rate": 15.0}, "fail", "too slow"),
        ({"mean": 2.0, "deviation": 1.0}, "warn", "black"),
        ({"mean": 254.0, "deviation": 0.5}, "warn", "white"),
        ({"deviation": 1.0}, "warn", "shows nothing"),
        ({"mean": 5.0, "deviation": 12.0}, "ok", "30.0"),
    ],
)
def test_cameras(changed, verdict, words):
    finding = check_camera(replace(CAMERA, **changed))
    assert finding.verdict == verdict
    assert words in f"{finding.means} {finding.do}"
    assert finding.code == (ExitCode.CAMERA_LOST if verdict == "fail" else ExitCode.OK)


CARD = ("NVIDIA A", 16000, 15000)


@pytest.mark.parametrize(
    ("facts", "verdict", "words"),
    [
        (GpuFacts("cpu"), "ok", "cpu"),
        (GpuFacts("cpu", (CARD,)), "ok", "unused: NVIDIA A"),
        (GpuFacts("cuda", (CARD,)), "ok", "15000 of 16000"),
        (GpuFacts("cuda:1", (CARD,)), "fail", "there is only"),
        (GpuFacts("cuda", (("NVIDIA A", 4000, 300),)), "warn", "little"),
        (GpuFacts("cuda", trouble="there is no nvidia-smi"), "fail", "no nvidia-smi"),
        (GpuFacts("cuda", (CARD,), blocked=("/dev/nvidia0",)), "fail", "render,video"),
    ],
)
def test_gpus(facts, verdict, words):
    finding = check_gpu(facts)
    assert finding.verdict == verdict
    assert words in f"{finding.means} {finding.do}"
    assert finding.code == (ExitCode.DEVICE_MISSING if verdict == "fail" else ExitCode.OK)


def test_what_nvidia_smi_prints():
    text = "NVIDIA GeForce RTX 4090, 24564, 23000\nOdd, Name, 8192, [N/A]\n\n"
    assert parse_gpus(text) == (("NVIDIA GeForce RTX 4090", 24564, 23000), ("Odd, Name", 8192, 0))


def test_disk_and_clock():
    assert check_disk(400, 300, "/v").code is ExitCode.DISK_FULL
    assert check_disk(900, 300, "/v").verdict == "warn"
    assert check_disk(90_000, 2000, "/v").verdict == "ok"
    assert [check_clock(seconds).verdict for seconds in (0.5, -4.0, 6.0)] == ["ok", "ok", "fail"]
    assert [check_clock_service(told).verdict for told in (True, False, None)] == ["ok", "warn", "warn"]
