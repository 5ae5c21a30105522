"""Real processes: nginx, SuperLink (TLS, authentication), superexec, ServerApp, the coordinator's daemon, two
stock SuperNodes. The agent's exchange runs in this process on the agent's own code; updates are tiny tensors.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
import pytest
import tomli_w
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agent.activity import Activity
from agent.config import AgentConfig
from agent.exchange.client_app import make_app
from agent.exchange.enrolment import SECRET, TUF_ROOT
from agent.exchange.executor import Executor
from agent.exchange.handler import Exchange
from agent.exchange.inbox import Inbox
from agent.exchange.join import join
from agent.exchange.outbox import Outbox
from agent.exchange.processes import supernode_argv, supernode_environment
from agent.exchange.trust import TrustedMetadata
from coordinator.config import CoordinatorConfig, load
from coordinator.enrolment.nginx import Front, render
from coordinator.enrolment.setup import init
from coordinator.exchange import processes
from coordinator.registry.registry import Registry
from coordinator.rounds import recompute
from shared.adapters import digest, read_adapter
from shared.codec import encode
from shared.errors import ArmfleetError
from shared.files import durable_folder, sha256
from shared.messages import Health, UpdateHeader
from shared.recipe import Codec
from shared.uds import UdsClient, serve

BASE = "ba5e" * 16
BASE_SHAPES = {"m.weight": (8, 8)}
PATIENCE_S = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(what, condition, patience_s=PATIENCE_S):
    """Poll until `condition()` is true; the last error is part of the failure."""
    deadline, last = time.monotonic() + patience_s, None
    while time.monotonic() < deadline:
        try:
            if answer := condition():
                return answer
        except (ArmfleetError, httpx.HTTPError, OSError) as error:
            last = error
        time.sleep(0.2)
    pytest.fail(f"{what} did not happen within {patience_s:g} s ({last})")


class Processes:
    """Starts processes with their output in files; ends those it started, in reverse order."""

    def __init__(self, logs: Path) -> None:
        self._logs, self._running = logs, {}

    def start(self, name, argv, environment):
        with (self._logs / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                argv,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self._running[name]

    def kill(self, name):
        process = self._running.pop(name)
        process.kill()
        process.wait()

    def end(self):
        for process in reversed(self._running.values()):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in self._running.values():
            try:
                process.wait(8)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def tail(self):
        return "\n".join(f"--- {p.name}\n{p.read_text()[-1500:]}" for p in sorted(self._logs.glob("*.log")))


@dataclass
class Station:
    """A workstation: the agent's exchange on its Unix socket, and a warm executor."""

    config: AgentConfig
    exchange: Exchange
    codec: Codec

    def make_update(self) -> str:
        """What the trainer leaves in the outbox: a delta from the candidate that is held."""
        candidate = self.exchange.inbox.slots["candidate"]
        tensors, _, _ = read_adapter(self.exchange.inbox.folder(candidate))
        change = {name: np.full_like(array, 0.25) for name, array in tensors.items()}
        delta = encode(change, self.codec)
        header = UpdateHeader(
            id=uuid.uuid4().hex,
            node=self.config.node.name,
            base_version=candidate.version,
            base_digest=candidate.base_digest,
            sha256=sha256(delta),
            codec=self.codec,
            examples=10,
            steps=1,
        )
        with durable_folder(self.exchange.outbox.folder / header.id) as work:
            (work / "header.json").write_text(header.model_dump_json())
            (work / "delta.bin").write_bytes(delta)
        return header.id


@contextlib.contextmanager
def station(config: AgentConfig, codec: Codec):
    state, stop = config.node.state_dir, threading.Event()

    async def no_versions(slots):
        return None

    def clock():
        return datetime.now(UTC)

    anchor = (config.enrolment_dir / TUF_ROOT).read_bytes()
    trust = TrustedMetadata(state / "tuf", anchor, clock)
    inbox = Inbox(trust, state / "tuf", state / "adapters", BASE, BASE_SHAPES, clock)
    exchange = Exchange(
        config.node.name,
        "lab",
        BASE,
        ("promoted", "candidate"),
        inbox,
        Outbox(state / "outbox"),
        state,
        lambda: (Activity.IDLE, Health(), None),
        no_versions,
        lambda never_train: None,
        lambda judged: [],
    )

    async def check_in(request: Request) -> Response:
        return Response(await exchange.check_in(await request.body()))

    def serve_agent() -> None:
        async def run() -> None:
            ended = asyncio.Event()
            server = asyncio.create_task(
                serve(
                    Starlette(routes=[Route("/exchange/check-in", check_in, methods=["POST"])]),
                    config.node.socket,
                    ended,
                )
            )
            await asyncio.to_thread(stop.wait)
            ended.set()
            await server

        asyncio.run(run())

    secret = (config.enrolment_dir / SECRET).read_bytes()
    executor = Executor(
        config.exchange.supernode_port, secret, make_app(config.node.socket), state, lambda *_: None
    )
    threads = [
        threading.Thread(target=serve_agent, daemon=True),
        threading.Thread(target=executor.run, args=(stop,), daemon=True),
    ]
    for thread in threads:
        thread.start()
    try:
        yield Station(config, exchange, codec)
    finally:
        stop.set()
        for thread in threads:
            thread.join(15)


@pytest.fixture
def running(tmp_path, adapter):
    """A coordinator that answers on its socket and, through nginx, on its public port."""
    public, link = free_port(), free_port()
    path = tmp_path / "coordinator.toml"
    path.write_text(
        tomli_w.dumps(
            {
                "coordinator": {
                    "name": "lab",
                    "state_dir": str(tmp_path / "state"),
                    "socket": str(tmp_path / "c.sock"),
                    "enrol_socket": str(tmp_path / "e.sock"),
                },
                "policy": {"base": "unused"},
                "superlink": {"address": f"127.0.0.1:{link}"},
                "public": {"url": f"https://127.0.0.1:{public}"},
                "exchange": {"check_in_s": 1.0, "ttl_s": 60.0},
                "aggregation": {"buffer_size": 2, "rounds": 10},
            }
        )
    )
    config = load(path)
    init(config, adapter, BASE)
    (tmp_path / "logs").mkdir()
    started = Processes(tmp_path / "logs")
    environment = processes.environment(config)
    try:
        started.start("superlink", processes.superlink_argv(config), environment)
        started.start("superexec", processes.superexec_argv(config), environment)
        start_daemon(started, path)
        start_nginx(started, config, f"127.0.0.1:{public}", tmp_path / "nginx")
        client = UdsClient(config.coordinator.socket)
        wait_for("the coordinator's API", lambda: client.get("/status"))
        yield config, path, started, client
        client.close()
    except BaseException:
        print(started.tail())
        raise
    finally:
        started.end()


def start_daemon(started, path):
    code = "import sys, pathlib, coordinator.daemon as d; sys.exit(d.main(pathlib.Path(sys.argv[1])))"
    started.start("coordinator", [sys.executable, "-c", code, str(path)], dict(os.environ))


def start_nginx(started: Processes, config: CoordinatorConfig, listen: str, folder: Path) -> None:
    folder.mkdir()
    front = Front(
        listen, f"https://{config.superlink.address}", folder, user="root" if os.geteuid() == 0 else ""
    )
    (folder / "nginx.conf").write_text(render(config, front))
    argv = ["nginx", "-c", str(folder / "nginx.conf"), "-g", "daemon off;"]
    started.start("nginx", argv, {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"})


def enrol(config, client, tmp_path, name) -> AgentConfig:
    """Through the public port, as a workstation would."""
    bundle = tmp_path / f"{name}.json"
    bundle.write_text(json.dumps(client.post("/nodes/invite", json={"name": name})))
    agent = AgentConfig.model_validate(
        {
            "node": {
                "name": name,
                "state_dir": tmp_path / name,
                "socket": tmp_path / f"{name}.sock",
            },
            "policy": {"base": "unused"},
            "exchange": {"supernode_port": free_port()},
        }
    )
    wait_for(f"{name} joining", lambda: join(bundle, agent))
    return agent


@pytest.mark.timeout(200)
def test_two_stations_make_a_version_over_real_flower_and_a_killed_daemon_goes_on(running, tmp_path):
    config, path, started, client = running
    agents = [enrol(config, client, tmp_path, name) for name in ("arm-a", "arm-b")]
    with contextlib.ExitStack() as stack:
        codecs = ("fp16-zstd", "int4-zstd")
        stations = [
            stack.enter_context(station(agent, codec)) for agent, codec in zip(agents, codecs, strict=True)
        ]
        for agent in agents:
            environment = {**os.environ, **supernode_environment(agent)}
            started.start(f"supernode-{agent.node.name}", supernode_argv(agent), environment)

        wait_for(
            "version 0 reaching both stations",
            lambda: all("candidate" in s.exchange.inbox.slots for s in stations),
        )
        sent = [s.make_update() for s in stations]
        wait_for("version 1", lambda: client.get("/status")["newest"] == 1)
        wait_for(
            "version 1 reaching both stations, and acknowledgement of their updates",
            lambda: all(
                s.exchange.inbox.slots["candidate"].version == 1 and not s.exchange.outbox.pending()
                for s in stations
            ),
        )

        started.kill("coordinator")
        later = [s.make_update() for s in stations]
        start_daemon(started, path)
        wait_for("version 2 after the daemon's death", lambda: client.get("/status")["newest"] == 2)
        status = client.get("/status")

    assert [node["updates"] for node in status["nodes"]] == [2, 2]
    assert {part["update_id"] for part in client.get("/versions")["versions"][1]["contributions"]} == set(
        sent
    )
    client.post("/exchange/stop")
    started.kill("coordinator")
    registry = Registry(config.state)
    assert set(registry.updates.ids()) == {*sent, *later}
    assert digest(recompute(registry, 1).tensors) == registry.versions.manifest(1).tensors_digest
    assert digest(recompute(registry, 2).tensors) == registry.versions.manifest(2).tensors_digest
    registry.close()


def test_the_public_port_leads_to_the_fleet_api_and_enrolment_alone(running):
    config, _, _, _ = running
    with httpx.Client(verify=str(config.state / "ca/ca.crt"), base_url=config.public.url) as http:
        wait_for("nginx", lambda: http.get("/").status_code == 404)
        for path in ("/v1/control/list-runs", "/v1/runtime/acquire-task", "/docs", "/enrol/x", "/status"):
            assert http.post(path, content=b"").status_code == 404
        assert http.get("/enrol").status_code == 403
        assert http.post("/enrol", content=b"x" * 5000).status_code == 413
        refused = http.post("/enrol", json={"secret": "s" * 43, "name": "thief", "public_key": "ssh-rsa x"})
        assert refused.status_code == 409
        assert "nobody was invited as thief" in refused.json()["error"]["what"]
        media = {"content-type": "application/protobuf"}
        fleet_api = "/v1/fleet/activate-node"
        wait_for("401 of the Fleet API", lambda: http.post(fleet_api, headers=media).status_code == 401)
