"""HTTP on Unix sockets: how the daemons are asked, by the CLI, by their helpers and by the Flower apps."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode

ERROR_STATUS = 409
"""HTTP status of an answered refusal, so that a client can tell it from a crash (5xx)."""


class UdsClient:
    """Blocking client of one daemon.

    Args:
        path: The daemon's socket.
        timeout_s: Longest wait for a connection and for an answer.
    """

    def __init__(self, path: Path | str, timeout_s: float = 5.0) -> None:
        self.path = Path(path)
        self._http = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(path)), base_url="http://armfleet", timeout=timeout_s
        )

    def get(self, url: str, timeout_s: float | None = None) -> dict[str, Any]:
        """GET `url`; the JSON answer.

        Raises:
            ArmfleetError: the daemon's own sentence, or COORDINATOR_AWAY when nobody answers.
        """
        return self._ask("GET", url, timeout_s).json()

    def post(
        self, url: str, json: Any = None, content: bytes | None = None, timeout_s: float | None = None
    ) -> dict[str, Any]:
        """POST JSON or bytes; the JSON answer. Raises as `get`."""
        return self._ask("POST", url, timeout_s, json=json, content=content).json()

    def post_bytes(self, url: str, content: bytes, timeout_s: float | None = None) -> bytes:
        """POST bytes (an envelope); the answer's bytes. Raises as `get`."""
        return self._ask("POST", url, timeout_s, content=content).content

    def close(self) -> None:
        """Close kept connections."""
        self._http.close()

    def _ask(self, method: str, url: str, timeout_s: float | None, **body: Any) -> httpx.Response:
        limit = httpx.USE_CLIENT_DEFAULT if timeout_s is None else timeout_s
        try:
            response = self._http.request(method, url, timeout=limit, **body)
        except httpx.HTTPError as error:
            raise ArmfleetError(
                f"nobody answers at {self.path} ({type(error).__name__}: {error})",
                do="check that the service runs: systemctl status 'armfleet-*'",
                code=ExitCode.COORDINATOR_AWAY,
            ) from error
        if response.status_code == ERROR_STATUS:
            raise ArmfleetError.from_dict(response.json()["error"])
        if response.is_error:
            raise ArmfleetError(
                f"{method} {url} at {self.path} failed: HTTP {response.status_code} {response.text[:200]}"
            )
        return response


def json_errors(app: Starlette) -> Starlette:
    """Answer an ArmfleetError raised by an endpoint of `app` with its sentence instead of a stack trace."""

    async def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, ArmfleetError)
        return JSONResponse({"error": error.to_dict()}, status_code=ERROR_STATUS)

    app.add_exception_handler(ArmfleetError, refuse)
    return app


async def serve(app: Starlette, path: Path, stop: asyncio.Event) -> None:
    """Serve `app` on the Unix socket `path` (mode 0660) until `stop` is set.

    A socket left by a killed process is replaced; one that still answers is not.

    Raises:
        ArmfleetError: ALREADY_RUNNING, another process answers on `path`.
    """
    await _claim(path)
    server = _Server(
        uvicorn.Config(json_errors(app), uds=str(path), log_config=None, lifespan="off", access_log=False)
    )
    task = asyncio.create_task(server.serve())
    try:
        while not server.started and not task.done():
            await asyncio.sleep(0.01)
        if path.exists():
            path.chmod(0o660)
        waiting = asyncio.create_task(stop.wait())
        await asyncio.wait({waiting, task}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
    finally:
        server.should_exit = True
        server.force_exit = True
        await task
        path.unlink(missing_ok=True)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the daemon owns SIGTERM."""

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        yield


async def _claim(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return
    try:
        _, writer = await asyncio.wait_for(asyncio.open_unix_connection(str(path)), 1.0)
    except OSError:
        path.unlink()
        return
    writer.close()
    raise ArmfleetError(f"another process serves {path}", do="stop it first", code=ExitCode.ALREADY_RUNNING)
