"""What the agent answers to a check-in. Pure: a CheckIn and the agent's state give a CheckInReply.

`shared.messages` is the allow-list of what may leave a workstation. The reply is checked against it here,
at the edge: whatever the parts of the agent hand in, only fields, patterns and sizes that the models name
go out.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from agent.activity import Activity
from shared.envelope import pack, unpack
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.files import sha256
from shared.limits import MAX_UPDATE_BYTES
from shared.messages import CheckIn, CheckInReply, FieldResult, Health, Held, UpdateHeader
from shared.normalisation import Statistics

DELTA_BLOB = "delta"
MAX_REFUSAL = 300


@dataclass(frozen=True)
class NodeState:
    """What the agent says about itself."""

    node: str
    fleet: str
    base_digest: str
    activity: Activity
    held: Held
    health: Health
    refused: str = ""
    """Why something that the check-in carried was not accepted."""
    statistics: Statistics | None = None
    """Of its training episodes, where the check-in asks for them."""
    field: Sequence[FieldResult] = ()
    """Of the versions that the check-in asks about."""


def parse(body: bytes) -> tuple[CheckIn, dict[str, bytes]]:
    """Read a check-in and its blobs.

    Raises:
        ArmfleetError: it does not follow the protocol.
    """
    header, blobs = unpack(body)
    try:
        return CheckIn.model_validate(header), blobs
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ArmfleetError(
            f"the check-in does not follow protocol 1 ({where}: {first['msg']})",
            kept="nothing was changed",
            do="bring agent and coordinator to the same version",
        ) from error


def check_origin(check_in: CheckIn, fleet: str) -> None:
    """Raise ArmfleetError (JOIN_OTHER_COORDINATOR) if a check-in comes from another fleet."""
    if check_in.fleet != fleet:
        raise ArmfleetError(
            f"a check-in of the fleet '{check_in.fleet}' came to a workstation of '{fleet}'",
            kept="nothing was changed",
            do="check which coordinator the SuperNode connects to",
            code=ExitCode.JOIN_OTHER_COORDINATOR,
        )


def other_base(check_in: CheckIn, base_digest: str) -> str:
    """The sentence for a fleet that trains another base than this workstation has; empty if it is the
    same.
    """
    if check_in.base_digest == base_digest:
        return ""
    return f"this workstation has base {base_digest[:12]}, the fleet trains {check_in.base_digest[:12]}"


def reply(check_in: CheckIn, state: NodeState, update: tuple[UpdateHeader, bytes] | None) -> bytes:
    """The envelope that answers `check_in`, with at most one update.

    Raises:
        ArmfleetError: something was handed in that may not leave.
    """
    blobs: dict[str, bytes] = {}
    header = None
    if update is not None:
        header, delta = update
        if why := why_not_sent(header, delta, state.node):
            raise ArmfleetError(why)
        blobs[DELTA_BLOB] = delta
    try:
        answer = CheckInReply(
            check_in=check_in.id,
            node=state.node,
            activity=state.activity.value,
            held=state.held,
            health=state.health,
            update=header,
            refused=wire_sentence(state.refused) or None,
            statistics=state.statistics,
            field=list(state.field),
        )
    except ValidationError as error:
        raise ArmfleetError(f"an answer was stopped: it holds more than may leave ({error})") from error
    check_leaving(data := pack(answer, blobs))
    return data


def why_not_sent(header: UpdateHeader, delta: bytes, node: str) -> str:
    """Why this update can't leave, now or ever, as a sentence; empty: it can."""
    if header.node != node:
        return f"update {header.id[:8]} was trained as '{header.node}', this is '{node}': it is not sent"
    if len(delta) > MAX_UPDATE_BYTES:
        size, most = len(delta) / 1e6, MAX_UPDATE_BYTES / 1e6
        return (
            f"update {header.id[:8]} is too large and not sent: {size:.1f} MB, at most {most:.1f}; "
            "the fleet's recipe needs a lower rank or a smaller codec"
        )
    return ""


def check_leaving(data: bytes) -> None:
    """Read an outgoing envelope as the coordinator would; raise ArmfleetError unless all of it may leave."""
    header, blobs = unpack(data)
    try:
        answer = CheckInReply.model_validate(header)
    except ValidationError as error:
        raise ArmfleetError(f"an answer was stopped: it holds more than may leave ({error})") from error
    expected: Mapping[str, str] = {DELTA_BLOB: answer.update.sha256} if answer.update else {}
    if blobs.keys() != expected.keys() or any(sha256(blobs[name]) != expected[name] for name in expected):
        raise ArmfleetError("an answer was stopped: its blobs are not the update that its header names")


def wire_sentence(text: str) -> str:
    """`text` without paths and characters that may not leave; the full sentence stays in the journal."""
    words = [word for word in text.split() if "/" not in word and "@" not in word]
    return re.sub(r"[^A-Za-z0-9_ ,.:;'()-]", "", " ".join(words))[:MAX_REFUSAL]
