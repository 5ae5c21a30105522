"""Nodes without the engine: the test carries messages between the coordinator's desk and the stations."""

import asyncio
import contextlib
import itertools
import threading
import time
import uuid
from typing import ClassVar

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from agent.training.data import Episode, Split
from agent.training.update import Update
from benchmarks.simulate import __main__ as simulate
from benchmarks.simulate import station as station_module
from benchmarks.simulate.client_app import PARTITION, make_app
from benchmarks.simulate.engine import Engine
from benchmarks.simulate.nodes import enrolled, host
from benchmarks.simulate.station import Station
from benchmarks.simulate.turns import Turns, TurnTaker
from coordinator.config import NormalisationSection, load
from coordinator.enrolment import fleet as fleets
from coordinator.enrolment.setup import init
from coordinator.exchange.desk import CheckInDesk
from coordinator.registry.registry import Registry
from coordinator.registry.statistics import open_pool
from coordinator.registry.targets import Publisher
from coordinator.rounds import Rounds, verify
from shared.adapters import write_adapter
from shared.codec import encode
from shared.files import sha256
from shared.messages import UpdateHeader
from shared.recipe import Recipe
from tests.agent.training.records import made_record

NODES = 2
PATIENCE_S = 60.0
BASE_DIGEST = "ba5e" * 16


class ConstantTrainer:
    """Adds the same to every number."""

    normalised_with: ClassVar[list] = []

    def __init__(self, node, digest):
        self._node, self._digest = node, digest

    def train(self, tensors, version, recipe, learning_rate, deliver, normalisation=None):
        self.normalised_with.append(normalisation)
        change = {name: np.full_like(array, 0.25) for name, array in tensors.items()}
        delta = encode(change, recipe.codec)
        header = UpdateHeader(
            id=uuid.uuid4().hex,
            node=self._node,
            base_version=version,
            base_digest=self._digest,
            sha256=sha256(delta),
            codec=recipe.codec,
            examples=10,
            steps=recipe.steps,
        )
        update = Update(header, delta, made_record(update=header.id, version=version))
        deliver(update)
        return update


class Fleet:
    """A coordinator's desk and the nodes' ClientApp; the test carries what the engine would carry."""

    def __init__(self, folder, monkeypatch, codec="fp16-zstd", **normalisation):
        monkeypatch.setattr(simulate, "RUN", folder / "run")
        (folder / "run").mkdir()
        toml = folder / "run" / "coordinator.toml"
        toml.write_text(
            simulate.fill(folder, NODES, rounds=3, seed=5).replace("[recipe]", f'[recipe]\ncodec = "{codec}"')
        )
        self.config = load(toml).model_copy(update={"normalisation": NormalisationSection(**normalisation)})
        init(self.config)
        self.engine = Engine()
        self.agents = enrolled(self.config, self.engine, folder, NODES)
        self.identity = fleets.read(self.config.state)
        self.registry = Registry(self.config.state)
        publisher = Publisher(self.config.state / "tuf")
        pool = open_pool(self.config, self.registry, self.identity.base_digest)
        self.rounds = Rounds(self.config, self.registry, publisher, pool=pool)
        self.rounds.publish()
        hours = itertools.count(0, 3600)
        self.desk = CheckInDesk(
            self.config, self.identity, self.registry, publisher, lambda: next(hours), pool
        )
        self.partitions = {
            node.node_id: int(node.name.removeprefix("node-")) for node in self.registry.nodes.all()
        }
        self._app = make_app(folder)
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = self.engine.run_id, 1, 1

    def exchange(self):
        """A check-in with every node, as the ServerApp does it."""
        for node_id, check_in, envelope in self.desk.plan(self.engine.run_id, list(self.partitions)):
            content = RecordDict({"envelope": ConfigRecord({"data": envelope})})
            node_config = {PARTITION: self.partitions[node_id]}
            context = Context(self.engine.run_id, node_id, node_config, RecordDict(), {})
            reply = self._app(Message(content, node_id, "query"), context)
            if reply.has_error():
                self.desk.failed(node_id, check_in, reply.error.reason)
            else:
                self.desk.answered(node_id, check_in, reply.content["envelope"]["data"])

    def known(self):
        return [self.desk.known(agent.node.name) for agent in self.agents]

    def until(self, what, condition):
        """Check-ins until `condition` holds."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"{what}: {[known.last_error for known in self.known()]}"
            self.exchange()


@contextlib.contextmanager
def running(fleet, monkeypatch, frames=5):
    """The stations of a fleet, each with one episode."""
    state = np.zeros((frames, 6), np.float32)
    split = Split((Episode("000000", "0" * 64, "push the red cube to the left", state, state, dict),), ())

    def trainer(base, split, folder, node):
        return lambda: ConstantTrainer(node, fleet.identity.base_digest)

    monkeypatch.setattr(station_module, "local_trainer", trainer)
    stop = threading.Event()
    turns = Turns()
    hosted = [Station(agent, split, turns) for agent in fleet.agents]
    thread = threading.Thread(target=lambda: asyncio.run(host(hosted, stop)))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        turns.close()


@pytest.fixture(params=["fp16-zstd"])
def fleet(tmp_path, monkeypatch, request):
    made = Fleet(tmp_path, monkeypatch, request.param)
    yield made
    made.registry.close()


@pytest.mark.parametrize("fleet", ["fp16-zstd", "int4-zstd"], indirect=True)
def test_nodes_on_their_sockets_make_a_version_that_can_be_computed_again(fleet, monkeypatch):
    with running(fleet, monkeypatch):
        fleet.until("updates of both nodes", lambda: len(fleet.registry.waiting()) == NODES)
        assert {update.node for update in fleet.registry.waiting()} == {"node-000", "node-001"}
        assert fleet.rounds.run_if_due() == 1
        fleet.until(
            "version 1 at both nodes", lambda: all(k.reply.held.candidate == 1 for k in fleet.known())
        )
        assert [known.reply.health.episodes_admitted for known in fleet.known()] == [1, 1]
    asked = fleet.config.recipe.codec
    assert {fleet.registry.updates.header(id)[0].codec for id in fleet.registry.updates.ids()} == {asked}
    assert verify(fleet.registry, 1)
    assert [part.staleness for part in fleet.registry.versions.manifest(1).contributions] == [0, 0]


def test_nodes_pool_their_statistics_and_train_with_what_came_out(tmp_path, monkeypatch):
    fleet = Fleet(tmp_path, monkeypatch, source="pooled", stations=NODES)
    monkeypatch.setattr(ConstantTrainer, "normalised_with", [])
    with running(fleet, monkeypatch, frames=120):
        fleet.until("statistics of both nodes", lambda: fleet.rounds.run_if_due() == 1)
        fleet.until("updates of both nodes", lambda: len(fleet.registry.waiting()) == NODES)
        assert {update.base_version for update in fleet.registry.waiting()} == {1}
        assert fleet.rounds.run_if_due() == 2
    statistics = fleet.registry.versions.manifest(2).normalisation
    assert statistics.state.count == NODES * 120
    assert ConstantTrainer.normalised_with == [statistics] * NODES
    fleet.registry.close()


def test_a_message_that_reaches_another_nodes_station_is_not_taken_for_its_own(fleet, monkeypatch):
    fleet.partitions = {node_id: 1 - partition for node_id, partition in fleet.partitions.items()}
    with running(fleet, monkeypatch):
        fleet.until("answers", lambda: all(known.last_error for known in fleet.known()))
    assert all("in the name of" in known.last_error and known.reply is None for known in fleet.known())
    assert fleet.registry.waiting() == []


def test_a_node_without_a_station_says_not_now(fleet):
    fleet.exchange()
    assert [known.last_error for known in fleet.known()] == ["not now", "not now"]


class WaitingTrainer(ConstantTrainer):
    """Waits until it is let go on."""

    def __init__(self, go):
        super().__init__("a", BASE_DIGEST)
        self._go = go

    def train(self, *arguments, **named):
        assert self._go.wait(PATIENCE_S)
        return super().train(*arguments, **named)


def refuse():
    raise ValueError("no base")


def test_one_node_trains_at_a_time_and_a_failure_makes_room_for_the_next(tmp_path):
    (tmp_path / "version").mkdir()
    write_adapter(tmp_path / "version", {"m": np.zeros(3, np.float32)}, {"peft_type": "LORA", "r": 1}, None)
    fields = {"version": 0, "folder": str(tmp_path / "version"), "learning_rate": 1e-3}
    order = fields | {"recipe": Recipe().model_dump(mode="json")}

    async def orders():
        turns, go, told = Turns(), threading.Event(), asyncio.Queue()
        first = TurnTaker(turns, lambda: WaitingTrainer(go), tmp_path / "outbox")
        second = TurnTaker(turns, refuse, tmp_path / "outbox")
        for taker in (first, second):
            taker.on_event = lambda name, fields: told.put_nowait((name, fields.get("what")))
        started = [(await taker.request("train", 10.0, **order))["started"] for taker in (first, second)]
        go.set()
        events = [await told.get()]
        for taker in (second, first):
            started.append((await taker.request("train", 10.0, **order))["started"])
            events.append(await told.get())
        turns.close()
        return started, events

    started, events = asyncio.run(orders())
    assert started == [True, False, True, True]
    assert events == [("update", None), ("failed", "training failed: no base"), ("update", None)]
    assert len(list((tmp_path / "outbox").iterdir())) == 2
