"""The control API on agent.sock: JSON in, JSON out; a refusal is HTTP 409 with its sentence (`shared.uds`).

Whoever may open the socket (mode 0660) may move the arm; nobody else, and nothing that comes over the
network, can.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from agent.arm import ArmDesk
from agent.episodes.desk import Change, Import
from agent.metrics import CONTENT_TYPE, exposition
from agent.parking import Parking
from agent.sessions.series import Act as SeriesAct
from agent.sessions.series_desk import SeriesDesk
from agent.sessions.series_messages import StartSeries
from agent.sessions.session import Act
from agent.sessions.session_desk import SessionDesk
from agent.sessions.session_messages import StartRecording
from agent.training.history import History
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.limits import MAX_MESSAGE_BYTES
from shared.tasks import TaskText

if TYPE_CHECKING:
    from agent.daemon import Agent


ARM_STATUS_S = 2.0
"""Longest wait for the arm worker's own account of itself, which it gives at once."""


class Body(BaseModel):
    """Base of all request bodies."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Nothing(Body):
    """No fields."""


class Task(Body):
    """The language instruction."""

    task: TaskText


class Keep(Body):
    """Whether the episode is kept."""

    keep: bool


class RolloutRequest(Body):
    """One attempt of the policy."""

    task: TaskText
    start_pose: list[float] | None = Field(default=None, min_length=6, max_length=6)
    """Units; where the arm goes first. None: from where it is."""
    max_s: float | None = Field(default=None, gt=0)
    evaluation: bool = False
    """Counts as activity `evaluate`."""


class Label(Body):
    """The operator's verdict on a rollout."""

    success: bool


class Park(Body):
    """A terminal wants the arm's serial ports for itself."""

    why: str = Field(min_length=1, max_length=120)


class Press(Body):
    """A key of `armfleet record`."""

    act: Act


class SeriesPress(Body):
    """A key of `armfleet rollout`."""

    act: SeriesAct


class Lease(Body):
    """The loan that is meant."""

    lease: str = Field(pattern=r"^[0-9a-f]{16}$")


async def _body[Model: BaseModel](request: Request, model: type[Model]) -> Model:
    raw = await request.body()
    try:
        return model.model_validate_json(raw or b"{}")
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise ArmfleetError(f"{request.url.path}: {where}: {first['msg']}") from error


def make_api(agent: "Agent") -> Starlette:
    """The application that serves `agent`."""

    def arm() -> ArmDesk:
        if agent.arm is None:
            raise ArmfleetError("no arm is configured on this workstation", do="add [arm] to agent.toml")
        return agent.arm

    def parking() -> Parking:
        arm()
        assert agent.parking is not None
        return agent.parking

    def recording() -> SessionDesk:
        arm()
        assert agent.recording is not None
        return agent.recording

    def series() -> SeriesDesk:
        arm()
        assert agent.series is not None
        return agent.series

    async def press_in_series(body: SeriesPress) -> dict[str, Any]:
        return series().act(body.act)

    async def look_at_series(request: Request) -> Response:
        return JSONResponse(await series().look())

    async def press(body: Press) -> dict[str, Any]:
        return recording().act(body.act)

    async def look(request: Request) -> Response:
        return JSONResponse(await recording().look())

    async def arm_status(request: Request) -> Response:
        arm()
        return JSONResponse(await agent.workers["arm"].request("status", ARM_STATUS_S))

    async def status(request: Request) -> Response:
        return JSONResponse(agent.status())

    async def metrics(request: Request) -> Response:
        last = History(agent.config.training_dir).last()
        return PlainTextResponse(exposition(last), media_type=CONTENT_TYPE)

    async def episodes(request: Request) -> Response:
        return JSONResponse({"episodes": agent.index.episodes()})

    async def import_status(request: Request) -> Response:
        since = request.query_params.get("since", "0")
        return JSONResponse(agent.episodes.import_status(int(since) if since.isdecimal() else 0))

    async def versions(request: Request) -> Response:
        if agent.membership is None:
            raise _not_enrolled()
        return JSONResponse(agent.membership.versions_status())

    async def rollout(request: Request) -> Response:
        return JSONResponse(arm().rollouts.result(request.path_params["id"]))

    async def label(request: Request) -> Response:
        body = await _body(request, Label)
        return JSONResponse(arm().rollouts.label(request.path_params["id"], body.success))

    async def check_in(request: Request) -> Response:
        if agent.membership is None:
            raise _not_enrolled()
        body = await request.body()
        if len(body) > MAX_MESSAGE_BYTES:
            raise ArmfleetError(f"a check-in of {len(body)} bytes is over the limit")
        answer = await agent.membership.exchange.check_in(body)
        return Response(answer, media_type="application/octet-stream")

    def post[Model: BaseModel](
        path: str, model: type[Model], act: Callable[[Model], Awaitable[dict[str, Any]]]
    ) -> Route:
        async def endpoint(request: Request) -> Response:
            return JSONResponse(await act(await _body(request, model)))

        return Route(path, endpoint, methods=["POST"])

    return Starlette(
        routes=[
            Route("/status", status),
            Route("/metrics", metrics),
            Route("/arm", arm_status),
            Route("/recording", look),
            Route("/series", look_at_series),
            Route("/episodes", episodes),
            Route("/episodes/import", import_status),
            Route("/versions", versions),
            Route("/rollouts/{id}", rollout),
            Route("/rollouts/{id}/label", label, methods=["POST"]),
            Route("/exchange/check-in", check_in, methods=["POST"]),
            post("/session/start", Task, lambda body: arm().session_start(body.task)),
            post("/session/stop", Nothing, lambda body: arm().session_stop()),
            post("/recording/start", StartRecording, lambda body: recording().start(body)),
            post("/recording/act", Press, press),
            post("/recording/attend", Nothing, lambda body: recording().look(keys=True)),
            post("/series/start", StartSeries, lambda body: series().start(body)),
            post("/series/act", SeriesPress, press_in_series),
            post("/series/attend", Nothing, lambda body: series().look(keys=True)),
            post("/episodes/start", Task, lambda body: arm().episode_start(body.task)),
            post("/episodes/stop", Keep, lambda body: arm().episode_stop(body.keep)),
            post("/episodes/change", Change, agent.episodes.change),
            post("/episodes/import", Import, agent.episodes.start_import),
            post("/episodes/catalogue", Nothing, lambda body: agent.episodes.catalogue()),
            post(
                "/rollouts/start",
                RolloutRequest,
                lambda body: arm().rollout_start(body.task, body.start_pose, body.max_s, body.evaluation),
            ),
            post("/rollouts/stop", Nothing, lambda body: arm().rollout_stop()),
            post("/arm/hold", Nothing, lambda body: arm().hold()),
            post("/arm/release", Nothing, lambda body: arm().release()),
            post("/arm/park", Park, lambda body: parking().park(body.why)),
            post("/arm/park/renew", Lease, lambda body: parking().renew(body.lease)),
            post("/arm/park/end", Lease, lambda body: parking().give_back(body.lease)),
        ]
    )


def _not_enrolled() -> ArmfleetError:
    return ArmfleetError(
        "this workstation has joined no fleet",
        do="get a join bundle from the fleet's operator and run `armfleet join BUNDLE`",
        code=ExitCode.NOT_ENROLLED,
    )
