"""What a workstation keeps of its enrolment: the folder `enrolment/`, written once and whole by `join`.

enrolment.json      fleet, node, address, base
node.key            this workstation's private key (EC P-384, OpenSSH); made here, never leaves
ca.crt              the fleet's authority: the only one that is trusted
root.json           trust anchor of versions (The Update Framework)
superexec.secret    shared by SuperNode and warm executor, so that nobody else on this machine takes its tasks
"""

from datetime import datetime
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.join_bundle import JoinBundle
from shared.messages import Digest, Name

FILE, NODE_KEY, CA, TUF_ROOT, SECRET = (
    "enrolment.json",
    "node.key",
    "ca.crt",
    "root.json",
    "superexec.secret",
)


class Enrolment(BaseModel):
    """enrolment.json. Its presence means that joining finished."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    protocol: Literal[1] = 1
    fleet: Name
    node: Name
    url: str
    base_digest: Digest
    joined: datetime

    @property
    def superlink(self) -> str:
        """host:port for the SuperNode; 443 unless the URL names a port."""
        parts = urlsplit(self.url)
        host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname
        return f"{host}:{parts.port or 443}"


def read_bundle(path: Path) -> JoinBundle:
    """Read a join bundle.

    Raises:
        ArmfleetError: JOIN_REFUSED, it is no join bundle.
    """
    try:
        return JoinBundle.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ArmfleetError(
            f"the join bundle {path} can't be read: {error.strerror}",
            do="check the path",
            code=ExitCode.JOIN_REFUSED,
        ) from error
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"]) or "no JSON"
        raise ArmfleetError(
            f"{path} is no join bundle ({where}: {error.errors()[0]['msg']})",
            kept="nothing was changed",
            do="use the file that `armfleet node invite` wrote, unchanged",
            code=ExitCode.JOIN_REFUSED,
        ) from error


def read_enrolment(folder: Path) -> Enrolment:
    """The enrolment in `folder`.

    Raises:
        ArmfleetError: NOT_ENROLLED, there is none or it can't be read.
    """
    try:
        return Enrolment.model_validate_json((folder / FILE).read_bytes())
    except FileNotFoundError as error:
        raise ArmfleetError(
            "this workstation has joined no fleet",
            do="get a join bundle from the fleet's operator and run `armfleet join BUNDLE`",
            code=ExitCode.NOT_ENROLLED,
        ) from error
    except (OSError, ValidationError) as error:
        raise ArmfleetError(
            f"the enrolment in {folder} can't be read ({error})",
            do="move the folder away and join again with a new join bundle",
            code=ExitCode.NOT_ENROLLED,
        ) from error
