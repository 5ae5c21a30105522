"""Control channel between a daemon and one of its worker processes: requests down, replies and events up.

The two ends of a `socket.socketpair()`; the worker finds its end in the environment (ARMFLEET_CHANNEL_FD).
Every message is one length-prefixed envelope without blobs (`shared.envelope`):

    request  {"id": 7, "op": "record_start", "task": …}
    reply    {"id": 7, "ok": true, "result": {…}}  or  {"id": 7, "ok": false, "error": {what, kept, do, code}}
    event    {"event": "ready", …}

Worker (plain threads):

    channel = WorkerChannel.from_environment()
    channel.emit("ready")
    serve({"status": status, "hold": hold}, channel, urgent={"hold"})   # returns when the daemon is gone
    # the daemon is gone: bring the machine to rest and exit

Daemon (asyncio):

    channel = await DaemonChannel.open(sock, on_event)
    result = await channel.request("record_start", timeout_s=5, task="push the red cube to the left")

An end of file is the one sign of the other side's death: it works after SIGKILL too.
"""

import asyncio
import os
import queue
import socket
import threading
from collections.abc import Callable, Collection, Mapping
from typing import Any

from loguru import logger

from shared import envelope
from shared.errors import ArmfleetError

FD_VARIABLE = "ARMFLEET_CHANNEL_FD"
MAX_BYTES = 2**20
"""Control messages are a few hundred bytes; data planes have sockets of their own."""

type Handler = Callable[[dict[str, Any]], Mapping[str, Any] | None]
type OnEvent = Callable[[str, dict[str, Any]], None]


class ChannelClosed(ArmfleetError):
    """The other end is gone: the request may or may not have been carried out."""


class WorkerChannel:
    """The worker's end. `emit` may be called from any thread."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()

    @classmethod
    def from_environment(cls) -> "WorkerChannel":
        """Take over the descriptor that the daemon handed down.

        Raises:
            ArmfleetError: the process was not started by a daemon.
        """
        fd = os.environ.get(FD_VARIABLE, "")
        if not fd.isdigit():
            raise ArmfleetError(
                f"{FD_VARIABLE} is not set: a worker is started by its daemon, not by hand",
                do="start `armfleet agent` or `armfleet coordinator`",
            )
        sock = socket.socket(fileno=int(fd))
        sock.set_inheritable(False)
        return cls(sock)

    def emit(self, event: str, **fields: Any) -> None:
        """Tell the daemon that something happened; dropped when the daemon is gone (`serve` then returns)."""
        self._send({"event": event, **fields})

    def receive(self) -> dict[str, Any] | None:
        """The next request, or None when the daemon has closed its end or died."""
        try:
            message = envelope.recv(self._sock, MAX_BYTES)
        except (OSError, ArmfleetError) as error:
            logger.error("the channel to the daemon broke: {}", error)
            return None
        return message[0] if message else None

    def reply(self, request_id: int, result: Mapping[str, Any] | None) -> None:
        """Answer a request with its result."""
        self._send({"id": request_id, "ok": True, "result": dict(result or {})})

    def refuse(self, request_id: int, error: ArmfleetError) -> None:
        """Answer a request with the reason why it was not carried out."""
        self._send({"id": request_id, "ok": False, "error": error.to_dict()})

    def close(self) -> None:
        """Close this end; the daemon sees an end of file."""
        with self._lock:
            self._sock.close()

    def _send(self, fields: dict[str, Any]) -> None:
        try:
            with self._lock:
                envelope.send(self._sock, fields)
        except OSError as error:
            logger.debug("a message to the daemon was dropped: {}", error)


def serve(handlers: Mapping[str, Handler], channel: WorkerChannel, urgent: Collection[str] = ()) -> None:
    """Carry out requests until the daemon is gone.

    A handler gets the request's fields without `id` and `op`, and returns a JSON-ready mapping or None.
    An ArmfleetError it raises becomes the reply; any other exception is logged and becomes a reply too: the
    worker lives on. Requests run one after another in a thread of their own; those named in `urgent` run at
    once in the caller's thread, also while another request is running (hold, release, status): they must be
    quick.

    Returns as soon as the channel reaches its end of file, even while a request is still running.
    """
    pending: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def work() -> None:
        while True:
            _carry_out(handlers, channel, pending.get())

    threading.Thread(target=work, name="channel-requests", daemon=True).start()
    while (request := channel.receive()) is not None:
        if request.get("op") in urgent:
            _carry_out(handlers, channel, request)
        else:
            pending.put(request)


def serve_in_thread(
    handlers: Mapping[str, Handler],
    channel: WorkerChannel,
    on_closed: Callable[[], None],
    urgent: Collection[str] = (),
) -> threading.Thread:
    """`serve` in a daemon thread, for workers whose main thread is busy; `on_closed` is called at its end."""

    def run() -> None:
        try:
            serve(handlers, channel, urgent)
        finally:
            on_closed()

    thread = threading.Thread(target=run, name="channel", daemon=True)
    thread.start()
    return thread


def _carry_out(handlers: Mapping[str, Handler], channel: WorkerChannel, request: dict[str, Any]) -> None:
    op, request_id = request.pop("op", None), request.pop("id", None)
    if not isinstance(request_id, int) or not isinstance(op, str):
        logger.warning("a request without id or op was ignored: {}", sorted(request))
        return
    handler = handlers.get(op)
    if handler is None:
        channel.refuse(request_id, ArmfleetError(f"this worker knows no '{op}' ({', '.join(handlers)})"))
        return
    try:
        result = handler(request)
    except ArmfleetError as error:
        logger.bind(op=op).info("refused: {}", error)
        channel.refuse(request_id, error)
    except Exception as error:
        logger.bind(op=op).exception("'{}' failed", op)
        channel.refuse(request_id, ArmfleetError(f"'{op}' failed: {type(error).__name__}: {error}"))
    else:
        channel.reply(request_id, result)


class DaemonChannel:
    """The daemon's end, for one asyncio loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, on_event: OnEvent) -> None:
        self._reader, self._writer, self._on_event = reader, writer, on_event
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._next_id = 0
        self._closed = asyncio.Event()
        self._task = asyncio.create_task(self._read(), name="channel")

    @classmethod
    async def open(cls, sock: socket.socket, on_event: OnEvent) -> "DaemonChannel":
        """Take over `sock`; `on_event(name, fields)` is called in the loop for each event, in order."""
        sock.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=sock, limit=MAX_BYTES + 1024)
        return cls(reader, writer, on_event)

    @property
    def closed(self) -> bool:
        """The worker's end is gone."""
        return self._closed.is_set()

    async def wait_closed(self) -> None:
        """Return once the worker's end is gone."""
        await self._closed.wait()

    async def request(self, op: str, timeout_s: float = 10.0, **fields: Any) -> dict[str, Any]:
        """Ask the worker to do `op` and wait for the result.

        Raises:
            ChannelClosed: the worker died or was stopped before it answered.
            ArmfleetError: the worker refused, or did not answer within `timeout_s`.
        """
        if self.closed:
            raise ChannelClosed(f"'{op}' was not done: the worker is not running")
        self._next_id += 1
        request_id = self._next_id
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = future
        try:
            data = envelope.pack({"id": request_id, "op": op, **fields})
            self._writer.write(envelope.LENGTH.pack(len(data)) + data)
            async with asyncio.timeout(timeout_s):
                await self._writer.drain()
                return await future
        except TimeoutError as error:
            raise ArmfleetError(f"the worker did not answer '{op}' within {timeout_s:g} s") from error
        except OSError as error:
            raise ChannelClosed(f"'{op}' was not done: the worker is gone ({error})") from error
        finally:
            self._waiting.pop(request_id, None)

    async def close(self) -> None:
        """Close this end (the worker sees an end of file) and fail what still waits for an answer."""
        self._writer.close()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _read(self) -> None:
        try:
            while True:
                (size,) = envelope.LENGTH.unpack(await self._reader.readexactly(envelope.LENGTH.size))
                if size > MAX_BYTES:
                    raise ArmfleetError(f"a worker sent a message of {size} bytes")
                self._dispatch(envelope.unpack(await self._reader.readexactly(size), MAX_BYTES)[0])
        except (asyncio.IncompleteReadError, OSError) as error:
            logger.debug("the worker closed its channel ({})", type(error).__name__)
        except ArmfleetError as error:
            logger.error("the channel to a worker is unusable: {}", error)
        finally:
            self._closed.set()
            self._writer.close()
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(ChannelClosed("the worker ended before it answered"))

    def _dispatch(self, message: dict[str, Any]) -> None:
        if "event" in message:
            name = str(message.pop("event"))
            try:
                self._on_event(name, message)
            except Exception:
                logger.bind(event=name).exception("handling the event '{}' failed", name)
            return
        future = self._waiting.get(message.get("id", -1))
        if future is None or future.done():
            logger.info("an answer came after its time-out: {}", message.get("id"))
        elif message.get("ok"):
            future.set_result(dict(message.get("result") or {}))
        else:
            future.set_exception(ArmfleetError.from_dict(dict(message.get("error") or {})))
