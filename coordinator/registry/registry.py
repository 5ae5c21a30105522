"""The coordinator's memory: folders that hold the truth, an index over them, and the rules that join them.

One process at a time opens a state folder (a lock file sees to that); inside it, methods may be called from
any thread: those that change something take one lock.
"""

import fcntl
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, Any

from loguru import logger

from coordinator.aggregation.buffer import Waiting
from coordinator.aggregation.rule import Rule
from coordinator.aggregation.version import Input, Result
from coordinator.registry.field import FieldStore
from coordinator.registry.index import Index
from coordinator.registry.nodes import Node, NodeStore
from coordinator.registry.rows import all_rows, node_row, update_row, version_row
from coordinator.registry.targets import Offer
from coordinator.registry.updates import UpdateStore
from coordinator.registry.versions import Decision, Evaluation, State, VersionStore
from shared.adapters import Contribution, Manifest, Tensors, digest
from shared.codec import decode
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.messages import UpdateHeader
from shared.normalisation import Statistics
from shared.recipe import Recipe

NO_RULE = Rule(0.0, 0.0, 1.0, 1)
"""Of versions that were not made from updates."""


class Registry:
    """Nodes, updates, versions and field results in `state_dir`."""

    def __init__(self, state_dir: Path) -> None:
        """Open, clear away what a killed process left half-written, and rebuild the index.

        Raises:
            ArmfleetError: ALREADY_RUNNING, another process has it open; REGISTRY_DAMAGED.
        """
        self._claim = _claim(state_dir / "lock")
        self.versions = VersionStore(state_dir / "versions")
        self.updates = UpdateStore(state_dir / "updates", state_dir / "refused")
        self.nodes = NodeStore(state_dir / "nodes")
        self.field = FieldStore(state_dir / "field")
        self._lock = threading.RLock()
        stores = (self.versions, self.updates, self.nodes, self.field)
        for name in [name for store in stores for name in store.removed]:
            logger.warning("removed {}, half-written when the last process ended", name)
        self.index = Index(state_dir / "registry.sqlite")
        self._rebuild()

    def close(self) -> None:
        """Close the index and let go of the folder."""
        self.index.close()
        self._claim.close()

    # ------------------------------------------------------------------ nodes

    def add_node(self, node: Node) -> None:
        """Enrol, or replace the node of that name."""
        with self._lock:
            self.nodes.write(node)
            self.index.put([node_row(node)])

    # ---------------------------------------------------------------- updates

    def accept(self, header: UpdateHeader, delta: bytes) -> bool:
        """Make a validated update durable; False when it (or a refusal of it) is already."""
        with self._lock:
            if header.id in self.updates:
                return False
            received = self.updates.accept(header, delta)
            self.index.put([update_row(header, received, len(delta))])
            return True

    def refuse(self, header: UpdateHeader, reason: str) -> bool:
        """Keep the header of an unusable update and why; False when it is known already."""
        with self._lock:
            if header.id in self.updates:
                return False
            received = self.updates.refuse(header, reason)
            self.index.put([update_row(header, received, 0)])
            return True

    def waiting(self) -> list[Waiting]:
        """The buffer: accepted updates that no version contains.

        All began from a version that is here and has the present normalisation: others are set aside when the
        registry is opened, and by `begin_anew`.
        """
        rows = self.index.waiting()
        return [Waiting(row.id, row.node, row.base_version, row.received) for row in rows]

    def inputs(self, update_ids: list[str], like: Tensors) -> list[Input]:
        """Updates for a round, read from their folders when needed; `like` gives names and shapes."""

        def delta_of(header: UpdateHeader) -> Tensors:
            return decode(self.updates.delta(header.id), like, header.codec)

        def tensors_of(version: int) -> Tensors:
            return self.versions.adapter(version)[0]

        headers = [self.updates.header(update_id)[0] for update_id in update_ids]
        return [
            Input(
                update_id=header.id,
                node=header.node,
                base_version=header.base_version,
                examples=header.examples,
                read=partial(delta_of, header),
                read_base=partial(tensors_of, header.base_version),
            )
            for header in headers
        ]

    # --------------------------------------------------------------- versions

    def newest(self) -> int:
        """Number of the newest version."""
        return self.versions.numbers()[-1]

    def recent_contributions(self, count: int) -> list[list[Contribution]]:
        """What the newest `count` versions were made of, newest first."""
        numbers = self.versions.numbers()[::-1][:count]
        return [self.versions.manifest(number).contributions for number in numbers]

    def first(self) -> int:
        """Number of the version that the newest descends from: 0, or the one that brought the federation's
        own normalisation. Updates that began before it were trained in another space."""
        return max(row.number for row in self.index.versions() if row.parent is None)

    def promoted(self) -> int:
        """Number of the promoted version."""
        with self._lock:  # in the middle of a promotion there are two
            return self._with_state("promoted")[-1]

    def previous(self) -> int | None:
        """The version that was promoted before the present one and not rolled back; None: there was none."""
        with self._lock:
            superseded = self._with_state("superseded")
            times = {number: self.versions.decision(number).promoted for number in superseded}
        former = [(time, number) for number, time in times.items() if time is not None]
        return max(former)[1] if former else None

    def add_version(self, parent: int, result: Result, rule: Rule, recipe: Recipe) -> int:
        """Make the version after `parent` durable, as a candidate; returns its number."""
        with self._lock:
            before = self.versions.manifest(parent)
            manifest = Manifest(
                version=parent + 1,
                parent=parent,
                base_digest=before.base_digest,
                tensors_digest=digest(result.tensors, before.normalisation),
                recipe=recipe,
                normalisation=before.normalisation,
                contributions=result.contributions,
                remembered=result.remembered,
                metrics=result.metrics,
                created=_now(),
            )
            _, config = self.versions.adapter(parent)
            decision = _decision("candidate", f"a round of {len(result.contributions)} updates")
            self.versions.create(manifest, result.tensors, config, result.server_state, rule, decision)
            self._index_version(manifest.version)
            return manifest.version

    def begin_anew(self, normalisation: Statistics) -> int:
        """Make version 0's adapter once more, as a candidate to which these statistics belong; returns its
        number. Like version 0 it has no parent: nothing was trained yet."""
        with self._lock:
            first, number = self.versions.manifest(0), self.newest() + 1
            tensors, config = self.versions.adapter(0)
            changes = {
                "version": number,
                "tensors_digest": digest(tensors, normalisation),
                "normalisation": normalisation,
                "created": _now(),
            }
            decision = _decision("candidate", "version 0 with the federation's own normalisation")
            self.versions.create(first.model_copy(update=changes), tensors, config, {}, NO_RULE, decision)
            self._index_version(number)
            self._set_aside_unusable()
            return number

    def decide(self, number: int, state: State, reason: str, rolled_back_from: int | None = None) -> None:
        """Move a version to another state; raises as `VersionStore.decide`."""
        with self._lock:
            self.versions.decide(number, state, reason, rolled_back_from)
            self._index_version(number)
        logger.bind(version=number, state=state).info("version {} is {}: {}", number, state, reason)

    def promote(self, number: int, reason: str) -> None:
        """Make `number` the promoted version; the present one becomes superseded.

        The new one is marked first: after a kill in between two are promoted, and opening the registry keeps
        the one that was promoted last.
        """
        with self._lock:
            before = self.promoted()
            self.decide(number, "promoted", reason)
            self.decide(before, "superseded", f"version {number} was promoted")

    def roll_back(self, reason: str, judged: int | None = None) -> int:
        """Promote the previous version again and mark the present one as rolled back; returns its number.

        Args:
            reason: For people.
            judged: The version that the reason speaks of; None: whichever is promoted.

        Raises:
            ArmfleetError: there is no previous version, or another one than `judged` is promoted by now.
        """
        with self._lock:
            present, previous = self.promoted(), self.previous()
            if judged not in (None, present):
                raise ArmfleetError(f"version {judged} is not promoted any more", kept=f"version {present}")
            if previous is None:
                raise ArmfleetError("no version was promoted before this one", kept=f"version {present}")
            why = f"rolled back to, from version {present}: {reason}"
            self.decide(previous, "promoted", why, rolled_back_from=present)
            self.decide(present, "rolled_back", reason)
            return previous

    def record_evaluation(self, number: int, evaluation: Evaluation) -> None:
        """Keep an evaluation's result."""
        with self._lock:
            self.versions.record_evaluation(number, evaluation)

    def offers(self) -> dict[str, Offer]:
        """Which version belongs in which slot now."""
        with self._lock:
            slots = {"promoted": self.promoted(), "candidate": self.newest()}
            previous = self.previous()
            if previous is not None:
                slots["previous"] = previous
            return {slot: self._offer(number) for slot, number in slots.items()}

    # ----------------------------------------------------------------- inside

    def _offer(self, number: int) -> Offer:
        manifest = self.versions.manifest(number)
        return Offer(number, manifest.tensors_digest, manifest.base_digest, self.versions.packed(number))

    def _with_state(self, *states: str) -> list[int]:
        return [row.number for row in self.index.versions() if row.state in states]

    def _rebuild(self) -> None:
        self.index.fill(all_rows(self.nodes, self.updates, self.versions))
        self._settle_promotion()
        self._set_aside_unusable()
        self.field.forget_all_but(self.versions.numbers())

    def _set_aside_unusable(self) -> None:
        """Take updates out of the buffer that no round can use, for good: a removed version's number is given
        again, and they began from other tensors than those that will have it."""
        present = set(self.versions.numbers())
        first = self.first() if present else 0
        for update in self.waiting():
            began = f"update {update.update_id} of {update.node} began from version {update.base_version}"
            if update.base_version not in present:
                reason = f"{began}, which is gone"
            elif update.base_version < first:
                reason = (
                    f"{began}, whose normalisation is the base's own: that of the fleet begins with version "
                    f"{first}"
                )
            else:
                continue
            self.updates.set_aside(update.update_id, reason)
            self.index.refuse(update.update_id, reason)
            logger.bind(update=update.update_id, node=update.node).warning("set aside: {}", reason)

    def _settle_promotion(self) -> None:
        """Finish a promotion or a roll-back that a kill interrupted."""
        promoted = self._with_state("promoted")
        latest = max(promoted, key=lambda number: self.versions.decision(number).changed, default=None)
        if latest is not None:
            decision = self.versions.decision(latest)
            for number in promoted:
                if number == decision.rolled_back_from:
                    self.decide(number, "rolled_back", decision.reason)
                elif number != latest:
                    self.decide(number, "superseded", f"version {latest} was promoted")
        elif (former := self.previous()) is not None:
            self.decide(former, "promoted", "the version that was promoted after it is gone")
        elif self.versions.numbers():
            raise ArmfleetError(
                "no version is promoted",
                kept="all versions and updates",
                do="restore the state.json files of versions/ from a backup",
                code=ExitCode.REGISTRY_DAMAGED,
            )

    def _index_version(self, number: int) -> None:
        self.index.put([version_row(self.versions, number)])
        parts = self.versions.manifest(number).contributions
        self.index.assign(number, {part.update_id: part.staleness for part in parts})


def create_first_version(
    state_dir: Path, tensors: Tensors, peft_config: Mapping[str, Any], base_digest: str, recipe: Recipe
) -> None:
    """Write version 0, the adapter that changes nothing yet; it is promoted, so there always is one."""
    manifest = Manifest(
        version=0,
        parent=None,
        base_digest=base_digest,
        tensors_digest=digest(tensors),
        recipe=recipe,
        created=_now(),
    )
    decision = _decision("promoted", "the first version: the base policy unchanged")
    store = VersionStore(state_dir / "versions")
    store.create(manifest, tensors, peft_config, {}, NO_RULE, decision)


def _claim(path: Path) -> IO[str]:
    """Hold the state folder until the file is closed or the process ends, however it ends (flock(2))."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise ArmfleetError(
            f"another coordinator works in {path.parent}",
            kept="everything; this one has touched nothing",
            do="stop it first: systemctl stop armfleet-coordinator",
            code=ExitCode.ALREADY_RUNNING,
        ) from error
    return file


def _decision(state: State, reason: str) -> Decision:
    now = datetime.now(UTC)
    return Decision(state=state, reason=reason, changed=now, promoted=now if state == "promoted" else None)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
