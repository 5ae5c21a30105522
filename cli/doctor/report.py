"""Looks at everything, one thing after another, and prints the lines."""

import json
import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from agent.config import AgentConfig, load_agent_config
from agent.robot.calibration import Role
from cli.doctor import arm_checks
from cli.doctor.arm_checks import BusFacts, CalibrationFacts, PortFacts
from cli.doctor.finding import JOIN_GROUP, Finding, Verdict, ok, refused, warn
from cli.doctor.look_at_arm import (
    findings_of_bus,
    findings_of_status,
    look_at_bus,
    look_at_calibration,
    look_at_ports,
)
from cli.doctor.look_at_machine import (
    look_at_agent,
    look_at_base,
    look_at_clock,
    look_at_disk,
    look_at_fleet,
    look_at_gpu,
)
from cli.ports import ANSWER_S, agent_runs
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.uds import UdsClient

COLOURS: dict[Verdict, str] = {"ok": "green", "warn": "yellow", "fail": "red"}

type Look = Callable[[], Iterator[Finding]]


def run(config_path: Path, as_json: bool, snapshots: Path | None) -> int:
    """Print the findings; the exit code is that of the first line that fails."""
    config = load_agent_config(config_path)
    notes = Console(stderr=True)
    with notes.status("looking") as progress:
        examination = Examination(config, snapshots or _snapshots())
        findings = list(examination.findings(lambda what: progress.update(f"looking at: {what}")))
    code = next((finding.code for finding in findings if finding.verdict == "fail"), ExitCode.OK)
    if as_json:
        lines = [finding.to_dict() for finding in findings]
        print(json.dumps({"findings": lines, "exit_code": int(code)}, indent=1))
    else:
        Console().print(table(findings))
    return int(code)


def _snapshots() -> Path:
    """This user's cache folder (XDG base directory specification)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "armfleet" / "doctor"


def table(findings: list[Finding]) -> Table:
    """One line per finding."""
    made = Table(show_lines=False)
    for title in ("what", "", "what it means", "what to do"):
        made.add_column(title, overflow="fold")
    for finding in findings:
        cells = finding.what, finding.verdict, finding.means, finding.do
        styles = "", COLOURS[finding.verdict], "", ""
        # Text, not markup: "[arm] supply_v" is no style.
        made.add_row(*(Text(cell, style) for cell, style in zip(cells, styles, strict=True)))
    return made


class Examination:
    """One look at a workstation; moves nothing, and writes nothing to an arm.

    Args:
        config: agent.toml.
        snapshots: Folder for a picture of each camera.
    """

    def __init__(self, config: AgentConfig, snapshots: Path) -> None:
        self._config, self._snapshots = config, snapshots
        self._agent_known = True
        self._agent: dict[str, Any] | None = None
        """The agent's `/status`, None if none runs."""
        self._worker: dict[str, Any] | None = None
        """The arm worker's own status, None if it was not asked or does not answer."""

    def findings(self, tell: Callable[[str], None]) -> Iterator[Finding]:
        """All findings; `tell` is called with what is looked at next."""
        looks: tuple[tuple[str, Look], ...] = (
            ("agent", self._ask_agent),
            ("arm", self._arm),
            ("cameras", self._cameras),
            ("base policy", lambda: look_at_base(self._config)),
            ("GPU", lambda: look_at_gpu(self._config)),
            ("disk", lambda: look_at_disk(self._config)),
            ("clock service", lambda: look_at_clock(self._config)),
            ("enrolment", lambda: look_at_fleet(self._config)),
        )
        for what, look in looks:
            tell(what)
            try:
                yield from look()
            except PermissionError as error:
                yield _closed(what, str(error.filename))

    # -- agent ---------------------------------------------------------------------------------------------

    def _ask_agent(self) -> Iterator[Finding]:
        socket = self._config.node.socket
        self._agent_known = False
        try:
            if agent_runs(self._config):
                client = UdsClient(socket, timeout_s=ANSWER_S)
                self._agent = client.get("/status")
                client.close()
        except ArmfleetError as error:
            yield warn("agent", error.what, error.do)
            return
        self._agent_known = True
        yield look_at_agent(self._agent, socket)

    # -- arm -----------------------------------------------------------------------------------------------

    def _arm(self) -> Iterator[Finding]:
        arm = self._config.arm
        if arm is None:
            yield ok("arm", "no [arm] in the configuration: this machine only trains")
            return
        ports = look_at_ports(arm)
        yield from map(arm_checks.check_port, ports)
        yield from arm_checks.check_two_ports(*ports)
        buses: dict[Role, BusFacts] = {}
        if not self._agent_known:
            means = "not looked at: an agent that doesn't answer may be using the ports"
            yield warn("servos", means, "see the line of the agent")
        elif self._agent is not None:
            yield from self._from_worker()
        else:
            buses = yield from self._from_ports(ports)
        yield from self._calibrations(buses)

    def _from_worker(self) -> Iterator[Finding]:
        assert self._config.arm is not None
        client = UdsClient(self._config.node.socket, timeout_s=ANSWER_S)
        try:
            self._worker = client.get("/arm")
        except ArmfleetError as error:
            yield warn("arm", error.what, error.do or "try again shortly")
            return
        finally:
            client.close()
        yield from findings_of_status(self._config.arm, self._worker)

    def _from_ports(self, ports: list[PortFacts]) -> Generator[Finding, None, dict[Role, BusFacts]]:
        assert self._config.arm is not None
        buses: dict[Role, BusFacts] = {}
        for port in ports:
            if not (port.access.exists and port.access.allowed):
                continue
            try:
                bus = look_at_bus(port.role, port.access.path)
            except ArmfleetError as error:
                yield refused(f"{port.role} servos", error)
                continue
            yield from findings_of_bus(self._config.arm, bus)
            if len(bus.servos) == len(arm_checks.JOINTS):
                buses[port.role] = bus
        return buses

    def _calibrations(self, buses: dict[Role, BusFacts]) -> Iterator[Finding]:
        arm = self._config.arm
        assert arm is not None
        places = {}
        for role in ("follower", "leader"):
            try:
                facts: CalibrationFacts = look_at_calibration(arm, role)
            except PermissionError as error:
                yield _closed("calibration", str(error.filename))
                return
            finding = arm_checks.check_calibration(facts, buses.get(role))
            yield finding
            if finding.verdict != "fail" and facts.calibration is not None and role in buses:
                places[role] = arm_checks.units(facts.calibration, buses[role])
        if len(places) == 2:
            yield arm_checks.check_agreement(places["follower"], places["leader"])
        elif self._worker is not None:
            do = "to measure it: systemctl stop armfleet-agent, then again"
            yield warn("leader and follower", "not measured: the agent compares them at each session", do)

    # -- cameras -------------------------------------------------------------------------------------------

    def _cameras(self) -> Iterator[Finding]:
        from cli.doctor.look_at_cameras import findings_of_cameras

        yield from findings_of_cameras(self._config.cameras, self._worker, self._snapshots)


def _closed(what: str, path: str) -> Finding:
    return warn(what, f"not looked at: this user may not look at {path}", JOIN_GROUP)
