"""Gathers facts about the computer, the base policy, the agent and the fleet."""

import getpass
import os
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx

from agent.config import AgentConfig
from cli.doctor.finding import Finding, fail, ok, refused, warn
from cli.doctor.machine_checks import GpuFacts, check_clock, check_clock_service, check_disk, check_gpu
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.files import free_bytes

ASK_S = 5.0
"""Longest wait for nvidia-smi (the first call loads the driver) and timedatectl."""
COORDINATOR_S = 10.0


def look_at_base(config: AgentConfig) -> Iterator[Finding]:
    """Where the base is, for this user; nothing is downloaded, as the services don't either."""
    from huggingface_hub.constants import HF_HUB_CACHE

    from shared.policy.source import resolve_base

    os.environ["HF_HUB_OFFLINE"] = "1"
    base = config.policy.base
    try:
        found = ok("base policy", str(resolve_base(base)))
    except ArmfleetError as error:
        found = refused("base policy", error)
    if not Path(base).expanduser().is_dir():
        where = f"no folder, so this looked in {HF_HUB_CACHE}, the cache of {getpass.getuser()}"
        found = replace(found, means=f"{found.means} ({where}; the service looks in its own user's)")
    yield found


def look_at_disk(config: AgentConfig) -> Iterator[Finding]:
    """Room where the episodes go."""
    folder = config.node.state_dir
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    yield check_disk(free_bytes(folder) >> 20, config.recording.min_free_mb, str(folder))


def look_at_gpu(config: AgentConfig) -> Iterator[Finding]:
    """The card that the policy is to run on; torch is not asked."""
    yield check_gpu(gpu_facts(config.policy.device))


def gpu_facts(device: str) -> GpuFacts:
    """What nvidia-smi lists."""
    nodes = [Path("/dev/nvidiactl"), Path("/dev/nvidia0")]
    blocked = tuple(str(node) for node in nodes if node.exists() and not os.access(node, os.R_OK | os.W_OK))
    if shutil.which("nvidia-smi") is None:
        return GpuFacts(device, trouble="there is no nvidia-smi", blocked=blocked)
    query = ["nvidia-smi", "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=ASK_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return GpuFacts(device, trouble=f"nvidia-smi failed ({error})", blocked=blocked)
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines() or [f"code {done.returncode}"]
        return GpuFacts(device, trouble=f"nvidia-smi says: {words[0]}", blocked=blocked)
    return GpuFacts(device, parse_gpus(done.stdout), blocked=blocked)


def parse_gpus(text: str) -> tuple[tuple[str, int, int], ...]:
    """(name, MB, free MB) of each line `name, total, free`; memory that is not told counts as 0."""
    gpus = []
    for line in text.splitlines():
        name, *sizes = (part.strip() for part in line.rsplit(",", 2))
        if len(sizes) == 2:
            total, free = (int(size) if size.isdigit() else 0 for size in sizes)
            gpus.append((name, total, free))
    return tuple(gpus)


def look_at_clock(config: AgentConfig) -> Iterator[Finding]:
    """Whether a time service keeps the clock."""
    query = ["timedatectl", "show", "--property=NTPSynchronized", "--value"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=ASK_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        yield check_clock_service(None)
        return
    yield check_clock_service({"yes": True, "no": False}.get(done.stdout.strip()))


def look_at_agent(status: dict[str, Any] | None, socket: Path) -> Finding:
    """What the agent does, by its own `/status`."""
    if status is None:
        return ok("agent", f"it doesn't run (nobody answers at {socket})", "systemctl start armfleet-agent")
    troubles = [f"{part}: {why}" for part, why in (status.get("faults") or {}).items()]
    torque = (status.get("arm") or {}).get("torque_fault")
    if torque:
        return fail("agent", f"torque may be on: {torque}", "take the arm's power off", ExitCode.SERVO_SILENT)
    if troubles:
        return warn(
            "agent", f"{status['activity']}; {'; '.join(troubles)}", "see journalctl -u armfleet-agent"
        )
    return ok("agent", f"{status['activity']}: {status.get('why', '')}")


def look_at_fleet(config: AgentConfig) -> Iterator[Finding]:
    """Enrolment, coordinator, and the clock against it."""
    from agent.exchange.enrolment import CA, FILE, read_enrolment

    if not (config.enrolment_dir / FILE).exists():  # raises where this user may not look
        means = "this workstation is in no fleet: it records and exports, and does not train"
        yield ok("enrolment", means, "to join one: armfleet join BUNDLE")
        return
    try:
        enrolment = read_enrolment(config.enrolment_dir)
    except ArmfleetError as error:
        yield refused("enrolment", error)
        return
    yield ok("enrolment", f"{enrolment.node} of the fleet {enrolment.fleet}")
    try:
        context = ssl.create_default_context(cafile=str(config.enrolment_dir / CA))
        response = httpx.get(enrolment.url, verify=context, timeout=COORDINATOR_S, trust_env=False)
    except httpx.HTTPError as error:
        means = f"{enrolment.url} doesn't answer ({type(error).__name__}); training goes on, updates wait"
        yield fail("coordinator", means, "check the network; ask its operator", ExitCode.COORDINATOR_AWAY)
        return
    yield ok("coordinator", f"{enrolment.url} answers with the fleet's certificate")
    if "date" in response.headers:
        told = parsedate_to_datetime(response.headers["date"]).timestamp()
        yield check_clock(time.time() - told)
    else:
        yield warn("clock", "the coordinator's answer has no date")
