"""A virtual node's station: what its agent has once it joined, on a Unix socket, without arm and processes.

Inbox, outbox, exchange and learning are the agent's own. Only the trainer is shared (`turns`), and no policy
runs.
"""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from loguru import logger
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agent.activity import Activity
from agent.config import AgentConfig
from agent.exchange.enrolment import FILE, NODE_KEY, TUF_ROOT, Enrolment
from agent.membership import Membership, prepare
from agent.supervision import Worker, WorkerSpec
from agent.training.data import Split, without_tasks
from agent.training.statistics import of_episodes
from benchmarks.simulate.turns import Turns, TurnTaker, local_trainer
from coordinator.config import CoordinatorConfig
from coordinator.enrolment.fleet import Fleet
from shared.files import write_atomic
from shared.messages import Health
from shared.uds import serve

TICK_S = 0.2
"""Pause between two looks whether there is something to train on."""


def agent_config(name: str, folder: Path, socket: Path, base: str) -> AgentConfig:
    """Of a machine without an arm."""
    return AgentConfig.model_validate(
        {
            "node": {"name": name, "state_dir": folder, "socket": socket},
            "policy": {"base": base},
        }
    )


def enrol(config: AgentConfig, coordinator: CoordinatorConfig, fleet: Fleet, tuf_root: bytes) -> str:
    """Write the enrolment as `armfleet join` does, with a new key, but ask nobody; no SuperNode runs, so that
    neither a certificate nor a superexec secret is needed.

    Returns:
        The public key in OpenSSH's form.
    """
    folder, key = config.enrolment_dir, ec.generate_private_key(ec.SECP384R1())
    folder.mkdir(parents=True)
    write_atomic(folder / NODE_KEY, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    write_atomic(folder / TUF_ROOT, tuf_root)
    enrolment = Enrolment(
        fleet=fleet.name,
        node=config.node.name,
        url=coordinator.public.url,
        base_digest=fleet.base_digest,
        joined=datetime.now(UTC),
    )
    write_atomic(folder / FILE, enrolment.model_dump_json(indent=1) + "\n")
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


class Station:
    """One node's station.

    Args:
        config: Of its agent, enrolled.
        split: Its part of the pool.
        turns: Of all stations.
    """

    def __init__(self, config: AgentConfig, split: Split, turns: Turns) -> None:
        self._config, self._split = config, split
        make = local_trainer(config.policy.base, split, config.training_dir, config.node.name)
        trainer = TurnTaker(turns, make, config.outbox_dir)
        self._membership = Membership(
            config,
            prepare(config),
            Worker(WorkerSpec("policy", ())),  # never started
            trainer,  # type: ignore[arg-type]
            rolling_out=lambda: False,
            training_episodes=lambda: len(split.train),
            describe=self._describe,
            statistics=lambda never_train: of_episodes(without_tasks(split.train, never_train)),
            field=lambda judged: [],
        )
        trainer.on_event = self._membership.learning.on_event

    async def run(self, stop: asyncio.Event) -> None:
        """Answer check-ins, and train when the agent would, until `stop` is set."""
        app = Starlette(routes=[Route("/exchange/check-in", self._check_in, methods=["POST"])])
        with logger.contextualize(node=self._config.node.name):  # for lines of the agent's code, too
            async with asyncio.TaskGroup() as group:
                working = group.create_task(self._work())
                await serve(app, self._config.node.socket, stop)
                working.cancel()

    async def _check_in(self, request: Request) -> Response:
        return Response(await self._membership.exchange.check_in(await request.body()))

    async def _work(self) -> None:
        learning = self._membership.learning
        while True:
            if learning.work().open:
                await learning.allow()
            await asyncio.sleep(TICK_S)

    def _describe(self) -> tuple[Activity, Health]:
        busy = self._membership.learning.busy
        health = Health(episodes_admitted=len(self._split.train))
        return Activity.TRAIN if busy else Activity.IDLE, health
