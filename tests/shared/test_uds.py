import asyncio
import threading

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.uds import UdsClient, serve


async def hello(request):
    return JSONResponse({"hello": (await request.body()).decode()})


async def refuse(request):
    raise ArmfleetError("joint 6 is in overload", do="power-cycle the arm", code=ExitCode.BUS_LOST)


class Running:
    """A server on its own thread and loop, for a blocking client."""

    def __init__(self, path):
        self.path, self.error = path, None
        self.loop, self.stop = asyncio.new_event_loop(), asyncio.Event()
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        app = Starlette(routes=[Route("/hello", hello, methods=["POST"]), Route("/refuse", refuse)])
        try:
            self.loop.run_until_complete(serve(app, self.path, self.stop))
        except ArmfleetError as error:
            self.error = error

    def __enter__(self):
        self.thread.start()
        while self.thread.is_alive():
            try:
                UdsClient(self.path).get("/none")
            except ArmfleetError as error:
                if "404" in str(error):
                    break
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.stop.set)
        self.thread.join(10)
        assert not self.thread.is_alive()


@pytest.fixture
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("s") / "a.sock"


def test_answers_refusals_and_absence(path):
    client = UdsClient(path)
    with pytest.raises(ArmfleetError, match="nobody answers"):
        client.get("/hello")
    with Running(path):
        assert client.post("/hello", content=b"x") == {"hello": "x"}
        with pytest.raises(ArmfleetError, match="overload") as caught:
            client.get("/refuse")
        assert (caught.value.do, caught.value.code) == ("power-cycle the arm", ExitCode.BUS_LOST)
        second = Running(path)
        second.thread.start()
        second.thread.join(10)
        assert second.error.code is ExitCode.ALREADY_RUNNING
        assert client.post("/hello", content=b"y") == {"hello": "y"}
    assert not path.exists()


def test_a_socket_left_by_a_killed_process_is_replaced(path):
    path.touch()
    with Running(path):
        assert UdsClient(path).post("/hello", content=b"x") == {"hello": "x"}
