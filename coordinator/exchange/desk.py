"""The check-in desk: who is sent what, and what becomes of the answers. The ServerApp only carries bytes.

What is remembered here (who was asked when) may be lost with the process: a check-in that nobody remembers is
simply sent again, and an update that arrives twice is dropped by its id.
"""

import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from loguru import logger

from coordinator.config import CoordinatorConfig
from coordinator.enrolment.fleet import Fleet
from coordinator.exchange import plan
from coordinator.exchange.intake import Expected, check_update, read_reply
from coordinator.exchange.schedule import learning_rate
from coordinator.registry.registry import Registry
from coordinator.registry.statistics import StatisticsPool
from coordinator.registry.targets import Publisher
from shared.adapters import Tensors
from shared.envelope import pack
from shared.errors import ArmfleetError
from shared.limits import MAX_MESSAGE_BYTES
from shared.messages import (
    MAX_WHY,
    CheckIn,
    CheckInReply,
    FieldResult,
    JudgedVersion,
    StatisticsWanted,
    UpdateHeader,
)
from shared.normalisation import Statistics
from shared.recipe import Recipe

ACKNOWLEDGED = 8
"""Ids of a node's latest updates that every check-in repeats. A check-in brings one update; should more
acknowledgements than this get lost in a row, the update comes again and is acknowledged as a duplicate."""
RESEND_S = 60.0
"""A payload that a node was sent and does not report (it may not want that slot) is sent again after this."""


@dataclass
class Desk:
    """What is known of one node since this process started."""

    contact: plan.Contact = field(default_factory=plan.Contact)
    check_in: str = ""
    """Id of the last check-in."""
    reply: CheckInReply | None = None
    replied_at: datetime | None = None
    to_acknowledge: deque[str] = field(default_factory=lambda: deque(maxlen=ACKNOWLEDGED))
    """Updates that came again although they are old."""
    sent: dict[str, float] = field(default_factory=dict)
    """When a payload was last sent, by its SHA-256."""
    last_error: str = ""
    told: dict[str, int] = field(default_factory=dict)
    """The versions on offer as of its last check-in."""


class CheckInDesk:
    """One call at a time (the daemon holds a lock); `known` and `is_online` may be asked at any time."""

    def __init__(
        self,
        config: CoordinatorConfig,
        fleet: Fleet,
        registry: Registry,
        publisher: Publisher,
        clock: Callable[[], float] = time.monotonic,
        pool: StatisticsPool | None = None,
    ) -> None:
        self._pool = pool
        self._config, self._fleet, self._registry, self._publisher = config, fleet, registry, publisher
        self._clock = clock
        exchange = config.exchange
        self._pace = plan.Pace(exchange.check_in_s, exchange.ttl_s, exchange.max_in_flight)
        self._desks: dict[int, Desk] = {}
        self._names: dict[int, str] = {}
        self._run_id: int | None = None
        self._like: Tensors = registry.versions.adapter(0)[0]
        self.online: set[int] = set()
        """Node ids of the last plan."""
        self.asked_at: float | None = None
        """When the ServerApp last asked for a plan."""
        for node in registry.nodes.all():
            self.add_node(node.name, node.node_id)

    def add_node(self, name: str, node_id: int) -> None:
        """A node has joined."""
        self._names[node_id] = name
        self._desks.setdefault(node_id, Desk())

    def known(self, name: str) -> Desk | None:
        """What is known of the node `name`."""
        return next((self._desks[node_id] for node_id, known in self._names.items() if known == name), None)

    def is_online(self, name: str) -> bool:
        """Whether the SuperLink reached the node at the last plan."""
        return any(known == name and node_id in self.online for node_id, known in self._names.items())

    def plan(self, run_id: int, online: list[int]) -> list[tuple[int, str, bytes]]:
        """Check-ins to be sent now: (node id, check-in id, envelope). What would make them too large together
        comes with the next plan."""
        now = self._clock()
        if run_id != self._run_id:
            self._forget_flights("a new run began")
            self._run_id = run_id
        self.online, self.asked_at = set(online), now
        contacts = {node_id: desk.contact for node_id, desk in self._desks.items()}
        for node_id in plan.expired(contacts, now, self._pace):
            self.failed(node_id, self._desks[node_id].check_in, "no answer within its time to live")
        slots, buffered = self._publisher.slots(), {update.node for update in self._registry.waiting()}
        contacts = {
            node_id: replace(desk.contact, quiet=self._names[node_id] in buffered and desk.told == slots)
            for node_id, desk in self._desks.items()
        }
        due = plan.due(contacts, online, now, self._pace)
        composed: list[tuple[int, str, bytes]] = []
        for node_id in due:
            if sum(len(envelope) for _, _, envelope in composed) >= MAX_MESSAGE_BYTES:
                break
            composed.append(self._compose(node_id, now, slots, self._names[node_id] in buffered))
        return composed

    def failed(self, node_id: int, check_in: str, reason: str) -> None:
        """A check-in was not answered; the next one is sent when its time comes."""
        desk = self._desks.get(node_id)
        if desk is None or desk.check_in != check_in:
            return
        desk.contact = plan.Contact(desk.contact.last_sent, in_flight=False)
        desk.sent.clear()
        desk.told = {}
        desk.last_error = reason
        logger.bind(node=self._names[node_id]).warning(
            "{} did not answer its check-in: {}", self._names[node_id], reason
        )

    def answered(self, node_id: int, check_in: str, data: bytes) -> None:
        """Take in an answer. What can't be used is refused with a line in the log; nothing is raised."""
        desk = self._desks.get(node_id)
        if desk is None:
            logger.warning("an answer came from node {}, which is not enrolled", node_id)
            return
        name = self._names[node_id]
        if desk.check_in == check_in:
            desk.contact = plan.Contact(desk.contact.last_sent, in_flight=False)
        try:
            reply, delta = read_reply(data, name, check_in)
        except ArmfleetError as error:
            desk.last_error = error.what
            logger.bind(node=name).error("an answer of {} was dropped: {}", name, error)
            return
        desk.reply, desk.replied_at, desk.last_error = reply, datetime.now(UTC), reply.refused or ""
        if reply.refused:
            desk.sent.clear()
            logger.bind(node=name).warning("{} refused what its check-in carried: {}", name, reply.refused)
        if reply.update is not None and delta is not None:
            self._take(desk, name, reply.update, delta)
        if reply.statistics is not None and self._pool is not None:
            self._take_statistics(self._pool, desk, name, reply.statistics)
        self._take_field(name, reply.field or [])

    def recipe_wanted(self) -> str:
        """Empty while training is asked for; else why not."""
        if self._pool is not None and self._pool.frozen is None:
            return self._pool.sentence
        if self._pool is not None and not self._publisher.slots().get("candidate"):
            return "the version with the federation's normalisation is being made"
        rounds = self._config.aggregation.rounds
        return f"all {rounds} rounds are done" if self._rounds_done() >= rounds else ""

    @property
    def normalisation(self) -> str:
        """Which statistics normalise states and actions, for people."""
        return self._pool.sentence if self._pool is not None else "the base's own"

    # ------------------------------------------------------------------ inside

    def _take(self, desk: Desk, name: str, header: UpdateHeader, delta: bytes) -> None:
        log = logger.bind(node=name, update=header.id)
        if header.id in self._registry.updates:
            desk.to_acknowledge.append(header.id)
            log.info("update {} of {} came again and was dropped", header.id, name)
            return
        expected = self._expected(header.base_version)
        try:
            check_update(header, delta, name, expected)
        except ArmfleetError as error:
            if header.node == name:
                self._registry.refuse(header, error.what)
            log.error("{}", error)
            return
        self._registry.accept(header, delta)
        log.info(
            "update {} of {} from version {} is in ({} bytes)",
            header.id,
            name,
            header.base_version,
            len(delta),
        )

    def _expected(self, base_version: int) -> Expected:
        """Of an update from this version."""
        versions = self._registry.versions
        numbers = versions.numbers()
        base = versions.manifest(base_version).tensors_digest if base_version in numbers else ""
        return Expected(self._fleet.base_digest, numbers, self._like, self._first_trained(), base)

    def _first_trained(self) -> int:
        """The first version that updates may begin from; one to come while statistics are collected."""
        first = self._registry.first()
        return self._registry.newest() + 1 if self._pool is not None and first == 0 else first

    def _take_statistics(self, pool: StatisticsPool, desk: Desk, name: str, statistics: Statistics) -> None:
        try:
            pool.report(name, statistics)
        except ArmfleetError as error:
            desk.last_error = error.what
            logger.bind(node=name).error("{}", error)

    def _take_field(self, name: str, results: list[FieldResult]) -> None:
        """Of the versions that can still be judged; a late answer may speak of others."""
        judged = set(self._publisher.slots().values())
        self._registry.field.report(name, [result for result in results if result.version in judged])

    def _compose(
        self, node_id: int, now: float, slots: dict[str, int], buffered: bool
    ) -> tuple[int, str, bytes]:
        desk, name = self._desks[node_id], self._names[node_id]
        recipe, rate = self._training()
        reports = desk.reply is not None and desk.reply.field is not None
        check_in = CheckIn(
            id=uuid.uuid4().hex,
            fleet=self._fleet.name,
            sent_at=datetime.now(UTC),
            acknowledged=self._acknowledged(desk, name),
            buffered=buffered,
            base_digest=self._fleet.base_digest,
            promoted=slots.get("promoted"),
            candidate=slots.get("candidate"),
            recipe=recipe,
            learning_rate=rate,
            statistics=self._statistics_wanted(),
            judged=self._judged(slots) if reports else None,
            why=self._why() if reports else None,
        )
        blobs = self._bundle(desk, now)
        desk.contact = plan.Contact(last_sent=now, in_flight=True)
        desk.check_in, desk.told = check_in.id, slots
        return node_id, check_in.id, pack(check_in, blobs)

    def _training(self) -> tuple[Recipe | None, float]:
        """The recipe and its learning rate now; None and 0 when no training is wanted."""
        if self.recipe_wanted():
            return None, 0.0
        recipe = self._config.recipe
        return recipe, learning_rate(recipe, self._rounds_done(), self._config.aggregation.rounds)

    def _rounds_done(self) -> int:
        return self._registry.newest() - self._registry.first()

    def _statistics_wanted(self) -> StatisticsWanted | None:
        if self._pool is None or self._pool.frozen is not None:
            return None
        never_train = self._config.recipe.never_train
        return StatisticsWanted(stations=self._pool.missing, never_train=never_train)

    def _judged(self, slots: dict[str, int]) -> list[JudgedVersion]:
        """The promoted version first, then the one before it, then the newest."""
        numbers = dict.fromkeys(
            slots[slot] for slot in ("promoted", "previous", "candidate") if slot in slots
        )
        digests = {number: self._registry.versions.manifest(number).tensors_digest for number in numbers}
        return [JudgedVersion(version=number, tensors_digest=digest) for number, digest in digests.items()]

    def _why(self) -> str:
        """The last decision on which version the arms run, in a line."""
        reason = self._registry.versions.decision(self._registry.promoted()).reason
        return "".join(letter if letter.isprintable() else " " for letter in reason)[:MAX_WHY]

    def _acknowledged(self, desk: Desk, name: str) -> list[str]:
        return list(
            dict.fromkeys((*desk.to_acknowledge, *self._registry.index.latest_of(name, ACKNOWLEDGED)))
        )

    def _bundle(self, desk: Desk, now: float) -> dict[str, bytes]:
        held = desk.reply.held if desk.reply else None
        adapters = set(held.adapters) if held else set()
        adapters |= {digest for digest, at in desk.sent.items() if now - at < RESEND_S}
        bundle = self._publisher.bundle_for(held.tuf if held else {}, adapters)
        desk.sent.update({name.split(".")[0]: now for name in bundle if not name.endswith(".json")})
        return bundle

    def _forget_flights(self, why: str) -> None:
        for desk in self._desks.values():
            if desk.contact.in_flight:
                logger.debug("a check-in is given up: {}", why)
                desk.contact = plan.Contact(desk.contact.last_sent, in_flight=False)
                desk.sent.clear()
