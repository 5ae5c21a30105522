"""Joining a fleet, against a real TLS server with the coordinator's authority."""

import http.server
import json
import os
import ssl
import stat
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from agent.config import AgentConfig
from agent.exchange.enrolment import read_enrolment
from agent.exchange.join import PENDING_KEY, join
from agent.exchange.processes import supernode_argv, supernode_environment
from coordinator.enrolment import authority
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.join_bundle import JoinBundle

DIGEST = "a" * 64


class Coordinator:
    """Answers POST /enrol as it is told to, and keeps what it was sent."""

    def __init__(self, home: Path) -> None:
        authority.create(home, "lab", [])
        self.ca = (home / authority.CA_CERT).read_text()
        self.asked: list[dict[str, Any]] = []
        self.answer: tuple[int, dict[str, Any]] = (200, {"node_id": 1})
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                owner.asked.append({"path": self.path, **json.loads(body)})
                code, content = owner.answer
                data = json.dumps(content).encode()
                self.send_response(code)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                return

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(home / authority.SERVER_CERT, home / authority.SERVER_KEY)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def bundle(self, path: Path, **fields: Any) -> Path:
        values = {
            "fleet": "lab",
            "url": self.url,
            "ca_pem": self.ca,
            "tuf_root": "{}",
            "node": "station-a",
            "secret": "s" * 40,
            "expires": datetime.now(UTC) + timedelta(hours=1),
            "base_digest": DIGEST,
            **fields,
        }
        path.write_text(JoinBundle.model_validate(values).model_dump_json())
        return path


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    made = Coordinator(tmp_path / "ca")
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def config(tmp_path: Path) -> AgentConfig:
    return AgentConfig.model_validate(
        {
            "node": {"name": "station-a", "state_dir": tmp_path / "state", "socket": tmp_path / "a.sock"},
            "policy": {"base": "x"},
        }
    )


def test_key_is_made_here_and_only_its_public_half_leaves(
    coordinator: Coordinator, config: AgentConfig, tmp_path: Path
) -> None:
    enrolment = join(coordinator.bundle(tmp_path / "bundle"), config, DIGEST)
    folder = config.enrolment_dir
    key = load_ssh_private_key((folder / "node.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(key.curve, ec.SECP384R1)
    (asked,) = coordinator.asked
    assert load_ssh_public_key(asked["public_key"].encode()) == key.public_key()
    assert asked == {
        "path": "/enrol",
        "name": "station-a",
        "secret": "s" * 40,
        "public_key": asked["public_key"],
    }
    assert read_enrolment(folder) == enrolment
    assert enrolment.superlink == coordinator.url.removeprefix("https://")
    assert stat.S_IMODE((folder / "node.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((folder / "superexec.secret").stat().st_mode) == 0o600
    assert not (config.node.state_dir / PENDING_KEY).exists()
    assert join(tmp_path / "bundle", config) == enrolment, "joining again changes nothing"
    assert len(coordinator.asked) == 1


def test_supernode_is_started_with_what_joining_wrote(
    coordinator: Coordinator, config: AgentConfig, tmp_path: Path
) -> None:
    with pytest.raises(ArmfleetError) as caught:
        supernode_argv(config)
    assert caught.value.code is ExitCode.NOT_ENROLLED
    join(coordinator.bundle(tmp_path / "bundle"), config)
    argv = supernode_argv(config)
    assert os.access(argv[0], os.X_OK)
    pairs = dict(zip(argv[1::2], argv[2::2], strict=True))
    assert pairs["--isolation"] == "process"
    assert pairs["--host"] == "127.0.0.1"
    assert pairs["--superlink"] == coordinator.url.removeprefix("https://")
    for option in ("--root-certificates", "--auth-supernode-private-key", "--superexec-auth-secret-file"):
        assert Path(pairs[option]).is_file()
    assert supernode_environment(config)["FLWR_TELEMETRY_ENABLED"] == "0"


def test_bundle_for_another_coordinator_keeps_the_present_enrolment(
    coordinator: Coordinator, config: AgentConfig, tmp_path: Path
) -> None:
    join(coordinator.bundle(tmp_path / "bundle"), config)
    before = (config.enrolment_dir / "node.key").read_bytes()
    with pytest.raises(ArmfleetError, match="belongs to the fleet 'lab'") as caught:
        join(coordinator.bundle(tmp_path / "other", fleet="elsewhere"), config)
    for of_this_fleet in ("enrolment", "tuf", "adapters", "outbox", "training", "learning.json"):
        assert of_this_fleet in caught.value.do, "a version of another fleet may have the same number"
    assert caught.value.code is ExitCode.JOIN_OTHER_COORDINATOR
    assert (config.enrolment_dir / "node.key").read_bytes() == before


def test_server_that_is_not_the_bundles_coordinator_gets_no_secret(
    coordinator: Coordinator, config: AgentConfig, tmp_path: Path
) -> None:
    authority.create(tmp_path / "other-ca", "lab", [])
    other = (tmp_path / "other-ca" / authority.CA_CERT).read_text()
    with pytest.raises(ArmfleetError, match="its certificate is another's") as caught:
        join(coordinator.bundle(tmp_path / "bundle", ca_pem=other), config)
    assert caught.value.code is ExitCode.JOIN_OTHER_COORDINATOR
    assert coordinator.asked == []
    assert not config.enrolment_dir.exists()


def test_used_bundle_is_refused_with_the_coordinators_sentence(
    coordinator: Coordinator, config: AgentConfig, tmp_path: Path
) -> None:
    refusal = ArmfleetError("the join bundle was used already, with another key", code=ExitCode.JOIN_REFUSED)
    coordinator.answer = (409, {"error": refusal.to_dict()})
    with pytest.raises(ArmfleetError, match="used already") as caught:
        join(coordinator.bundle(tmp_path / "bundle"), config)
    assert caught.value.code is ExitCode.JOIN_REFUSED
    assert not config.enrolment_dir.exists()


def test_lost_answer_is_repeated_with_the_same_key(
    coordinator: Coordinator, config: AgentConfig, tmp_path: Path
) -> None:
    bundle = coordinator.bundle(tmp_path / "bundle")
    coordinator.answer = (502, {})
    with pytest.raises(ArmfleetError, match="HTTP 502") as caught:
        join(bundle, config)
    assert caught.value.code is ExitCode.COORDINATOR_AWAY
    coordinator.answer = (200, {})
    join(bundle, config)
    first, second = coordinator.asked
    assert first == second


@pytest.mark.parametrize(
    ("fields", "sentence", "code"),
    [
        ({"expires": datetime(2020, 1, 1, tzinfo=UTC)}, "expired at 2020-01-01", ExitCode.JOIN_REFUSED),
        ({"node": "station-b"}, "is for 'station-b'", ExitCode.JOIN_REFUSED),
        ({"base_digest": "b" * 64}, "trains the base bbbb", ExitCode.BASE_MISMATCH),
        ({"ca_pem": "no certificate"}, "can't be read", ExitCode.JOIN_REFUSED),
    ],
)
def test_bundle_that_cannot_work_never_spends_its_secret(
    coordinator: Coordinator, config: AgentConfig, tmp_path: Path, fields: dict, sentence: str, code: ExitCode
) -> None:
    with pytest.raises(ArmfleetError, match=sentence) as caught:
        join(coordinator.bundle(tmp_path / "bundle", **fields), config, DIGEST)
    assert caught.value.code is code
    assert coordinator.asked == []


def test_coordinator_away_leaves_the_bundle_good(
    coordinator: Coordinator, config: AgentConfig, tmp_path: Path
) -> None:
    bundle = coordinator.bundle(tmp_path / "bundle", url="https://127.0.0.1:9")
    with pytest.raises(ArmfleetError, match="does not answer") as caught:
        join(bundle, config)
    assert caught.value.code is ExitCode.COORDINATOR_AWAY


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"fleet": "lab"}'])
def test_file_that_is_no_bundle_is_named(config: AgentConfig, tmp_path: Path, content: str) -> None:
    path = tmp_path / "bundle"
    path.write_text(content)
    with pytest.raises(ArmfleetError, match="is no join bundle") as caught:
        join(path, config)
    assert caught.value.code is ExitCode.JOIN_REFUSED
    with pytest.raises(ArmfleetError, match="can't be read"):
        join(tmp_path / "missing", config)
