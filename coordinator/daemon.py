"""The coordinator's daemon: owns the registry, aggregates, has versions evaluated, promotes, keeps the run.

An asyncio process without torch. It may be killed at any instant: folders are whole or absent, the index is
rebuilt, signed slots are brought in line with the registry, and the Flower run is taken up again.
"""

import asyncio
import errno
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from loguru import logger

from coordinator.api import ControlApi
from coordinator.config import CoordinatorConfig, load
from coordinator.enrolment import fleet as fleets
from coordinator.enrolment.api import Enrolment
from coordinator.enrolment.invitations import Invitations
from coordinator.enrolment.setup import invite
from coordinator.evaluation.jobs import EvaluationJobs
from coordinator.evaluation.runner import EvaluationRunner
from coordinator.evaluation.unseen import may_train, warning
from coordinator.exchange import app_bundle
from coordinator.exchange.desk import CheckInDesk
from coordinator.exchange.run_keeper import RunKeeper
from coordinator.exchange.superlink import SuperLink
from coordinator.field_watch import FieldWatch
from coordinator.layout import CA_CERT, CA_FOLDER, RUN_FILE
from coordinator.registry.nodes import Node
from coordinator.registry.registry import Registry
from coordinator.registry.statistics import open_pool
from coordinator.registry.targets import Publisher
from coordinator.rounds import Rounds
from coordinator.status import Reporter
from shared import systemd
from shared.adapters import check_size
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.logging import setup_logging
from shared.policy.source import check_delay
from shared.uds import serve

ROUND_LOOK_S = 1.0
"""How often the buffer is looked at without a new update (for T)."""
RUN_LOOK_S = 3.0
RENEW_LOOK_S = 3600.0
STATUS_S = 5.0
"""How often systemd is told what goes on (more often if its watchdog asks for it)."""
STARTED_S = 300.0
"""Longest wait for the two sockets: on a busy machine they come minutes late, and nothing is lost by that."""


def main(config_path: Path) -> int:
    """Run until SIGTERM or SIGINT; returns the exit status."""
    setup_logging("coordinator")
    try:
        asyncio.run(Daemon(load(config_path), config_path).run())
    except ArmfleetError as error:
        logger.error("{}", error)
        return error.code
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        full = ArmfleetError(
            f"the coordinator's disk is full ({error})",
            kept="all versions and updates; workstations keep theirs in their outboxes",
            do="make room for [coordinator] state_dir; systemd starts the coordinator again",
            code=ExitCode.DISK_FULL,
        )
        logger.error("{}", full)
        return full.code
    return ExitCode.OK


class Daemon:
    """Wires the parts together."""

    def __init__(self, config: CoordinatorConfig, config_path: Path) -> None:
        """Open the state folder.

        Raises:
            ArmfleetError: no fleet there, or something in it is damaged; BASE_MISMATCH: the recipe does not
                fit the base.
        """
        check_delay(config.policy.base, config.recipe)
        if taught := may_train(config.evaluation, config.recipe):
            logger.warning("{}", warning(list(taught.values()), config.recipe))
        self._config, state = config, config.state
        self._fleet = fleets.read(state)
        self._registry = Registry(state)
        check_size(self._registry.versions.adapter(0)[0], config.recipe.rank)
        self._publisher = Publisher(state / "tuf")
        pool = open_pool(config, self._registry, self._fleet.base_digest)
        self._rounds = Rounds(config, self._registry, self._publisher, pool=pool)
        self._superlink = SuperLink(config.superlink.address, (state / CA_FOLDER / CA_CERT).read_bytes())
        self._keeper = RunKeeper(self._superlink, lambda: app_bundle.build(config), state / RUN_FILE)
        self._desk = CheckInDesk(config, self._fleet, self._registry, self._publisher, pool=pool)
        self._invitations = Invitations(state / "invitations")
        self._field = FieldWatch(config.promotion, self._registry)
        jobs = EvaluationJobs(config, self._registry)
        self._evaluation = EvaluationRunner(config, config_path, jobs, self._publish)
        self._reporter = Reporter(
            config,
            self._fleet,
            self._registry,
            self._desk,
            self._rounds,
            self._keeper,
            self._evaluation,
            self._field,
        )
        self._stop, self._update_came, self._desk_lock = asyncio.Event(), asyncio.Event(), asyncio.Lock()

    async def run(self) -> None:
        """Serve until asked to stop; a part that fails unexpectedly ends the daemon (systemd restarts it)."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        await self._publish()
        servers = [
            serve(self._control_api(), self._config.coordinator.socket, self._stop),
            serve(self._enrolment().app(), self._config.coordinator.enrol_socket, self._stop),
        ]
        workers = [
            self._aggregate(),
            self._evaluation.run(),
            _each(RUN_LOOK_S, lambda: asyncio.to_thread(self._keeper.check)),
            _each(RENEW_LOOK_S, self._renew),
            _each(min(STATUS_S, systemd.watchdog_interval_s() or STATUS_S), self._tell_systemd),
            self._say_ready(),
        ]
        await self._until_stopped(servers, workers)
        self._registry.close()
        logger.info("coordinator of fleet {} has stopped", self._fleet.name)

    async def _until_stopped(
        self, servers: list[Coroutine[Any, Any, None]], workers: list[Coroutine[Any, Any, None]]
    ) -> None:
        serving = [asyncio.create_task(server) for server in servers]
        working = [asyncio.create_task(worker) for worker in workers]
        stopping = asyncio.create_task(self._wait_for_stop())
        done, _ = await asyncio.wait({stopping, *serving, *working}, return_when=asyncio.FIRST_COMPLETED)
        systemd.notify_stopping()
        self._stop.set()
        for task in working:
            task.cancel()
        await asyncio.gather(*working, *serving, return_exceptions=True)
        for task in done - {stopping}:
            task.result()

    async def _wait_for_stop(self) -> None:
        await self._stop.wait()

    # -------------------------------------------------------------------- loops

    async def _aggregate(self) -> None:
        while True:
            while await asyncio.to_thread(self._rounds.run_if_due) is not None:
                pass
            if await asyncio.to_thread(self._field.look) is not None:
                await self._publish()
            self._update_came.clear()
            try:
                await asyncio.wait_for(self._update_came.wait(), ROUND_LOOK_S)
            except TimeoutError:
                continue

    async def _say_ready(self) -> None:
        """Tell systemd once both sockets are there; then there is nothing left to do."""
        sockets = (self._config.coordinator.socket, self._config.coordinator.enrol_socket)
        async with asyncio.timeout(STARTED_S):
            while not all(path.exists() for path in sockets):
                await asyncio.sleep(0.05)
        systemd.notify_ready("running")
        logger.info("coordinator of fleet {} is running", self._fleet.name)
        await self._stop.wait()

    async def _publish(self) -> None:
        if await asyncio.to_thread(self._rounds.publish):
            logger.info("signed: {}", ", ".join(f"{s} = {v}" for s, v in self._publisher.slots().items()))

    async def _renew(self) -> None:
        if renewed := await asyncio.to_thread(self._publisher.renew):
            logger.info("signed again before expiry: {}", ", ".join(renewed))

    async def _tell_systemd(self) -> None:
        systemd.ping_watchdog()
        sentence = await asyncio.to_thread(self._reporter.exchange_sentence)
        systemd.notify_status(f"{sentence}; {self._evaluation.sentence}; {self._rounds.outlook()}")

    # --------------------------------------------------------------------- APIs

    def _control_api(self) -> Any:
        return ControlApi(
            self._reporter,
            self._registry,
            self._desk,
            self._keeper,
            self._desk_lock,
            self._config.exchange.ttl_s,
            invite=lambda name: invite(
                self._config, self._fleet, self._invitations, self._publisher.root, name
            ),
            publish=self._publish,
            on_update=self._update_came.set,
        ).app()

    def _enrolment(self) -> Enrolment:
        def joined(node: Node) -> None:
            self._desk.add_node(node.name, node.node_id)

        return Enrolment(
            self._config, self._fleet, self._registry, self._invitations, self._superlink, joined
        )


async def _each(period_s: float, act: Callable[[], Coroutine[Any, Any, None]]) -> None:
    while True:
        await act()
        await asyncio.sleep(period_s)
