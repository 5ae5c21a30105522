"""Which updates a round remembers: the last ones of the stations that send nothing to it.

A workstation that trains at night only has no part in the rounds of the day, and if its task is no one
else's, those rounds lead away from it. So its last update goes on counting, less with every version
(`weights.staleness_discount`), for a number of versions: then the station is taken to be gone.

Source: MIFA (Gu, Huang, Zhang, Huang, Fast Federated Learning in the Presence of Arbitrary Device
Unavailability, arXiv 2106.04159) averages the last updates of all clients, present or not; there undiscounted
and for ever, which suits clients that all come back. Assumes that a station's last direction is still roughly
right a few versions later.
"""

from collections.abc import Collection, Sequence

from shared.adapters import Contribution


def remembered(recent: Sequence[Sequence[Contribution]], present: Collection[str]) -> list[str]:
    """Ids of the updates that a round counts once more.

    Args:
        recent: The contributions of the last versions, newest first; as many as are remembered.
        present: Nodes whose updates the round has.

    Returns:
        Of every other node in `recent` the updates of the newest version that has any of its own, in the
        order of the ids.
    """
    found: dict[str, list[str]] = {}
    for contributions in recent:
        here: dict[str, list[str]] = {}
        for part in contributions:
            if part.node not in present and part.node not in found:
                here.setdefault(part.node, []).append(part.update_id)
        found |= here
    return sorted(update_id for ids in found.values() for update_id in ids)
