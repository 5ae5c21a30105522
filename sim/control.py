"""The virtual workstation's control socket: what to ask of its person, table and faults.

| request | body | answer |
|---|---|---|
| POST /scene | `{seed, task: {verb, color}}` | `{start_pose: [6 units], text}` |
| POST /leader/move | `{pose: [6 units], seconds}` | `{}` at once |
| POST /follower/move | `{pose: [6 units], seconds}` | `{}` at once: a hand moves and holds its limp joints |
| POST /follower/let-go | | `{}` |
| POST /demonstrate | `{seed}` | `{seconds}` at once |
| GET /demonstration | | `{running, seconds}` |
| GET /outcome | | `{placed, success, ever_success, seconds}` |
| GET /status | | positions, torques, faults, timing |
| GET /told | | `{follower: [[wall, [6 counts]]]}`: the latest positions told on the bus |
| POST /fault | `sim.faults.FaultRequest` | `{}`; what is not named is healed |
| POST /camera-fault | `sim.faults.CameraFaultRequest` | `{}` |
| POST /power-cycle | `{bus}` | `{}` |

A scene's cubes appear on the table once the arm is out of their way; it is at the start pose.
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from shared.errors import ArmfleetError
from sim.faults import BusFaults, BusName, CameraFaultRequest, FaultRequest
from sim.joints import JOINTS
from sim.tasks import Task, draw_scene

if TYPE_CHECKING:
    from sim.workstation import Workstation


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Scene(_Body):
    seed: int = Field(ge=0)
    task: Task


class _Move(_Body):
    pose: list[float] = Field(min_length=len(JOINTS), max_length=len(JOINTS))
    seconds: float = Field(gt=0, le=60)


class _Demonstrate(_Body):
    seed: int = Field(ge=0)


class _PowerCycle(_Body):
    bus: BusName = "follower"


class _Nothing(_Body):
    pass


def control_app(workstation: "Workstation") -> Starlette:
    """The HTTP interface described above, over a running workstation."""
    rig = workstation.rig

    def set_scene(body: _Scene) -> dict[str, Any]:
        start = rig.set_scene(draw_scene(body.seed, body.task))
        return {"start_pose": start.tolist(), "text": body.task.text}

    def move_leader(body: _Move) -> dict[str, Any]:
        rig.move_leader(np.array(body.pose), body.seconds)
        return {}

    def move_follower(body: _Move) -> dict[str, Any]:
        rig.move_follower(np.array(body.pose), body.seconds)
        return {}

    def let_go(_: _Nothing) -> dict[str, Any]:
        rig.let_go_of_follower()
        return {}

    def demonstrate(body: _Demonstrate) -> dict[str, Any]:
        return {"seconds": rig.demonstrate(body.seed)}

    def demonstration(_: _Nothing) -> dict[str, Any]:
        running, seconds = rig.demonstration()
        return {"running": running, "seconds": seconds}

    def outcome(_: _Nothing) -> dict[str, Any]:
        return asdict(rig.outcome())

    def status(_: _Nothing) -> dict[str, Any]:
        return workstation.status()

    def told(_: _Nothing) -> dict[str, Any]:
        return {"follower": rig.follower.told()}

    def fault(body: FaultRequest) -> dict[str, Any]:
        faults = BusFaults(**body.model_dump(exclude={"bus"}))
        workstation.ports[body.bus].set_faults(faults)
        return {}

    def camera_fault(body: CameraFaultRequest) -> dict[str, Any]:
        workstation.set_camera_fault(body.camera, body.fault)
        return {}

    def power_cycle(body: _PowerCycle) -> dict[str, Any]:
        workstation.ports[body.bus].bus.power_cycle()
        return {}

    return Starlette(
        routes=[
            _route("POST", "/scene", _Scene, set_scene),
            _route("POST", "/leader/move", _Move, move_leader),
            _route("POST", "/follower/move", _Move, move_follower),
            _route("POST", "/follower/let-go", _Nothing, let_go),
            _route("POST", "/demonstrate", _Demonstrate, demonstrate),
            _route("GET", "/demonstration", _Nothing, demonstration),
            _route("GET", "/outcome", _Nothing, outcome),
            _route("GET", "/status", _Nothing, status),
            _route("GET", "/told", _Nothing, told),
            _route("POST", "/fault", FaultRequest, fault),
            _route("POST", "/camera-fault", CameraFaultRequest, camera_fault),
            _route("POST", "/power-cycle", _PowerCycle, power_cycle),
        ]
    )


def _route[Model: BaseModel](
    method: str, url: str, model: type[Model], handle: Callable[[Model], dict[str, Any]]
) -> Route:
    """A route whose body is checked before `handle` sees it, in a worker thread: planning takes long."""

    async def endpoint(request: Request) -> JSONResponse:
        try:
            body = model.model_validate_json(await request.body() or b"{}")
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the body"
            raise ArmfleetError(
                f"{method} {url}: {where}: {first['msg']}", do="see sim/control.py"
            ) from error
        return JSONResponse(await run_in_threadpool(handle, body))

    return Route(url, endpoint, methods=[method])
