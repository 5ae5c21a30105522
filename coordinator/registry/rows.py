"""What the folders hold, as rows of the index."""

from coordinator.registry.index import Base, NodeRow, UpdateRow, VersionRow
from coordinator.registry.nodes import Node, NodeStore
from coordinator.registry.updates import Received, UpdateStore
from coordinator.registry.versions import VersionStore
from shared.messages import UpdateHeader
from shared.tasks import START_LOSS, START_MSE


def all_rows(nodes: NodeStore, updates: UpdateStore, versions: VersionStore) -> list[Base]:
    """One row for each node, update and version; an update's says which version it went into.

    Raises:
        ArmfleetError: REGISTRY_DAMAGED, a folder can't be read.
    """
    found: dict[str, UpdateRow] = {}
    for update_id in updates.refused_ids():
        found[update_id] = update_row(*updates.header(update_id), 0)
    for update_id in updates.ids():
        found[update_id] = update_row(*updates.header(update_id), updates.size(update_id))
    made = []
    for number in versions.numbers():
        made.append(version_row(versions, number))
        for part in versions.manifest(number).contributions:
            if row := found.get(part.update_id):
                row.version, row.staleness = number, part.staleness
    return [*map(node_row, nodes.all()), *found.values(), *made]


def node_row(node: Node) -> NodeRow:
    """Of an enrolled node."""
    return NodeRow(name=node.name, node_id=str(node.node_id), enrolled=node.enrolled)


def update_row(header: UpdateHeader, received: Received, size: int) -> UpdateRow:
    """Of an update that is in no version; `size` is that of its encoded delta, bytes."""
    return UpdateRow(
        id=header.id,
        node=header.node,
        base_version=header.base_version,
        received=received.at.timestamp(),
        bytes=size,
        refused=received.refused,
        version=None,
        staleness=None,
        measured={k: v for k, v in header.metrics.items() if k.startswith((START_LOSS, START_MSE))},
        tasks=list(header.losses),
    )


def version_row(versions: VersionStore, number: int) -> VersionRow:
    """Of a version and what became of it."""
    manifest, decision = versions.manifest(number), versions.decision(number)
    return VersionRow(
        number=number,
        parent=manifest.parent,
        tensors_digest=manifest.tensors_digest,
        created=manifest.created,
        state=decision.state,
        reason=decision.reason,
    )
