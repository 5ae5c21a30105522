"""The warm executor: takes tasks from the SuperNode's Runtime API and runs the *installed* ClientApp.

It stands in for `flower-superexec` and `flwr-clientapp`: no process and no import per message (5 s instead
of 9), and the code that Flower ships in an app bundle is neither installed nor imported, whatever it is.

This is the one file that uses internals of flwr, which is pinned exactly;
`tests/agent/exchange/test_executor.py` checks every name that it uses. Two of flwr's own helpers are
replaced because they end the process they run in: the retry helper raises SIGINT on HTTP 401, the heartbeat
helper on a task that was given up.

    python -m agent.exchange.executor --config agent.toml     (started by the daemon)
"""

import argparse
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode, SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest, SendTaskHeartbeatRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.retry import RetryInvoker, exponential
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output
from loguru import logger

from agent.config import AgentConfig, load_agent_config
from agent.exchange.client_app import make_app
from agent.exchange.enrolment import SECRET, read_enrolment
from shared.channel import WorkerChannel, serve_in_thread
from shared.errors import ArmfleetError
from shared.logging import setup_logging

ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
CALL_S, RETRY_S = 10.0, 30.0
"""Time-out of one call to the SuperNode, and of all its retries together."""
POLL_S = 0.5
"""Pause between two looks for a task; the SuperNode itself asks the SuperLink every 3 s."""
LONGEST_PAUSE_S = 10.0
"""Pause while the SuperNode is away."""


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


class Executor:
    """Runs one ClientApp for every task that the SuperNode has.

    Args:
        port: Of the SuperNode's Runtime API.
        secret: The superexec secret.
        app: The installed ClientApp.
        on_state: Called with "answering" or "away" and the reason when that changes.
    """

    def __init__(
        self, port: int, secret: bytes, app: ClientApp, on_state: Callable[[str, str], None]
    ) -> None:
        auth = SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=[ACQUIRE])
        self._port, self._app, self._on_state = port, app, on_state
        self._acquire = RuntimeHttpClient(
            f"http://127.0.0.1:{port}",
            interceptors=[RuntimeVersionHttpInterceptor(component_name="SuperExec"), auth],
            timeout=CALL_S,
        )
        self._state = ""

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set."""
        pause = POLL_S
        while not stop.wait(pause):
            try:
                worked = self.step()
            except httpx.HTTPError as error:
                pause = min(LONGEST_PAUSE_S, 2 * pause)
                self._say("away", _explain(error))
            else:
                pause = 0.0 if worked else POLL_S
                self._say("answering", "")

    def step(self) -> bool:
        """Take and run one task if there is one; whether there was.

        Raises:
            httpx.HTTPError: the SuperNode is away, or refuses the secret.
        """
        answer = self._acquire.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP]))
        if not (answer.HasField("task") and answer.token):
            return False
        with logger.contextualize(task=answer.task.task_id):
            self._run_task(answer.token)
        return True

    def _run_task(self, token: str) -> None:
        """One message: pull, run, push. A failure costs this message alone; the coordinator asks again.

        The task is reported as finished only after its reply was taken. A SuperNode that hears of a failed
        task without a reply waits for that reply for ever, and takes no other message; if it hears nothing,
        the task's token expires after a minute, and it answers with an error by itself.
        """
        client = runtime_client(self._port, RuntimeTokenHttpInterceptor(token))
        heartbeat = HeartbeatSender(_heartbeat(client))
        try:
            heartbeat.start()
            message, context, _, _ = pull_task_input(client)
            reply, status, details = self._answer(message, context)
            push_message(client, reply, context)
            push_task_output(client, context, status, details)
        except Exception:
            logger.exception("a message could not be carried; the coordinator will ask again")
        finally:
            if heartbeat.is_running:
                heartbeat.stop()
            client.close()

    def _answer(self, message: Message, context: Context) -> tuple[Message, str, str]:
        try:
            return self._app(message=message, context=context), SubStatus.COMPLETED, ""
        except Exception as error:
            logger.exception("the ClientApp failed")
            reason = type(error).__name__  # the text may hold a path: it stays in the journal
            failed = Message(
                Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=reason), reply_to=message
            )
            return failed, SubStatus.FAILED, reason

    def _say(self, state: str, reason: str) -> None:
        if state == self._state:
            return
        self._state = state
        logger.log("INFO" if state == "answering" else "WARNING", "the SuperNode is {} {}", state, reason)
        self._on_state(state, reason)


def _heartbeat(client: RuntimeHttpClient) -> Callable[[], bool]:
    def send() -> bool:
        try:
            answer = client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
        except httpx.HTTPError as error:
            logger.debug("a heartbeat failed: {}", error)
            return True  # the next one follows by itself; retrying here could outlive the task
        if not answer.success:
            logger.warning("the SuperNode has given this task up")
        return True

    return send


def _explain(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.HTTPStatusError) and error.response.status_code == httpx.codes.UNAUTHORIZED:
        return "it refuses our secret: start it with --superexec-auth-secret-file of this enrolment"
    return f"{type(error).__name__}: {error}"


def main(config: AgentConfig, channel: WorkerChannel) -> int:
    """Run until the daemon is gone.

    Raises:
        ArmfleetError: NOT_ENROLLED.
    """
    read_enrolment(config.enrolment_dir)
    secret = (config.enrolment_dir / SECRET).read_bytes()
    stop = threading.Event()
    serve_in_thread({"status": lambda _: {}}, channel, stop.set)
    executor = Executor(
        config.exchange.supernode_port,
        secret,
        make_app(config.node.socket),
        lambda state, reason: channel.emit("supernode", state=state, reason=reason),
    )
    channel.emit("ready")
    executor.run(stop)
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    setup_logging("executor")
    worker_channel = WorkerChannel.from_environment()
    try:
        sys.exit(main(load_agent_config(parser.parse_args().config), worker_channel))
    except ArmfleetError as fault:
        worker_channel.emit("error", **fault.to_dict())
        logger.error("{}", fault)
        sys.exit(int(fault.code))
