"""The warm executor against flwr's own Runtime API (the SuperNode's web application, without a SuperLink).

These are the contract tests for the internals of flwr that `agent.exchange.executor` uses.
"""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import Status, SubStatus
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run, RunStatus
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.main import create_app
from flwr.supernode.nodestate import NodeStateFactory

from agent.exchange import executor as module
from agent.exchange import task as task_module
from agent.exchange.client_app import FIELD, NOT_NOW, RECORD, REFUSED, make_app
from agent.exchange.executor import Executor
from shared.envelope import pack
from shared.files import sha256

SECRET = b"shared by SuperNode and executor"
RUN_ID, NODE_ID = 7, 11
FAB = b"code that must never be installed"
FAB_HASH = sha256(FAB)

type Make = Callable[..., tuple[Executor, list[tuple[str, str]]]]
"""Makes an executor and the list of the states that it tells."""


class SuperNodeStandIn:
    """The SuperNode's Runtime API with messages put into its state by hand; everything else is flwr's own
    code.
    """

    def __init__(self) -> None:
        objects = ObjectStoreFactory()
        factory = NodeStateFactory(objectstore_factory=objects)
        self.state, self.store = factory.state(), objects.store()
        self.state.set_node_id(NODE_ID)
        app = create_app(factory, SECRET)
        self.server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        deadline = time.monotonic() + 30
        while not self.server.started:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]
        stamp = datetime.now(UTC).isoformat()
        status = RunStatus("running", "", "")
        run = Run(
            RUN_ID,
            "armfleet/x",
            "1",
            FAB_HASH,
            {},
            stamp,
            stamp,
            stamp,
            "",
            status,
            "",
            "",
            None,
            0,
            0,
            0.0,
            series_id=1,
        )
        self.state.store_run(run)
        self.state.store_fab(Fab(FAB_HASH, FAB, {}))
        context = Context(RUN_ID, NODE_ID, {}, RecordDict(), {}, series_id=1)
        self.state.set_run_series_context(1, context)

    def deliver(self, content: bytes, whole: bool = True) -> int:
        """A message as the SuperNode stores it after it came from the SuperLink; the id of its task.

        Not `whole`: as it stands when its run ends while the SuperNode fetches its objects.
        """
        message = outgoing(RecordDict({RECORD: ConfigRecord({FIELD: content})}))
        message.metadata.__dict__["_message_id"] = message.object_id
        task_id = self.state.create_task(task_type=TaskType.CLIENT_APP, run_id=RUN_ID, fab_hash=FAB_HASH)
        assert task_id is not None
        self.store.preregister(RUN_ID, get_object_tree(message))
        self.state.store_message(message)
        if whole:
            for object_id, item in get_all_nested_objects(message).items():
                self.store.put(object_id, item.deflate())
        return task_id

    def replies(self) -> list[Message]:
        return list(self.state.get_messages_legacy(is_reply=True))

    def content(self, reply: Message) -> bytes:
        """Read a reply's bytes back from the object store, as the SuperNode does when it sends it on."""
        everything = b"".join(
            self.store.get(object_id) or b""
            for object_id in _ids(self.store.get_object_tree(reply.metadata.message_id))
        )
        return everything

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)


def outgoing(content: RecordDict) -> Message:
    """A message from the ServerApp of run RUN_ID; flwr takes sender and run from a process-wide identity."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN_ID, 1, 1
    return Message(content, NODE_ID, "query")


def _ids(tree: Any) -> list[str]:
    return [tree.object_id, *(i for child in tree.children for i in _ids(child))]


@pytest.fixture
def supernode() -> Iterator[SuperNodeStandIn]:
    stand_in = SuperNodeStandIn()
    yield stand_in
    stand_in.stop()


def app_that(answer: Callable[[bytes], bytes]) -> ClientApp:
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        body = message.content.config_records[RECORD][FIELD]
        assert isinstance(body, bytes)
        return Message(RecordDict({RECORD: ConfigRecord({FIELD: answer(body)})}), reply_to=message)

    return app


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make(port: int, app: ClientApp, secret: bytes = SECRET) -> tuple[Executor, list[tuple[str, str]]]:
        states: list[tuple[str, str]] = []

        def tell(state: str, reason: str) -> None:
            states.append((state, reason))

        return Executor(port, secret, app, tmp_path, tell), states

    return make


def step(executor: Executor) -> None:
    """Take a message and see it through."""
    task = executor.step()
    assert task is not None
    assert task.join(30)


def test_messages_are_answered_by_the_installed_app_and_nothing_is_installed(
    supernode: SuperNodeStandIn, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("the shipped app must not be installed")

    monkeypatch.setattr("flwr.supernode.runtime.run_clientapp.install_from_fab", forbidden)
    executor, _ = make(supernode.port, app_that(lambda body: body[::-1]))
    assert executor.step() is None
    for content in (b"first", b"x" * 3_000_000):
        supernode.deliver(content)
        step(executor)
        (reply,) = supernode.replies()
        assert not reply.has_error()
        assert content[::-1] in supernode.content(reply)


def test_app_that_fails_gives_an_error_reply_without_its_text(
    supernode: SuperNodeStandIn, make: Make
) -> None:
    def crash(_: bytes) -> bytes:
        raise ValueError("/home/mia/secret")

    executor, _ = make(supernode.port, app_that(crash))
    supernode.deliver(b"x")
    step(executor)
    (reply,) = supernode.replies()
    assert reply.error.reason == "ValueError"


def test_reply_that_cannot_be_pushed_leaves_the_task_open(
    supernode: SuperNodeStandIn, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task reported as failed without a reply would block the SuperNode for ever."""
    finished: list[str] = []

    def broken(*_: Any) -> None:
        raise httpx.ReadError("gone")

    monkeypatch.setattr(task_module, "push_message", broken)
    monkeypatch.setattr(task_module, "push_task_output", lambda *_: finished.append("told"))
    executor, _ = make(supernode.port, app_that(lambda body: body))
    supernode.deliver(b"x")
    step(executor)
    assert finished == []


def test_message_whose_run_ended_while_it_was_fetched_does_not_stand_in_the_way(
    supernode: SuperNodeStandIn, make: Make
) -> None:
    """A stock SuperNode leaves such a message half-stored and goes on with the next run's."""
    executor, _ = make(supernode.port, app_that(lambda body: body))
    dead = supernode.deliver(b"never whole", whole=False)
    stuck = executor.step()
    assert stuck is not None
    assert not stuck.join(0.5)
    supernode.deliver(b"next")
    step(executor)
    (reply,) = supernode.replies()
    assert b"next" in supernode.content(reply)
    assert stuck.join(30)
    (task,) = supernode.state.get_tasks(task_ids=[dead])
    assert task.status.sub_status == SubStatus.FAILED


def test_executor_that_stops_gives_up_a_message_that_is_not_whole(
    supernode: SuperNodeStandIn, make: Make
) -> None:
    executor, _ = make(supernode.port, app_that(lambda body: body))
    dead = supernode.deliver(b"never whole", whole=False)
    run_until(executor, lambda: supernode.state.get_tasks(task_ids=[dead])[0].status.status == Status.RUNNING)
    assert supernode.state.get_tasks(task_ids=[dead])[0].status.sub_status == SubStatus.FAILED


def test_reply_that_a_killed_executor_was_pushing_is_pushed_to_its_end_by_the_next(
    supernode: SuperNodeStandIn, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kill is a stand-in, as its instant can't be hit: the first executor pushes no object."""

    def killed(*_: Any, **__: Any) -> None:
        raise RuntimeError("killed")

    executor, _ = make(supernode.port, app_that(lambda body: body[::-1]))
    supernode.deliver(b"first")
    with monkeypatch.context() as patch:
        patch.setattr("flwr.supernode.runtime.run_clientapp.push_objects", killed)
        step(executor)
    (reply,) = supernode.replies()
    assert supernode.content(reply) == b"", "the SuperNode now waits for the rest"
    again, _ = make(supernode.port, app_that(lambda body: body[::-1]))
    assert again.step() is None
    assert b"tsrif" in supernode.content(reply)
    supernode.deliver(b"second")
    step(again)
    (reply,) = supernode.replies()
    assert b"dnoces" in supernode.content(reply)


@pytest.mark.parametrize("damage", [b"", b"not an envelope", pack({"id": "x", "token": "t"})])
def test_kept_reply_that_nobody_waits_for_is_dropped(
    supernode: SuperNodeStandIn, make: Make, tmp_path: Path, damage: bytes
) -> None:
    kept = tmp_path / module.KEPT
    if damage:
        kept.write_bytes(damage)
    else:
        context = Context(RUN_ID, NODE_ID, {}, RecordDict(), {})
        task_module.keep_reply(kept, "a token of long ago", outgoing(RecordDict({})), context)
    executor, _ = make(supernode.port, app_that(lambda body: body))
    assert executor.step() is None
    assert not kept.exists()


def test_wrong_secret_is_said_and_does_not_end_the_process(supernode: SuperNodeStandIn, make: Make) -> None:
    executor, states = make(supernode.port, app_that(lambda body: body), b"another secret")
    supernode.deliver(b"x")
    with pytest.raises(httpx.HTTPStatusError) as caught:
        executor.step()
    assert "refuses our secret" in module._explain(caught.value)
    run_until(executor, lambda: bool(states))
    assert states[0][0] == "away"


def test_supernode_that_comes_back_is_noticed(supernode: SuperNodeStandIn, make: Make) -> None:
    executor, states = make(supernode.port, app_that(lambda body: body))
    run_until(executor, lambda: ("answering", "") in states)
    supernode.stop()
    run_until(executor, lambda: states[-1][0] == "away")
    assert "ConnectError" in states[-1][1]


def run_until(executor: Executor, condition: Callable[[], bool], limit_s: float = 30.0) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=executor.run, args=(stop,))
    thread.start()
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    stop.set()
    thread.join(20)
    assert not thread.is_alive()


def test_agent_that_is_away_gives_not_now(supernode: SuperNodeStandIn, make: Make, tmp_path: Path) -> None:
    executor, _ = make(supernode.port, make_app(tmp_path / "no.sock"))
    supernode.deliver(b"x")
    step(executor)
    (reply,) = supernode.replies()
    assert (reply.error.code, reply.error.reason) == (NOT_NOW, "not now")


def test_agent_that_refuses_keeps_its_reason_to_itself(supernode: SuperNodeStandIn, tmp_path: Any) -> None:
    message = outgoing(RecordDict({}))
    message.metadata.__dict__["_message_id"] = "m"
    reply = make_app(tmp_path / "no.sock")(
        message=message, context=Context(RUN_ID, NODE_ID, {}, RecordDict(), {}, series_id=1)
    )
    assert (reply.error.code, reply.error.reason) == (REFUSED, "the agent refused the check-in")


def test_dead_supernode_costs_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_module, "RETRY_S", 0.3)
    client = task_module.runtime_client(1)
    started = time.monotonic()
    with pytest.raises(httpx.ConnectError):
        client.SendTaskHeartbeat(task_module.SendTaskHeartbeatRequest())
    assert time.monotonic() - started < 10
