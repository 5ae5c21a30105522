"""`armfleet join BUNDLE`: makes this workstation's key, registers it with the coordinator, writes
`enrolment/`.

The private key is made here and never leaves. It is kept beside the enrolment until the coordinator has
answered, because the bundle's one-time secret is spent by the first key that uses it: a second try after a
lost answer must present the same key.
"""

import os
import secrets
import ssl
from datetime import UTC, datetime
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)
from loguru import logger

from agent.config import AgentConfig
from agent.exchange.enrolment import (
    CA,
    FILE,
    NODE_KEY,
    SECRET,
    TUF_ROOT,
    Enrolment,
    read_bundle,
    read_enrolment,
)
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.files import durable_folder, write_atomic
from shared.join_bundle import JoinBundle
from shared.uds import ERROR_STATUS

PENDING_KEY = "enrolment.key"
TIMEOUT_S = 60.0
"""The coordinator registers the key with its SuperLink before it answers."""


def join(bundle_path: Path, config: AgentConfig, base_digest: str | None = None) -> Enrolment:
    """Enrol this workstation.

    Args:
        bundle_path: The join bundle.
        config: Of the agent.
        base_digest: Of the base that is installed, if it is known; compared with the fleet's.

    Returns:
        The enrolment. A bundle of the fleet that this workstation is in already changes nothing.

    Raises:
        ArmfleetError: JOIN_OTHER_COORDINATOR, JOIN_REFUSED (expired, used, unknown), BASE_MISMATCH or
            COORDINATOR_AWAY; nothing of an earlier enrolment is changed.
    """
    bundle = read_bundle(bundle_path)
    folder = config.enrolment_dir
    if (folder / FILE).exists():
        return _already(read_enrolment(folder), bundle)
    _check(bundle, config, base_digest)
    config.node.state_dir.mkdir(parents=True, exist_ok=True)
    key = _pending_key(config.node.state_dir / PENDING_KEY)
    _ask(bundle, key)
    enrolment = Enrolment(
        fleet=bundle.fleet,
        node=bundle.node,
        url=bundle.url,
        base_digest=bundle.base_digest,
        joined=datetime.now(UTC).replace(microsecond=0),
    )
    _write(folder, enrolment, bundle, key)
    (config.node.state_dir / PENDING_KEY).unlink()
    logger.info("this workstation is {} of the fleet {}", enrolment.node, enrolment.fleet)
    return enrolment


def _already(present: Enrolment, bundle: JoinBundle) -> Enrolment:
    if (present.fleet, present.url) == (bundle.fleet, bundle.url):
        logger.info("this workstation is {} of the fleet {} already", present.node, present.fleet)
        return present
    raise ArmfleetError(
        f"this workstation belongs to the fleet '{present.fleet}' ({present.url}), "
        f"the bundle is for '{bundle.fleet}' ({bundle.url})",
        kept="the present enrolment and everything recorded",
        do="to change fleets, stop the agent and move its enrolment, tuf, adapters, outbox and training "
        "folders and learning.json away",
        code=ExitCode.JOIN_OTHER_COORDINATOR,
    )


def _check(bundle: JoinBundle, config: AgentConfig, base_digest: str | None) -> None:
    """What can be told without asking the coordinator: the secret is not spent on a bundle that can't
    work.
    """
    if bundle.expires <= datetime.now(UTC):
        raise ArmfleetError(
            f"the join bundle expired at {bundle.expires:%Y-%m-%d %H:%M} UTC",
            kept="nothing was changed",
            do="ask the fleet's operator for a new one; if it should be valid, check this machine's clock",
            code=ExitCode.JOIN_REFUSED,
        )
    if bundle.node != config.node.name:
        raise ArmfleetError(
            f"the join bundle is for '{bundle.node}', this workstation is called '{config.node.name}'",
            kept="nothing was changed",
            do="use the bundle on the workstation it was made for, or change [node] name",
            code=ExitCode.JOIN_REFUSED,
        )
    if base_digest is not None and base_digest != bundle.base_digest:
        raise ArmfleetError(
            f"the fleet trains the base {bundle.base_digest[:12]}, installed is {base_digest[:12]}",
            kept="nothing was changed",
            do="install the fleet's base policy and name it in [policy] base",
            code=ExitCode.BASE_MISMATCH,
        )


def _pending_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The key of an interrupted try, or a new one (P-384: what the SuperNode expects)."""
    if path.exists():
        key = load_ssh_private_key(path.read_bytes(), None)
        if isinstance(key, ec.EllipticCurvePrivateKey):
            return key
    new = ec.generate_private_key(ec.SECP384R1())
    _private(path, _pem(new))
    return new


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def _private(path: Path, data: bytes) -> None:
    mask = os.umask(0o077)
    try:
        write_atomic(path, data)
    finally:
        os.umask(mask)


def _ask(bundle: JoinBundle, key: ec.EllipticCurvePrivateKey) -> None:
    """Register the public key; the connection trusts the bundle's authority alone."""
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    body = {"secret": bundle.secret, "name": bundle.node, "public_key": public}
    try:
        context = ssl.create_default_context(cadata=bundle.ca_pem)
    except ssl.SSLError as error:
        raise ArmfleetError(
            f"the join bundle's certificate can't be read ({error})",
            kept="nothing was changed",
            do="ask for a new bundle",
            code=ExitCode.JOIN_REFUSED,
        ) from error
    try:
        with httpx.Client(verify=context, timeout=TIMEOUT_S, trust_env=False) as client:
            response = client.post(f"{bundle.url}/enrol", json=body)
    except httpx.HTTPError as error:
        raise _unreachable(bundle, error) from error
    if response.is_success:
        return
    if response.status_code == ERROR_STATUS:
        raise ArmfleetError.from_dict(response.json()["error"])
    raise ArmfleetError(
        f"{bundle.url}/enrol answered HTTP {response.status_code}",
        kept="the bundle is not used up",
        do="try again in a minute; if it stays so, ask the fleet's operator",
        code=ExitCode.COORDINATOR_AWAY,
    )


def _unreachable(bundle: JoinBundle, error: httpx.HTTPError) -> ArmfleetError:
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return ArmfleetError(
            f"{bundle.url} is not the coordinator that made this join bundle: its certificate is another's",
            kept="the secret was not sent",
            do="check the address with the fleet's operator",
            code=ExitCode.JOIN_OTHER_COORDINATOR,
        )
    return ArmfleetError(
        f"{bundle.url} does not answer ({type(error).__name__}: {error})",
        kept="the bundle is not used up",
        do="check the network and that the coordinator runs, then try again",
        code=ExitCode.COORDINATOR_AWAY,
    )


def _write(folder: Path, enrolment: Enrolment, bundle: JoinBundle, key: ec.EllipticCurvePrivateKey) -> None:
    with durable_folder(folder) as work:
        work.chmod(0o700)
        _private(work / NODE_KEY, _pem(key))
        _private(work / SECRET, secrets.token_urlsafe(32).encode())
        write_atomic(work / CA, bundle.ca_pem)
        write_atomic(work / TUF_ROOT, bundle.tuf_root)
        write_atomic(work / FILE, enrolment.model_dump_json(indent=1) + "\n")
