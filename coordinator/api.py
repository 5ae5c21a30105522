"""The coordinator's control API on a Unix socket: for the CLI, and for the ServerApp.

GET  /status  /versions  /nodes
POST /nodes/invite {"name"} -> join bundle
POST /versions/promote {"version", "reason"}    /versions/roll-back {"reason"}
POST /versions/verify {"version"} -> {"same", "parent", "updates", "aggregator"}    computes it again
POST /exchange/stop       ends the Flower run until the daemon is restarted
POST /exchange/plan       envelope {run_id, online: [node ids]}
                          -> envelope {over, check_ins: [{node_id, check_in, ttl_s}]}, a blob per check-in
POST /exchange/replies    envelope {node_id, check_in, error: str | null}, blob "reply"
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from coordinator.exchange.desk import CheckInDesk
from coordinator.exchange.run_keeper import RunKeeper
from coordinator.registry.registry import Registry
from coordinator.rounds import verify
from coordinator.status import Reporter
from shared.envelope import pack, unpack
from shared.errors import ArmfleetError
from shared.messages import Id, Name


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Invite(_Body):
    """Body of /nodes/invite."""

    name: Name


class Promote(_Body):
    """Body of /versions/promote."""

    version: int = Field(ge=0)
    reason: str = Field(min_length=1, max_length=300)


class Verify(_Body):
    """Body of /versions/verify."""

    version: int = Field(ge=0)


class RollBack(_Body):
    """Body of /versions/roll-back."""

    reason: str = Field(min_length=1, max_length=300)


class PlanRequest(_Body):
    """Header of /exchange/plan."""

    run_id: int
    online: list[int]


class Answer(_Body):
    """Header of /exchange/replies."""

    node_id: int
    check_in: Id
    error: str | None


class ControlApi:
    """Routes; everything that blocks runs in a thread."""

    def __init__(
        self,
        reporter: Reporter,
        registry: Registry,
        desk: CheckInDesk,
        keeper: RunKeeper,
        desk_lock: asyncio.Lock,
        ttl_s: float,
        invite: Callable[[str], BaseModel],
        publish: Callable[[], Awaitable[None]],
        on_update: Callable[[], None],
    ) -> None:
        self._reporter, self._registry, self._desk, self._keeper = reporter, registry, desk, keeper
        self._lock, self._ttl_s = desk_lock, ttl_s
        self._invite, self._publish, self._on_update = invite, publish, on_update

    def app(self) -> Starlette:
        """The application for coordinator.sock."""
        return Starlette(
            routes=[
                Route("/status", self._get(self._reporter.status)),
                Route("/versions", self._get(lambda: {"versions": self._reporter.versions()})),
                Route("/nodes", self._get(lambda: {"nodes": self._reporter.nodes()})),
                Route("/nodes/invite", self._post_invite, methods=["POST"]),
                Route("/versions/promote", self._post_promote, methods=["POST"]),
                Route("/versions/roll-back", self._post_roll_back, methods=["POST"]),
                Route("/versions/verify", self._post_verify, methods=["POST"]),
                Route("/exchange/stop", self._post_stop, methods=["POST"]),
                Route("/exchange/plan", self._post_plan, methods=["POST"]),
                Route("/exchange/replies", self._post_replies, methods=["POST"]),
            ]
        )

    def _get(self, read: Callable[[], dict[str, Any]]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            return JSONResponse(await asyncio.to_thread(read))

        return answer

    async def _post_invite(self, request: Request) -> Response:
        body = _parse(Invite, await request.body())
        bundle = await asyncio.to_thread(self._invite, body.name)
        return JSONResponse(bundle.model_dump(mode="json"))

    async def _post_promote(self, request: Request) -> Response:
        body = _parse(Promote, await request.body())
        if body.version not in self._registry.versions.numbers():
            raise ArmfleetError(f"there is no version {body.version}", do="see `armfleet versions`")
        await asyncio.to_thread(self._registry.promote, body.version, f"by the operator: {body.reason}")
        await self._publish()
        return JSONResponse({"promoted": body.version})

    async def _post_roll_back(self, request: Request) -> Response:
        body = _parse(RollBack, await request.body())
        number = await asyncio.to_thread(self._registry.roll_back, f"by the operator: {body.reason}")
        await self._publish()
        return JSONResponse({"promoted": number})

    async def _post_verify(self, request: Request) -> Response:
        number = _parse(Verify, await request.body()).version
        same = await asyncio.to_thread(verify, self._registry, number)
        manifest = self._registry.versions.manifest(number)
        _, rule = self._registry.versions.server_state(number)
        answer = {
            "same": same,
            "parent": manifest.parent,
            "updates": len(manifest.contributions),
            "aggregator": rule.aggregator,
        }
        return JSONResponse(answer)

    async def _post_stop(self, request: Request) -> Response:
        self._keeper.stopped = True
        return JSONResponse({"stopped": True})

    async def _post_plan(self, request: Request) -> Response:
        header, _ = unpack(await request.body())
        wanted = _validate(PlanRequest, header)
        over = self._keeper.stopped or wanted.run_id != self._keeper.run_id
        check_ins: list[tuple[int, str, bytes]] = []
        if not over:
            async with self._lock:
                check_ins = await asyncio.to_thread(self._desk.plan, wanted.run_id, wanted.online)
        answer = {
            "over": over,
            "check_ins": [
                {"node_id": node_id, "check_in": check_in, "ttl_s": self._ttl_s}
                for node_id, check_in, _ in check_ins
            ],
        }
        data = pack(answer, {check_in: envelope for _, check_in, envelope in check_ins})
        return Response(data, media_type="application/octet-stream")

    async def _post_replies(self, request: Request) -> Response:
        header, blobs = unpack(await request.body())
        answer = _validate(Answer, header)
        async with self._lock:
            if answer.error is not None or "reply" not in blobs:
                reason = answer.error or "an empty answer"
                self._desk.failed(answer.node_id, answer.check_in, reason)
            else:
                await asyncio.to_thread(self._desk.answered, answer.node_id, answer.check_in, blobs["reply"])
        self._on_update()
        return JSONResponse({})


def _parse[Model: BaseModel](model: type[Model], body: bytes) -> Model:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise _unreadable(error) from error


def _validate[Model: BaseModel](model: type[Model], header: dict[str, Any]) -> Model:
    try:
        return model.model_validate(header)
    except ValidationError as error:
        raise _unreadable(error) from error


def _unreadable(error: ValidationError) -> ArmfleetError:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return ArmfleetError(f"the request can't be read ({where}: {first['msg']})", kept="nothing was changed")
