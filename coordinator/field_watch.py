"""Rolls the promoted version back when stations report that it does worse than the one before.

The promotion key that signs this is always here: without it the coordinator does not start
(`registry.targets`). The version before runs again, and candidates are compared with it from then on. A
version that was rolled back is promoted by nobody but an operator, and then left alone.
"""

from datetime import datetime

from loguru import logger

from coordinator.config import PromotionSection
from coordinator.field import Finding, Labels, judge_in_field
from coordinator.registry.registry import Registry
from shared.errors import ArmfleetError


class FieldWatch:
    """`look()` after every report; `sentence` says what the rollouts say so far."""

    def __init__(self, settings: PromotionSection, registry: Registry) -> None:
        self._settings, self._registry = settings, registry
        self.sentence = "no rollouts in the field yet"
        self._seen: tuple[int, int] | None = None  # promoted version, and how many reports brought news

    def look(self) -> int | None:
        """Judge the promoted version if there is news; the number of the version that was promoted instead,
        if it fell."""
        promoted = self._registry.promoted()
        seen = (promoted, self._registry.field.changes)
        if seen == self._seen:
            return None
        self._seen = seen
        previous = self._registry.previous()
        if previous is None:
            self.sentence = f"version {promoted} has no predecessor to be compared with"
            return None
        decision = self._registry.versions.decision(promoted)
        if decision.rolled_back is not None:
            self.sentence = f"version {promoted} was promoted again by the operator and is not judged"
            return None
        finding = self._judge(promoted, previous, decision.promoted)
        self.sentence = f"version {promoted} against {previous}: {finding.reason}"
        if not finding.worse:
            return None
        if not self._settings.field:
            self.sentence += "; it stays, since [promotion] field is off: `armfleet roll-back` ends it"
            logger.bind(version=promoted).warning("{}", self.sentence)
            return None
        return self._roll_back(promoted, finding)

    def _judge(self, promoted: int, previous: int, since: datetime | None) -> Finding:
        nodes = self._registry.nodes.all()
        stations = [node.name for node in nodes if since is not None and node.enrolled <= since]
        return judge_in_field(
            self._labels(promoted), self._labels(previous), stations, self._settings.field_error
        )

    def _labels(self, version: int) -> Labels:
        return {
            station: {result.task: result.labels for result in results}
            for station, results in self._registry.field.of_version(version).items()
        }

    def _roll_back(self, promoted: int, finding: Finding) -> int | None:
        try:
            return self._registry.roll_back(finding.reason, promoted)
        except ArmfleetError as error:  # promoted or rolled back by somebody else in this instant
            logger.info("{}", error)
            return None
