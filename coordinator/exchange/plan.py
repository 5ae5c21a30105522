"""Which nodes are due a check-in. Pure: the clock is handed in.

One check-in is in flight per node, `max_in_flight` in the whole fleet (which spreads them out), and those
that have waited longest go first.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

QUIET = 10
"""A node that has nothing to bring, and for which nothing is new, is asked that many times less often. A
SuperNode looks for a message every 3 s: an empty one delays the next by as much."""


@dataclass(frozen=True)
class Contact:
    """What is known of a node's check-ins; times in seconds on one monotonic clock."""

    last_sent: float | None = None
    in_flight: bool = False
    """The last one is neither answered nor expired."""
    quiet: bool = False
    """Its update waits for a round, and no version is new since it was asked last."""


@dataclass(frozen=True)
class Pace:
    """How often, and how many at once."""

    check_in_s: float
    ttl_s: float
    max_in_flight: int


def expired(contacts: Mapping[int, Contact], now: float, pace: Pace) -> list[int]:
    """Nodes whose check-in has been under way for longer than its time to live."""
    return [
        node_id
        for node_id, contact in contacts.items()
        if contact.in_flight and contact.last_sent is not None and now - contact.last_sent > pace.ttl_s
    ]


def due(contacts: Mapping[int, Contact], online: Collection[int], now: float, pace: Pace) -> list[int]:
    """Nodes to send a check-in now, longest waiting first (never contacted before all others).

    Args:
        contacts: Every enrolled node.
        online: Nodes that the SuperLink reaches; others than `contacts` are ignored.
        now: On the clock of `contacts`.
    """
    waiting: list[tuple[float, int]] = []
    for node_id in set(online) & contacts.keys():
        contact = contacts[node_id]
        since = float("inf") if contact.last_sent is None else now - contact.last_sent
        if not contact.in_flight and since >= pace.check_in_s * (QUIET if contact.quiet else 1):
            waiting.append((-since, node_id))
    room = pace.max_in_flight - sum(contact.in_flight for contact in contacts.values())
    return [node_id for _, node_id in sorted(waiting)][: max(0, room)]
