"""`POST /enrol`: the one call that a workstation makes before it has a key in the SuperLink.

nginx passes it on (4 kB, rate-limited); nothing else is served on this socket.
"""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime

from loguru import logger
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from coordinator.config import CoordinatorConfig
from coordinator.enrolment.fleet import Fleet
from coordinator.enrolment.invitations import Invitations
from coordinator.exchange.superlink import SuperLink, parse_public_key
from coordinator.registry.nodes import Node
from coordinator.registry.registry import Registry
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.messages import PROTOCOL, Name

MAX_BODY_BYTES = 4096


class EnrolRequest(BaseModel):
    """Body of the call."""

    model_config = ConfigDict(extra="forbid")

    secret: str = Field(min_length=20, max_length=100)
    name: Name
    public_key: str = Field(max_length=1000)
    """OpenSSH, ecdsa-sha2-nistp384."""


class Enrolment:
    """Checks the secret, registers the key in the SuperLink, and remembers the node. One call at a time."""

    def __init__(
        self,
        config: CoordinatorConfig,
        fleet: Fleet,
        registry: Registry,
        invitations: Invitations,
        superlink: SuperLink,
        on_node: Callable[[Node], None],
    ) -> None:
        self._config, self._fleet, self._registry = config, fleet, registry
        self._invitations, self._superlink, self._on_node = invitations, superlink, on_node
        self._lock = asyncio.Lock()

    def app(self) -> Starlette:
        """The application for enrol.sock."""
        return Starlette(routes=[Route("/enrol", self._enrol, methods=["POST"])])

    async def _enrol(self, request: Request) -> Response:
        body = await _limited_body(request)
        try:
            wanted = EnrolRequest.model_validate_json(body)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise _refused(f"the request to join can't be read ({where}: {first['msg']})") from error
        async with self._lock:
            return JSONResponse(await asyncio.to_thread(self.enrol, wanted))

    def enrol(self, wanted: EnrolRequest) -> dict[str, object]:
        """Enrol a node; repeating the call with the same key gives the same answer.

        Raises:
            ArmfleetError: JOIN_REFUSED (secret, key), SUPERLINK_AWAY.
        """
        key = " ".join(wanted.public_key.split()[:2])
        self._invitations.check(wanted.name, wanted.secret, key, datetime.now(UTC))
        parse_public_key(key)
        known = self._registry.nodes.get(wanted.name)
        if known is None or known.public_key != key:
            node_id = self._superlink.register(wanted.name, key)
            if known is not None and known.node_id != node_id:
                self._superlink.unregister(known.node_id)
            known = Node(name=wanted.name, node_id=node_id, public_key=key, enrolled=datetime.now(UTC))
            self._registry.add_node(known)
            logger.bind(node=known.name).info("{} has joined as node {}", known.name, node_id)
        self._invitations.spend(wanted.name, key)
        self._on_node(known)
        return {
            "protocol": PROTOCOL,
            "node_id": known.node_id,
            "fleet": self._fleet.name,
            "base_digest": self._fleet.base_digest,
            "recipe": json.loads(self._config.recipe.model_dump_json()),
        }


async def _limited_body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise _refused(f"the request to join is over {MAX_BODY_BYTES} bytes")
    return body


def _refused(what: str) -> ArmfleetError:
    return ArmfleetError(
        what,
        kept="nothing was changed",
        do="join with `armfleet join` and the bundle you were given",
        code=ExitCode.JOIN_REFUSED,
    )
