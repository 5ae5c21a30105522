"""Enrolled nodes as files: `nodes/<name>.json`."""

from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.files import remove_in_progress, write_atomic
from shared.messages import Name


class Node(BaseModel):
    """A workstation that has joined."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    node_id: int
    """Flower's, uint64."""
    public_key: str
    """OpenSSH form, without a comment."""
    enrolled: datetime


class NodeStore:
    """All nodes in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.removed = remove_in_progress(folder)

    def all(self) -> list[Node]:
        """Every enrolled node, by name.

        Raises:
            ArmfleetError: REGISTRY_DAMAGED, a file is unreadable.
        """
        return [self._read(path) for path in sorted(self._folder.glob("*.json"))]

    def get(self, name: str) -> Node | None:
        """A node by name, None if nobody has that name."""
        path = self._folder / f"{name}.json"
        return self._read(path) if path.exists() else None

    def write(self, node: Node) -> None:
        """Add a node, or replace the one of that name."""
        write_atomic(self._folder / f"{node.name}.json", node.model_dump_json(indent=1) + "\n")

    @staticmethod
    def _read(path: Path) -> Node:
        try:
            return Node.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise ArmfleetError(
                f"{path} can't be read ({error})",
                kept="all other nodes",
                do="restore the file, or remove it and let the workstation join again",
                code=ExitCode.REGISTRY_DAMAGED,
            ) from error
