"""The coordinator's one door to Flower's internals (flwr is pinned:
`tests/coordinator/exchange/test_superlink_contract.py`).

Public Flower has only the `flwr` command for this, which costs 4-5 s a call; its own HTTP client does 30
registrations in 0.4 s. The Control API has no authentication: the SuperLink listens on loopback alone.
"""

from collections.abc import Callable
from dataclasses import dataclass

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.cli.build import build_fab_from_files
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.fab_pb2 import Fab
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.files import sha256

FINISHED = "finished"


@dataclass(frozen=True)
class SuperNode:
    """A node as the SuperLink knows it."""

    node_id: int
    name: str
    status: str
    """registered, online, offline or unregistered."""
    public_key: bytes


@dataclass(frozen=True)
class RunStatus:
    """A run as the SuperLink knows it."""

    status: str
    """pending, starting, running or finished."""
    outcome: str
    """completed, failed, stopped, or empty."""
    details: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.status, self.outcome, self.details) if part)


def parse_public_key(openssh: str) -> bytes:
    """Flower's form of an OpenSSH public key.

    Raises:
        ArmfleetError: JOIN_REFUSED, not an ECDSA key on P-384.
    """
    try:
        key = load_ssh_public_key(openssh.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _bad_key(str(error)) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise _bad_key("it is of another kind")
    return public_key_to_bytes(key)


def build_app(files: dict[str, bytes]) -> bytes:
    """Pack an app's files as a Flower app bundle; the same files give the same bytes."""
    return build_fab_from_files(files)[0]


class SuperLink:
    """Control API of the SuperLink at `address`; every call is short and blocking."""

    def __init__(self, address: str, ca_pem: bytes) -> None:
        self._address, self._ca_pem = address, ca_pem

    def register(self, name: str, public_key: str) -> int:
        """Let the key's owner connect as a SuperNode; returns the node id, the old one for a key known
        already.

        Raises:
            ArmfleetError: SUPERLINK_AWAY, or JOIN_REFUSED for an unusable key.
        """
        key = parse_public_key(public_key)
        known = {node.public_key: node.node_id for node in self.nodes() if node.status != "unregistered"}
        if key in known:
            return known[key]
        request = RegisterNodeRequest(public_key=key, name=name)
        return self._call(lambda client: client.RegisterNode(request)).node_id

    def unregister(self, node_id: int) -> None:
        """Shut a node out. Raises SUPERLINK_AWAY."""
        self._call(lambda client: client.UnregisterNode(UnregisterNodeRequest(node_id=node_id)))

    def nodes(self) -> list[SuperNode]:
        """All nodes. Raises SUPERLINK_AWAY."""
        response = self._call(lambda client: client.ListNodes(ListNodesRequest()))
        return [SuperNode(n.node_id, n.name, n.status, n.public_key) for n in response.nodes_info]

    def start_run(self, fab: bytes) -> int:
        """Submit an app bundle; returns the run's id. Raises SUPERLINK_AWAY or RUN_REFUSED."""
        request = StartRunRequest(fab=Fab(hash_str=sha256(fab), content=fab))
        response = self._call(lambda client: client.StartRun(request))
        if not response.HasField("run_id"):
            raise ArmfleetError(
                "the SuperLink did not start the run",
                do="see journalctl -u armfleet-superlink",
                code=ExitCode.RUN_REFUSED,
            )
        return response.run_id

    def run_status(self, run_id: int) -> RunStatus | None:
        """Status of a run, None if the SuperLink has no such run. Raises SUPERLINK_AWAY."""
        try:
            response = self._call(lambda client: client.ListRuns(ListRunsRequest(run_id=run_id)))
        except UnknownRun:
            return None
        if run_id not in response.run_dict:
            return None
        status = response.run_dict[run_id].status
        return RunStatus(status.status, status.sub_status, status.details)

    def _call[Answer](self, ask: Callable[[ControlHttpClient], Answer]) -> Answer:
        client = ControlHttpClient.from_server_address(
            server_address=self._address,
            insecure=False,
            root_certificates=self._ca_pem,
            interceptors=[RuntimeVersionHttpInterceptor(component_name="armfleet-coordinator")],
        )
        try:
            return ask(client)
        except httpx.HTTPStatusError as error:
            if error.response.status_code == httpx.codes.NOT_FOUND:
                raise UnknownRun from error
            raise ArmfleetError(
                f"the SuperLink at {self._address} refused: HTTP {error.response.status_code} "
                f"{error.response.text[:200]}",
                do="see journalctl -u armfleet-superlink",
                code=ExitCode.RUN_REFUSED,
            ) from error
        except httpx.HTTPError as error:
            raise ArmfleetError(
                f"the SuperLink at {self._address} doesn't answer ({type(error).__name__}: {error})",
                kept="all versions and updates; workstations keep their updates in their outboxes",
                do="systemctl status armfleet-superlink",
                code=ExitCode.SUPERLINK_AWAY,
            ) from error
        finally:
            client.close()


class UnknownRun(Exception):
    """The SuperLink has no such run: its database was replaced."""


def _bad_key(why: str) -> ArmfleetError:
    return ArmfleetError(
        f"the public key is not an OpenSSH key of type ecdsa-sha2-nistp384 ({why})",
        kept="nothing was changed",
        do="join again with the armfleet agent's own key",
        code=ExitCode.JOIN_REFUSED,
    )
