"""What went wrong on a bus and was cured, counted per joint. Plain data."""

from dataclasses import dataclass, field, fields

from agent.robot.joints import JOINTS

type JointCounts = dict[str, dict[str, int]]
"""Joint -> kind -> how often; only what happened."""


@dataclass
class JointCounters:
    """Of one joint."""

    retries: int = 0
    """Reads repeated because of this joint."""
    checksum: int = 0
    """Replies with a wrong checksum."""
    timeouts: int = 0
    """Replies that did not come in time."""
    stale: int = 0
    """Replies to an earlier request: recognised and thrown away."""


KINDS = tuple(field.name for field in fields(JointCounters))

type Snapshot = tuple[tuple[int, ...], ...]
"""Counts by joint and kind."""


@dataclass
class BusCounters:
    """Of one bus, since the process began."""

    reads: int = 0
    retries: int = 0
    """Reads repeated after a missing or damaged reply."""
    stale_bytes: int = 0
    """Bytes found before a read: replies to an earlier request."""
    stale_reads: int = 0
    """Reads thrown away because bytes were left over after them."""
    reconnects: int = 0
    joints: dict[str, JointCounters] = field(
        default_factory=lambda: {joint: JointCounters() for joint in JOINTS}
    )

    def snapshot(self) -> Snapshot:
        """The counts of all joints now; cheap enough for each tick of a control loop."""
        return tuple((c.retries, c.checksum, c.timeouts, c.stale) for c in self.joints.values())

    def to_dict(self) -> dict[str, object]:
        """For `status`; JSON-ready."""
        plain = {key: value for key, value in vars(self).items() if key != "joints"}
        return {**plain, "joints": since(((0,) * len(KINDS),) * len(JOINTS), self.snapshot())}


def since(before: Snapshot, now: Snapshot) -> JointCounts:
    """What happened between two snapshots."""
    if before == now:
        return {}
    return {
        joint: {kind: new - old for kind, old, new in zip(KINDS, earlier, later, strict=True) if new > old}
        for joint, earlier, later in zip(JOINTS, before, now, strict=True)
        if earlier != later
    }
