"""`armfleet doctor` on emulated arms and a published camera: what it finds, and that it writes nothing."""

import io
import json
import socket
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from agent.config import load_agent_config
from agent.lock import only_one
from cli.doctor.finding import Finding
from cli.doctor.look_at_cameras import MEASURE_S, _measure
from cli.doctor.report import Examination, table
from cli.main import app
from shared.exit_codes import ExitCode
from sim.faults import BusFaults
from sim.joints import JointMap
from sim.packets import Instruction, Packet
from sim.registers import Register
from tests.cli.arms import EmulatedArm, PublishedCamera, write_config

ROOT = Path(__file__).parents[2]
RUNNER = CliRunner()


class Bench:
    """A whole workstation without an agent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "calibration").mkdir()
        (folder / "calibration" / "so100.json").write_text(JointMap().calibration_json())
        self.follower, self.leader = EmulatedArm(folder / "ttyF"), EmulatedArm(folder / "ttyL")
        self.camera = PublishedCamera()
        self.config = write_config(folder, ROOT / "sim/base", self.camera.port)

    def look(self):
        examination = Examination(load_agent_config(self.config), self.folder / "pictures")
        return {finding.what: finding for finding in examination.findings(lambda what: None)}

    def stop(self) -> None:
        self.camera.stop()
        self.follower.port.unplug()
        self.leader.port.unplug()


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path)
    yield made
    made.stop()


@pytest.fixture
def quick(monkeypatch):
    """Looks at the camera more briefly."""
    monkeypatch.setattr("cli.doctor.look_at_cameras.MEASURE_S", 0.2)
    monkeypatch.setattr("cli.doctor.look_at_cameras.FIRST_FRAME_S", 0.5)


def test_a_sound_workstation_has_no_failing_line_and_nothing_is_written_to_it(bench):
    for joint in range(1, 7):  # stiff, as after a crash: also that stays
        bench.follower.bus.handle(Packet(joint, Instruction.WRITE, bytes([Register.TORQUE_ENABLE, 1])))
    bench.follower.written.clear()
    before = [bench.follower.bus.registers(joint).read(0, 56) for joint in range(6)]
    findings = bench.look()
    camera = findings.pop("camera front")  # its verdict is the test's own: a busy machine publishes slowly
    assert "96x96 at " in camera.means
    assert "of 30 Hz" in camera.means
    assert {what for what, finding in findings.items() if finding.verdict == "fail"} == set()
    assert bench.follower.written == bench.leader.written == []
    assert [bench.follower.bus.registers(joint).read(0, 56) for joint in range(6)] == before
    for role in ("follower", "leader"):
        for what in ("port", "servos", "voltage", "temperature", "errors", "positions", "calibration"):
            assert findings[f"{role} {what}"].verdict == "ok", findings[f"{role} {what}"]
    assert "under torque" in findings["follower torque"].means
    assert findings["leader and follower"].verdict == "ok"
    assert (bench.folder / "pictures" / "front.jpg").read_bytes()[:2] == b"\xff\xd8"
    assert findings["base policy"].verdict == "ok"


@pytest.mark.parametrize(
    ("faults", "what", "code", "words"),
    [
        ({"dead": {3}}, "servos", ExitCode.SERVO_SILENT, "joint 3 (elbow_flex)"),
        ({"models": {2: 1029}}, "servos", ExitCode.SERVO_MODEL, "joint 2 (shoulder_lift) has model 1029"),
        ({"firmware": {6: (3, 9)}}, "servos", ExitCode.FIRMWARE_MIX, "joint 6 (gripper) 3.9"),
        ({"voltage": 12.1}, "voltage", ExitCode.SUPPLY_VOLTAGE, "12.1 V"),
        ({"voltage": 3.7}, "voltage", ExitCode.SUPPLY_VOLTAGE, "too low"),
        ({"temperature": {6: 68.0}}, "temperature", ExitCode.SERVO_HOT, "joint 6 (gripper) at 68"),
        ({"overload": {4}}, "errors", ExitCode.SERVO_PROTECTION, "joint 4 (wrist_flex): overload"),
        ({"unplugged": True}, "port", ExitCode.PORT_MISSING, "is not there"),
        ({"silent": True}, "servos", ExitCode.SERVO_SILENT, "joint 1 (shoulder_pan)"),
    ],
)
def test_each_fault_has_its_line_and_its_number(bench, quick, faults, what, code, words):
    bench.follower.port.set_faults(BusFaults(**faults))
    finding = bench.look()[f"follower {what}"]
    assert (finding.verdict, finding.code) == ("fail", code)
    assert words in finding.means
    assert finding.do
    assert bench.follower.written == []


def test_the_rate_is_that_of_the_frames_that_came(tmp_path):
    def frames(period_s, pictures=1000):
        for number in range(pictures):
            yield 100 + number * period_s, np.full((96, 128, 3), number % 200, np.uint8)

    facts = _measure("front", (128, 96, 30), frames(1 / 25), tmp_path)
    assert facts.rate == pytest.approx(25)
    assert (facts.size, facts.different) == ((128, 96), facts.frames)
    assert facts.frames == pytest.approx(MEASURE_S * 25, abs=2)
    black = ((100 + n / 30, np.zeros((96, 128, 3), np.uint8)) for n in range(99))
    still = _measure("front", (128, 96, 30), black, tmp_path)
    assert (still.different, still.mean, still.deviation) == (1, 0, 0)


def test_a_noisy_and_stalling_line_is_read_rightly(bench, quick):
    bench.follower.port.set_faults(BusFaults(corrupt=0.05))
    bench.leader.port.set_faults(BusFaults(stalls=0.03, stall_s=0.08))
    findings = bench.look()
    for role in ("follower", "leader"):
        assert findings[f"{role} servos"].verdict == findings[f"{role} calibration"].verdict == "ok"
        assert findings[f"{role} positions"].verdict == "ok"
    assert "had to be repeated" in findings["follower line"].means


def test_swapped_calibrations_and_joints_astray(bench, quick):
    values = json.loads(JointMap().calibration_json())
    values["elbow_flex"] |= {"range_min": 100, "range_max": 1700}
    (bench.folder / "calibration" / "so100.json").write_text(json.dumps(values))
    finding = bench.look()["follower calibration"]
    assert finding.code == ExitCode.CALIBRATION_MISMATCH
    assert "joint 3 (elbow_flex)" in finding.means


def test_the_command_prints_json_and_ends_with_the_first_failing_number(bench, quick):
    bench.follower.port.set_faults(BusFaults(temperature={6: 68.0}))
    bench.camera.stop()
    options = ["doctor", "--config", str(bench.config), "--snapshots", str(bench.folder)]
    result = RUNNER.invoke(app, [*options, "--json"])
    report = json.loads(result.stdout)
    assert result.exit_code == report["exit_code"] == ExitCode.SERVO_HOT
    verdicts = {line["what"]: line["verdict"] for line in report["findings"]}
    assert (verdicts["follower temperature"], verdicts["camera front"]) == ("fail", "fail")
    assert {"what", "verdict", "means", "do", "code"} == set(report["findings"][0])
    shown = RUNNER.invoke(app, options)
    assert shown.exit_code == ExitCode.SERVO_HOT
    assert "what to do" in shown.stdout


def test_a_section_of_the_configuration_is_shown_and_no_style():
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table([Finding("GPU", "fail", '[policy] device = "cuda"', "see [arm] supply_v")]))
    shown = console.export_text()
    assert '[policy] device = "cuda"' in shown
    assert "[arm] supply_v" in shown


def test_an_agent_that_hangs_keeps_its_ports(bench, quick):
    """Its socket is there and nobody answers; the kernel knows that the process still lives."""
    config = load_agent_config(bench.config)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(config.node.socket))
    polls = bench.follower.polls
    with only_one(config.node.state_dir):
        findings = bench.look()
    assert findings["agent"].verdict == findings["servos"].verdict == "warn"
    assert bench.follower.polls == polls
    assert bench.look()["follower servos"].verdict == "ok", "the lock is free: the agent is dead"
    listener.close()
