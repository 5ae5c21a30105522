"""What the coordinator accepts from a node: replies on the allow-list, updates that fit their base.

Pure: bytes in, a validated object or a sentence out. A refused update costs its sender nothing but that
update.
"""

from collections.abc import Collection
from dataclasses import dataclass

from pydantic import ValidationError

from shared.adapters import Tensors
from shared.codec import decode
from shared.envelope import unpack
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.files import sha256
from shared.limits import MAX_REPLY_BYTES
from shared.messages import CheckInReply, UpdateHeader

DELTA = "delta"


@dataclass(frozen=True)
class Expected:
    """What an update must fit."""

    base_digest: str
    versions: Collection[int]
    """Versions of this registry."""
    like: Tensors
    """Names and shapes."""
    first: int = 0
    """Versions before this one were normalised with other statistics."""
    base_tensors_digest: str = ""
    """Of the version that the update begins from, as its manifest names it."""


def read_reply(data: bytes, node: str, check_in: str) -> tuple[CheckInReply, bytes | None]:
    """Read a reply and, if it brings an update, the encoded delta.

    Args:
        data: The envelope.
        node: Name of the node that Flower authenticated as the sender.
        check_in: Id of the check-in that it answers.

    Raises:
        ArmfleetError: UPDATE_REFUSED: not on the allow-list, in another's name, or for another check-in.
    """
    header, blobs = unpack(data, MAX_REPLY_BYTES)
    try:
        reply = CheckInReply.model_validate(header)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _refused(f"{node} sent what is not on the allow-list ({where}: {first['msg']})") from error
    if reply.node != node:
        raise _refused(f"{node} answered in the name of {reply.node}")
    if reply.check_in != check_in:
        raise _refused(f"{node} answered check-in {reply.check_in}, asked was {check_in}")
    allowed = {DELTA} if reply.update else set()
    if set(blobs) != allowed:
        raise _refused(f"{node} sent {len(blobs)} binary parts where {len(allowed)} belong")
    return reply, blobs.get(DELTA)


def check_update(header: UpdateHeader, delta: bytes, node: str, expected: Expected) -> None:
    """Is this update of use?

    Raises:
        ArmfleetError: UPDATE_REFUSED, with the reason.
    """
    if header.node != node:
        raise _refused(f"update {header.id} of {header.node} was sent by {node}")
    if sha256(delta) != header.sha256:
        raise _refused(f"update {header.id} of {node} was damaged on its way")
    if header.base_digest != expected.base_digest:
        raise _refused(
            f"update {header.id} of {node} is for the base {header.base_digest[:12]}, "
            f"this fleet's is {expected.base_digest[:12]}"
        )
    if header.base_version not in expected.versions:
        raise _refused(
            f"update {header.id} of {node} starts from version {header.base_version}, unknown here"
        )
    if header.base_tensors_digest not in ("", expected.base_tensors_digest):  # "": an earlier release
        raise _refused(
            f"update {header.id} of {node} starts from another version {header.base_version} than this "
            f"fleet's: tensors {header.base_tensors_digest[:12]}, not {expected.base_tensors_digest[:12]}"
        )
    if header.base_version < expected.first:
        raise _refused(
            f"update {header.id} of {node} starts from version {header.base_version}, whose normalisation is "
            f"the base's own: that of the fleet begins with version {expected.first}"
        )
    decode(delta, expected.like, header.codec)


def _refused(what: str) -> ArmfleetError:
    return ArmfleetError(what, kept="nothing of it", code=ExitCode.UPDATE_REFUSED)
