"""One step of the federation: flush the buffer, make the next version, publish it."""

import time
from collections.abc import Callable

from loguru import logger

from coordinator.aggregation import buffer
from coordinator.aggregation.memory import remembered
from coordinator.aggregation.version import Result, make_version
from coordinator.config import CoordinatorConfig
from coordinator.registry.registry import Registry
from coordinator.registry.statistics import StatisticsPool
from coordinator.registry.targets import Publisher
from shared.adapters import digest
from shared.errors import ArmfleetError


class Rounds:
    """Blocking (some ten milliseconds for the tiny base); one call at a time."""

    def __init__(
        self,
        config: CoordinatorConfig,
        registry: Registry,
        publisher: Publisher,
        clock: Callable[[], float] = time.time,
        pool: StatisticsPool | None = None,
    ) -> None:
        self._pool = pool
        self._registry, self._publisher, self._clock = registry, publisher, clock
        self._settings, self._recipe = config.aggregation, config.recipe
        self._rule = self._settings.rule()
        self._failed: tuple[buffer.Waiting, ...] = ()
        self._trouble = ""

    def run_if_due(self) -> int | None:
        """Make a version if statistics were frozen or the buffer says so; returns its number.

        Updates of which none can be made are not tried again before another one came: `outlook` and the log
        say so meanwhile.
        """
        if self._pool is not None and self._registry.first() == 0:
            return self._begin_anew(self._pool)
        settings = self._settings
        flush = buffer.due(
            self._registry.waiting(),
            self._clock(),
            settings.buffer_size,
            settings.max_wait_s,
            self._rule.stations_needed,
        )
        if flush is None or flush.updates == self._failed:
            return None
        parent = self._registry.newest()
        try:
            result = self._computed(parent, flush)
        except (ArmfleetError, ValueError, ArithmeticError) as error:
            self._failed, self._trouble = flush.updates, self._say_failed(flush, error)
            return None
        self._failed, self._trouble = (), ""
        number = self._registry.add_version(parent, result, self._rule, self._recipe)
        self.publish()
        earlier = ", ".join(part.node for part in result.remembered)
        logger.bind(version=number).info(
            "version {} was made of {} (staleness {}){}: {}",
            number,
            ", ".join(part.node for part in result.contributions),
            ", ".join(str(part.staleness) for part in result.contributions),
            f", remembering {earlier}" if earlier else "",
            flush.reason,
        )
        return number

    def _begin_anew(self, pool: StatisticsPool) -> int | None:
        """The version that brings the pool's statistics; None while they are being collected."""
        if pool.frozen is None:
            return None
        number = self._registry.begin_anew(pool.frozen.statistics)
        self.publish()
        return number

    def _computed(self, parent: int, flush: buffer.Flush) -> Result:
        """Raises ArmfleetError for a damaged folder or update, else as `make_version`."""
        tensors, _ = self._registry.versions.adapter(parent)
        state, _ = self._registry.versions.server_state(parent)
        inputs = self._registry.inputs([update.update_id for update in flush.updates], tensors)
        recent = self._registry.recent_contributions(self._settings.remember_versions)
        absent = self._registry.inputs(remembered(recent, {item.node for item in inputs}), tensors)
        return make_version(parent, tensors, state, inputs, self._rule, absent)

    def _say_failed(self, flush: buffer.Flush, error: Exception) -> str:
        """Log why no version can be made, and what to do; returns the first as a sentence."""
        what = f"no version can be made of the {len(flush.updates)} updates that are in: {error}".rstrip(".")
        do = "restore what this names from a backup, or move it out of the state folder, and start again"
        if isinstance(error, ArmfleetError):
            what = f"no version can be made of the {len(flush.updates)} updates that are in: {error.what}"
            do = error.do or do
        kept = "all versions and updates; everything else goes on, and the next update is a new try"
        logger.error("{}", ArmfleetError(what, kept=kept, do=do))
        return what

    def publish(self) -> bool:
        """Bring the signed slots in line with the registry; True if they were not."""
        return self._publisher.publish(self._registry.offers())

    def outlook(self) -> str:
        """What the next round waits for, or why none can be computed."""
        if self._trouble:
            return self._trouble
        if self._pool is not None and self._pool.frozen is None:
            return self._pool.sentence
        settings = self._settings
        return buffer.outlook(
            self._registry.waiting(),
            self._clock(),
            settings.buffer_size,
            settings.max_wait_s,
            self._rule.stations_needed,
        )


def verify(registry: Registry, number: int) -> bool:
    """Whether a version's stored tensors and server state are what its parent and its listed updates give;
    raises as `recompute`."""
    result = recompute(registry, number)
    tensors, _ = registry.versions.adapter(number)
    state, _ = registry.versions.server_state(number)
    return digest(tensors) == digest(result.tensors) and digest(state) == digest(result.server_state)


def recompute(registry: Registry, number: int) -> Result:
    """A version computed again from its parent and its listed updates: an audit.

    It has the stored version's bytes, whatever machine and time, as long as the folders are whole; for
    `refactored` with the same LAPACK and kind of processor only, since its rounding differs between them.

    Raises:
        ArmfleetError: no such version, one that was not made from updates, or a damaged folder.
    """
    if number not in registry.versions.numbers():
        raise ArmfleetError(f"there is no version {number}", do="see `armfleet versions`")
    manifest = registry.versions.manifest(number)
    if manifest.parent is None:
        raise ArmfleetError(f"version {number} was not made from updates", do="verify a later one")
    tensors, _ = registry.versions.adapter(manifest.parent)
    state, _ = registry.versions.server_state(manifest.parent)
    _, rule = registry.versions.server_state(number)
    inputs = registry.inputs([part.update_id for part in manifest.contributions], tensors)
    absent = registry.inputs([part.update_id for part in manifest.remembered], tensors)
    return make_version(manifest.parent, tensors, state, inputs, rule, absent)
