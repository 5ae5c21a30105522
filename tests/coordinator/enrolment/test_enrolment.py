"""Init, join bundles, and the enrolment call."""

import asyncio
import ipaddress
import json
import ssl
import subprocess
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from coordinator.daemon import Daemon
from coordinator.enrolment import fleet as fleets
from coordinator.enrolment.api import Enrolment
from coordinator.enrolment.invitations import Invitations
from coordinator.enrolment.nginx import Front, render
from coordinator.enrolment.setup import init, invite
from coordinator.registry.registry import Registry
from coordinator.registry.targets import Publisher
from shared import adapters
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.uds import json_errors

NOW = datetime(2026, 5, 1, tzinfo=UTC)
BASE = "ba5e" * 16


def new_key() -> str:
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def test_init_writes_everything_once(fleet, adapter):
    state = fleet.state
    for name in ("ca/ca.crt", "ca/server.key", "operator/root.pem", "tuf/1.root.json", "versions/000000"):
        assert (state / name).exists(), name
    assert fleets.read(state).base_digest == BASE
    with pytest.raises(ArmfleetError, match="there is a fleet in"):
        init(fleet, adapter, BASE)


def test_an_adapter_too_large_to_be_sent_is_refused_at_init_and_at_start(
    config, adapter, tmp_path, monkeypatch
):
    other = config.model_copy(
        update={"coordinator": config.coordinator.model_copy(update={"state_dir": tmp_path / "other"})}
    )
    init(other, adapter, BASE)
    monkeypatch.setattr(adapters, "MAX_NUMBERS", 40)
    with pytest.raises(ArmfleetError, match="of rank 16 has") as caught:
        init(config, adapter, BASE)
    assert caught.value.code == ExitCode.CONFIG_INVALID
    assert not config.state.exists(), "nothing was begun"
    with pytest.raises(ArmfleetError, match="of rank 16 has"):
        Daemon(other, tmp_path / "coordinator.toml")


def test_an_init_that_was_killed_is_done_again(config, adapter):
    init(config, adapter, BASE)
    (config.state / "fleet.json").unlink()
    assert init(config, adapter, BASE).name == "lab"


def test_a_daemon_without_a_fleet_says_what_to_do(config):
    with pytest.raises(ArmfleetError, match="no fleet") as caught:
        fleets.read(config.state)
    assert "init" in caught.value.do


def test_the_server_certificate_names_localhost_and_the_public_name(fleet):
    ca = x509.load_pem_x509_certificate((fleet.state / "ca/ca.crt").read_bytes())
    server = x509.load_pem_x509_certificate((fleet.state / "ca/server.crt").read_bytes())
    server.verify_directly_issued_by(ca)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.DNSName)) == {"localhost", "robots.example"}
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("127.0.0.1")]
    context = ssl.create_default_context(cafile=str(fleet.state / "ca/ca.crt"))
    context.load_cert_chain(fleet.state / "ca/server.crt", fleet.state / "ca/server.key")


def test_no_private_key_is_readable_by_others(fleet):
    keys = [p for p in fleet.state.rglob("*") if p.suffix in (".key", ".pem", ".secret")]
    assert len(keys) == 6
    assert all(path.stat().st_mode & 0o077 == 0 for path in keys)


@pytest.fixture
def invitations(tmp_path):
    return Invitations(tmp_path / "invitations")


def test_the_secret_itself_is_kept_nowhere(invitations, tmp_path):
    secret, expires = invitations.create("arm-a", NOW, 72)
    assert expires == NOW + timedelta(hours=72)
    assert secret not in (tmp_path / "invitations/arm-a.json").read_text()
    invitations.check("arm-a", secret, "key", NOW)


@pytest.mark.parametrize(
    ("name", "secret", "later", "reason"),
    [
        ("arm-a", "guess", 0, "nobody was invited"),
        ("arm-b", None, 0, "nobody was invited"),
        ("arm-a", None, 73, "expired at 2026-05-04 00:00"),
    ],
)
def test_a_wrong_or_late_secret_is_refused(invitations, name, secret, later, reason):
    right, _ = invitations.create("arm-a", NOW, 72)
    with pytest.raises(ArmfleetError, match=reason) as caught:
        invitations.check(name, secret or right, "key", NOW + timedelta(hours=later))
    assert caught.value.code == ExitCode.JOIN_REFUSED


def test_a_secret_is_good_for_one_key_only_and_for_that_one_again(invitations):
    secret, _ = invitations.create("arm-a", NOW, 72)
    invitations.spend("arm-a", "first key")
    invitations.check("arm-a", secret, "first key", NOW + timedelta(days=30))
    with pytest.raises(ArmfleetError, match="used already"):
        invitations.check("arm-a", secret, "second key", NOW)


def test_a_new_invitation_voids_the_old_one(invitations):
    old, _ = invitations.create("arm-a", NOW, 72)
    invitations.create("arm-a", NOW, 72)
    with pytest.raises(ArmfleetError, match="nobody was invited"):
        invitations.check("arm-a", old, "key", NOW)


class Link:
    """A SuperLink that remembers."""

    def __init__(self):
        self.keys, self.gone, self.away = {}, [], False

    def register(self, name, public_key):
        if self.away:
            raise ArmfleetError("the SuperLink doesn't answer", code=ExitCode.SUPERLINK_AWAY)
        return self.keys.setdefault(public_key, 2**63 + len(self.keys))

    def unregister(self, node_id):
        self.gone.append(node_id)


class Office:
    """The enrolment API with everything behind it but a real SuperLink."""

    def __init__(self, config):
        self.link, self.joined = Link(), []
        self.config, self.fleet = config, fleets.read(config.state)
        self.registry = Registry(config.state)
        self.invitations = Invitations(config.state / "invitations")
        self.publisher = Publisher(config.state / "tuf")
        enrolment = Enrolment(
            config, self.fleet, self.registry, self.invitations, self.link, self.joined.append
        )
        self._app = json_errors(enrolment.app())

    def invite(self, name="arm-a"):
        return invite(self.config, self.fleet, self.invitations, self.publisher.root, name)

    def post(self, body):
        async def call():
            transport = httpx.ASGITransport(self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
                return await http.post(
                    "/enrol", content=body if isinstance(body, bytes) else json.dumps(body)
                )

        return asyncio.run(call())


@pytest.fixture
def office(fleet):
    made = Office(fleet)
    yield made
    made.registry.close()


def test_a_join_bundle_enrols_once(office):
    bundle, key = office.invite(), new_key()
    assert (bundle.fleet, bundle.node, bundle.base_digest) == ("lab", "arm-a", BASE)
    assert json.loads(bundle.tuf_root)["signed"]["_type"] == "root"
    body = {"secret": bundle.secret, "name": "arm-a", "public_key": key + " ada@laptop"}
    first, second = office.post(body), office.post(body)
    assert first.status_code == second.status_code == 200
    assert first.json() == second.json()
    assert first.json()["node_id"] == 2**63
    assert first.json()["recipe"]["rank"] == 16
    (node,) = office.registry.nodes.all()
    assert "ada" not in node.public_key
    stolen = office.post({**body, "public_key": new_key()})
    assert stolen.status_code == 409
    assert "used already" in stolen.json()["error"]["what"]


def test_a_workstation_that_joins_anew_replaces_its_old_key(office):
    for _ in range(2):
        bundle = office.invite()
        answer = office.post({"secret": bundle.secret, "name": "arm-a", "public_key": new_key()})
        assert answer.status_code == 200
    assert office.link.gone == [2**63]
    assert [node.node_id for node in office.registry.nodes.all()] == [2**63 + 1]


def test_an_absent_superlink_does_not_use_the_secret_up(office):
    bundle, key = office.invite(), new_key()
    body = {"secret": bundle.secret, "name": "arm-a", "public_key": key}
    office.link.away = True
    assert office.post(body).json()["error"]["code"] == ExitCode.SUPERLINK_AWAY
    office.link.away = False
    assert office.post({**body, "public_key": new_key()}).status_code == 200


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"x" * 5000, "over 4096 bytes"),
        (b"{", "can't be read"),
        ({"secret": "s" * 43, "name": "../etc", "public_key": "k"}, "name"),
        ({"secret": "s" * 43, "name": "arm-z", "public_key": "k"}, "nobody was invited"),
        ({"secret": "s" * 43, "name": "arm-z", "public_key": "k", "admin": True}, "admin"),
    ],
)
def test_bad_requests_get_a_sentence(office, body, reason):
    answer = office.post(body)
    assert answer.status_code == 409
    assert reason in answer.json()["error"]["what"]
    assert office.registry.nodes.all() == []


def test_a_key_of_another_kind_is_refused(office):
    bundle = office.invite()
    answer = office.post({"secret": bundle.secret, "name": "arm-a", "public_key": "ssh-ed25519 AAAA"})
    assert "ecdsa-sha2-nistp384" in answer.json()["error"]["what"]


@pytest.mark.parametrize("upstream", ["https://127.0.0.1:8000", "http://127.0.0.1:8100"])
def test_nginx_accepts_the_configuration(fleet, tmp_path, upstream):
    (tmp_path / "nginx").mkdir()
    file = tmp_path / "nginx.conf"
    file.write_text(render(fleet, Front("127.0.0.1:18443", upstream, tmp_path / "nginx")))
    result = subprocess.run(
        ["/usr/sbin/nginx", "-t", "-c", str(file)], capture_output=True, text=True, timeout=30, check=False
    )
    assert result.returncode == 0, result.stderr
    assert ("proxy_ssl_verify on" in file.read_text()) == upstream.startswith("https")
