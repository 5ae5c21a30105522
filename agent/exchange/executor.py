"""The warm executor: takes tasks from the SuperNode's Runtime API and runs the *installed* ClientApp.

It stands in for `flower-superexec` and `flwr-clientapp`: no process and no import per message (5 s instead
of 9), and the code that Flower ships in an app bundle is neither installed nor imported, whatever it is.

This file and `agent.exchange.task` are the only ones that use internals of flwr, which is pinned exactly;
`tests/agent/exchange/test_executor.py` checks every name that they use. Two of flwr's own helpers are
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
from flwr.clientapp import ClientApp
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from loguru import logger

from agent.config import AgentConfig, load_agent_config
from agent.exchange.client_app import make_app
from agent.exchange.enrolment import SECRET, read_enrolment
from agent.exchange.task import CALL_S, Task, finish_reply
from shared.channel import WorkerChannel, serve_in_thread
from shared.errors import ArmfleetError
from shared.logging import setup_logging

ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
KEPT = "reply-on-its-way"
"""File in the state directory that holds a reply while it is pushed."""
POLL_S = 0.5
"""Pause between two looks for a task; the SuperNode itself asks the SuperLink every 3 s."""
LONGEST_PAUSE_S = 10.0
"""Pause while the SuperNode is away."""
GRACE_S = 2.0
"""For a message to come to its end when the next is there, or the executor stops."""


class Executor:
    """Runs one ClientApp for every task that the SuperNode has.

    Args:
        port: Of the SuperNode's Runtime API.
        secret: The superexec secret.
        app: The installed ClientApp.
        folder: Where a reply is kept while it is pushed.
        on_state: Called with "answering" or "away" and the reason when that changes.
    """

    def __init__(
        self, port: int, secret: bytes, app: ClientApp, folder: Path, on_state: Callable[[str, str], None]
    ) -> None:
        auth = SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=[ACQUIRE])
        self._port, self._app, self._kept, self._on_state = port, app, folder / KEPT, on_state
        self._acquire = RuntimeHttpClient(
            f"http://127.0.0.1:{port}",
            interceptors=[RuntimeVersionHttpInterceptor(component_name="SuperExec"), auth],
            timeout=CALL_S,
        )
        self._state = ""
        self._task: Task | None = None

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set."""
        pause = POLL_S
        while not stop.wait(pause):
            try:
                self.step()
            except httpx.HTTPError as error:
                pause = min(LONGEST_PAUSE_S, 2 * pause)
                self._say("away", _explain(error))
            else:
                pause = POLL_S
                self._say("answering", "")
        if self._task is not None:
            self._task.end("the executor stops", GRACE_S)

    def step(self) -> Task | None:
        """Take one task and begin with it, if there is one; what an executor before this one was at comes
        first.

        The SuperNode has one message at a time: when it gives out another, it has done with the one before.

        Raises:
            httpx.HTTPError: the SuperNode is away, or refuses the secret.
        """
        if self._task is None:
            finish_reply(self._port, self._kept)
        answer = self._acquire.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP]))
        if not (answer.HasField("task") and answer.token):
            return None
        if self._task is not None:
            self._task.end("the SuperNode goes on with another one; the run of this one has ended", GRACE_S)
        self._task = Task(self._port, answer.token, self._app, self._kept)
        return self._task

    def _say(self, state: str, reason: str) -> None:
        if state == self._state:
            return
        self._state = state
        logger.log("INFO" if state == "answering" else "WARNING", "the SuperNode is {} {}", state, reason)
        self._on_state(state, reason)


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
        config.node.state_dir,
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
