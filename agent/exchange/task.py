"""One message of the SuperNode in the warm executor: pull it, run the installed ClientApp, push its reply.

Each message has a thread of its own. A stock SuperNode that is asked to give up a message (its run ended
while it was being fetched) leaves a task whose message never becomes whole; `Task.end` ends that one when
the next is there. And a stock SuperNode waits for ever for a reply of which it was promised more than it got;
so a reply is kept on disk while it is pushed, and `finish_reply` pushes the rest after the executor was
killed.
"""

import threading
from collections.abc import Callable
from pathlib import Path

import httpx
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode, SubStatus
from flwr.proto.runtime_pb2 import SendTaskHeartbeatRequest
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, RuntimeVersionHttpInterceptor
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.retry import RetryInvoker, exponential
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output
from loguru import logger

from shared import envelope
from shared.files import write_atomic

CALL_S, RETRY_S = 10.0, 30.0
"""Time-out of one call to the SuperNode, and of all its retries together."""


def runtime_client(port: int, *extra: ProtobufClientInterceptor) -> RuntimeHttpClient:
    """A client of the Runtime API on 127.0.0.1 whose every call ends within `RETRY_S` and a time-out."""
    retry = RetryInvoker(
        lambda: exponential(max_delay=5),
        httpx.TransportError,
        max_tries=None,
        max_time=RETRY_S,
    )
    return RuntimeHttpClient(
        f"http://127.0.0.1:{port}",
        interceptors=[RuntimeVersionHttpInterceptor(component_name="SuperExec"), *extra],
        timeout=CALL_S,
        retry_invoker=retry,
    )


class Task:
    """A message on its way through the ClientApp. A failure costs this message alone: the coordinator asks
    again.

    The task is reported as finished only after its reply was taken. A SuperNode that hears of a failed
    task without a reply waits for that reply for ever, and takes no other message; if it hears nothing,
    the task's token expires after a minute, and it answers with an error by itself.

    Args:
        port: Of the SuperNode's Runtime API.
        token: What the SuperNode gave out with the task.
        app: The installed ClientApp.
        kept: File that holds the reply while it is pushed.
    """

    def __init__(self, port: int, token: str, app: ClientApp, kept: Path) -> None:
        self._client = runtime_client(port, RuntimeTokenHttpInterceptor(token))
        self._token, self._app, self._kept = token, app, kept
        self._given_up = False
        self._thread = threading.Thread(target=self._run, name="task", daemon=True)
        self._thread.start()

    def join(self, timeout_s: float) -> bool:
        """Wait for the end; whether it came."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def end(self, reason: str, grace_s: float) -> None:
        """Wait for the message's end; after `grace_s` it is given up, and the SuperNode told so."""
        if self.join(grace_s):
            return
        logger.warning("a message was given up: {}", reason)
        self._given_up = True
        push_task_output(self._client, None, SubStatus.FAILED, reason)
        self._client.close()

    def _run(self) -> None:
        heartbeat = HeartbeatSender(_heartbeat(self._client))
        heartbeat.start()
        try:
            message, context, _, _ = pull_task_input(self._client)
            reply, status, details = answer(self._app, message, context)
            if self._given_up:
                return
            keep_reply(self._kept, self._token, reply, context)
            push_message(self._client, reply, context)
            self._kept.unlink(missing_ok=True)
            push_task_output(self._client, context, status, details)
        except Exception:
            if not self._given_up:
                logger.exception("a message could not be carried; the coordinator will ask again")
        finally:
            if heartbeat.is_running:
                heartbeat.stop()
            self._client.close()


def answer(app: ClientApp, message: Message, context: Context) -> tuple[Message, str, str]:
    """The app's reply, or an error reply, and how the task ended."""
    try:
        return app(message=message, context=context), SubStatus.COMPLETED, ""
    except Exception as error:
        logger.exception("the ClientApp failed")
        reason = type(error).__name__  # the text may hold a path: it stays in the journal
        failed = Message(Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=reason), reply_to=message)
        return failed, SubStatus.FAILED, reason


def keep_reply(path: Path, token: str, reply: Message, context: Context) -> None:
    """Write down a reply with all that pushing it needs."""
    head = {"token": token, "id": reply.object_id, "run": context.run_id, "node": context.node_id}
    objects = {name: item.deflate() for name, item in get_all_nested_objects(reply).items()}
    write_atomic(path, envelope.pack(head, objects))


def finish_reply(port: int, path: Path) -> None:
    """Push the reply that an executor was killed at, if there is one, to the SuperNode that may wait for it.

    A SuperNode that no longer knows the task refuses; then nothing is lost: the coordinator asks again.

    Raises:
        httpx.TransportError: the SuperNode is away; the reply is kept.
    """
    try:
        head, objects = envelope.unpack(path.read_bytes())
        reply = inflate_object_from_contents(head["id"], objects)
        assert isinstance(reply, Message)
        context = Context(head["run"], head["node"], {}, RecordDict(), {})
        client = runtime_client(port, RuntimeTokenHttpInterceptor(head["token"]))
    except FileNotFoundError:
        return
    except Exception as error:  # whatever it holds: it must not stop the next executor, too
        logger.warning("{} can't be used and is removed, the coordinator will ask again ({})", path, error)
        path.unlink()
        return
    try:
        push_message(client, reply, context)
        push_task_output(client, None, SubStatus.COMPLETED, "")
        logger.info("a reply that was cut short has been pushed to its end")
    except httpx.TransportError:
        raise  # the SuperNode is away: later again
    except Exception as error:
        logger.info("the SuperNode no longer takes a reply that was cut short ({})", error)
    finally:
        client.close()
    path.unlink()


def _heartbeat(client: RuntimeHttpClient) -> Callable[[], bool]:
    def send() -> bool:
        try:
            answer = client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
        except (httpx.HTTPError, RuntimeError) as error:  # RuntimeError: the client was closed
            logger.debug("a heartbeat failed: {}", error)
            return True  # the next one follows by itself; retrying here could outlive the task
        if not answer.success:
            logger.warning("the SuperNode has given this task up")
        return True

    return send
