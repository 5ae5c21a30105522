"""What `coordinator.exchange.superlink` takes for granted of flwr 1.41, against a real SuperLink."""

import socket
import subprocess
import time
from importlib.metadata import version

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from coordinator.exchange import app_bundle, processes
from coordinator.exchange.superlink import SuperLink, parse_public_key
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode


def openssh(key) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def test_flwr_is_the_version_that_was_looked_into():
    assert version("flwr") == "1.41.0"


@pytest.mark.parametrize(
    "key",
    [
        "nonsense",
        openssh(ed25519.Ed25519PrivateKey.generate()),
        openssh(ec.generate_private_key(ec.SECP256R1())),
    ],
    ids=["no key", "Ed25519", "P-256"],
)
def test_other_keys_than_p384_are_refused(key):
    with pytest.raises(ArmfleetError, match="ecdsa-sha2-nistp384") as caught:
        parse_public_key(key)
    assert caught.value.code == ExitCode.JOIN_REFUSED


def test_the_app_bundle_holds_no_code_and_is_always_the_same(config):
    assert set(app_bundle.files(config)) == {"pyproject.toml", "LICENSE", "README.md"}
    assert app_bundle.build(config) == app_bundle.build(config)


def test_the_superlink_is_started_on_loopback_with_tls_and_authentication(config):
    argv = processes.superlink_argv(config)
    assert argv[argv.index("--host") + 1] == "127.0.0.1"
    assert {"--enable-supernode-auth", "--ssl-certfile", "--superexec-auth-secret-file"} <= set(argv)
    assert argv[argv.index("--isolation") + 1] == "process"
    assert "--insecure" not in argv + processes.superexec_argv(config)
    environment = processes.environment(config, {"PATH": "/bin"})
    assert environment["FLWR_TELEMETRY_ENABLED"] == "0"
    assert environment["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert environment["FLWR_HOME"].startswith(str(config.state))


def test_a_superlink_that_is_away_gives_a_sentence(fleet):
    link = SuperLink("127.0.0.1:1", (fleet.state / "ca/ca.crt").read_bytes())
    with pytest.raises(ArmfleetError, match="doesn't answer") as caught:
        link.nodes()
    assert caught.value.code == ExitCode.SUPERLINK_AWAY
    assert "outboxes" in caught.value.kept


def test_nodes_and_runs_of_a_real_superlink(fleet, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    config = fleet.model_copy(update={"superlink": fleet.superlink.model_copy(update={"address": address})})
    link = SuperLink(address, (fleet.state / "ca/ca.crt").read_bytes())
    with (tmp_path / "superlink.log").open("wb") as log:
        process = subprocess.Popen(
            processes.superlink_argv(config), env=processes.environment(config), stdout=log, stderr=log
        )
    try:
        _wait_until_up(link)
        key = openssh(ec.generate_private_key(ec.SECP384R1()))
        node_id = link.register("arm-a", key)
        assert link.register("arm-a", key) == node_id
        (node,) = link.nodes()
        assert (node.node_id, node.name, node.status) == (node_id, "arm-a", "registered")
        assert node.public_key == parse_public_key(key)
        link.unregister(node_id)
        assert [n.status for n in link.nodes()] == ["unregistered"]

        run_id = link.start_run(app_bundle.build(config))
        assert link.run_status(run_id).status == "pending"
        assert link.run_status(12345) is None
    finally:
        process.terminate()
        process.wait(20)


def _wait_until_up(link: SuperLink) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            link.nodes()
            return
        except ArmfleetError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
