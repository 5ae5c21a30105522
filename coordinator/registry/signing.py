"""Keys of the trust chain, and the root metadata that names them (The Update Framework).

    root        operator/root.pem        with the operator; move it off this machine after `init`
    targets     tuf/keys/promotion.pem   says which version is promoted
    snapshot,
    timestamp,
    candidate   tuf/keys/daemon.pem      freshness, and the newest version for training

The `candidate` role is delegated: whoever steals the daemon key can offer a candidate, but can't promote one.
"""

import os
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner, Key
from tuf.api.metadata import Metadata, Root

from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.files import write_atomic

ROOT_DAYS = 365
OPERATOR_KEY = "root.pem"


def write_private(path: Path, pem: bytes) -> None:
    """Write a private key that only its owner can read."""
    mask = os.umask(0o077)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, pem)
    finally:
        os.umask(mask)


def new_key(path: Path) -> CryptoSigner:
    """Make an Ed25519 key and keep it in `path`."""
    signer = CryptoSigner.generate_ed25519()
    write_private(path, signer.private_bytes)
    return signer


def load_key(path: Path) -> CryptoSigner:
    """Read a key that `new_key` wrote.

    Raises:
        ArmfleetError: REGISTRY_DAMAGED, missing or unreadable.
    """
    try:
        return CryptoSigner(load_pem_private_key(path.read_bytes(), None))
    except (OSError, ValueError, TypeError) as error:
        raise ArmfleetError(
            f"the signing key {path} can't be read ({error})",
            kept="all versions and updates",
            do="restore the key from your backup; without it no version can be published",
            code=ExitCode.REGISTRY_DAMAGED,
        ) from error


def sign_root(version: int, now: datetime, operator: CryptoSigner, roles: Mapping[str, Key]) -> bytes:
    """Root metadata that gives each of `roles` (targets, snapshot, timestamp) its key."""
    root = Root(version=version, expires=now + timedelta(days=ROOT_DAYS))
    root.add_key(operator.public_key, "root")
    for role, key in roles.items():
        root.add_key(key, role)
    metadata = Metadata(root)
    metadata.sign(operator)
    return metadata.to_bytes()
