"""One-time secrets: who may join under which name, until when. Only a hash of the secret is kept.

A secret is 256 random bits, so a plain SHA-256 hides it; no slow hash is needed. It is spent by the first key
that uses it: the same key may present it again (its answer got lost), another key may not.
"""

import hashlib
import hmac
import secrets
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.files import write_atomic
from shared.messages import Name


class Invitation(BaseModel):
    """`invitations/<name>.json`."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    secret_sha256: str
    expires: datetime
    used_by: str = ""
    """Public key that spent it."""


class Invitations:
    """All invitations in `folder`; a new one for a name replaces the old one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def create(self, name: str, now: datetime, hours: float) -> tuple[str, datetime]:
        """Invite `name`; returns the secret, which is kept nowhere, and its expiry."""
        secret = secrets.token_urlsafe(32)
        expires = (now + timedelta(hours=hours)).replace(microsecond=0)
        self._write(Invitation(name=name, secret_sha256=_hash(secret), expires=expires))
        return secret, expires

    def check(self, name: str, secret: str, public_key: str, now: datetime) -> None:
        """Is `secret` good for `name` and `public_key`?

        Raises:
            ArmfleetError: JOIN_REFUSED; which of name and secret was wrong is not told.
        """
        invitation = self._read(name)
        if invitation is None or not hmac.compare_digest(invitation.secret_sha256, _hash(secret)):
            raise _refused(f"nobody was invited as {name} with this secret")
        if invitation.used_by and invitation.used_by != public_key:
            raise _refused(f"the join bundle for {name} was used already, with another key")
        if now >= invitation.expires and not invitation.used_by:
            raise _refused(f"the join bundle for {name} expired at {invitation.expires:%Y-%m-%d %H:%M} UTC")

    def spend(self, name: str, public_key: str) -> None:
        """Bind the invitation to the key that used it."""
        invitation = self._read(name)
        if invitation is not None:
            self._write(invitation.model_copy(update={"used_by": public_key}))

    def _read(self, name: str) -> Invitation | None:
        path = self._folder / f"{name}.json"
        if not path.exists():
            return None
        try:
            return Invitation.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise ArmfleetError(
                f"{path} can't be read ({error})",
                kept="everything else",
                do=f"remove it and invite {name} again",
                code=ExitCode.REGISTRY_DAMAGED,
            ) from error

    def _write(self, invitation: Invitation) -> None:
        write_atomic(self._folder / f"{invitation.name}.json", invitation.model_dump_json(indent=1) + "\n")


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _refused(what: str) -> ArmfleetError:
    return ArmfleetError(
        what,
        kept="nothing was changed",
        do="ask the fleet's operator for a new join bundle (`armfleet node invite`)",
        code=ExitCode.JOIN_REFUSED,
    )
