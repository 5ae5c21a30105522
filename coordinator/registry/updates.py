"""Updates as folders, `updates/<id>/{header.json, delta.bin, received.json}`, each whole or absent.

An update is durable, and acknowledged to its node, once its folder has its final name. One that was refused
is kept too, as `refused/<id>/{header.json, received.json}` with the reason: acknowledging it lets the node
clear its outbox, and a second copy is not examined again. One that was accepted and turned out later to be of
no use stays where it is, delta included, with the reason in its received.json: it is set aside.
"""

from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.files import durable_folder, remove_in_progress, write_atomic
from shared.messages import UpdateHeader

DELTA, RECEIVED = "delta.bin", "received.json"


class Received(BaseModel):
    """received.json: when an update came, and why it was refused, or set aside, if it was."""

    model_config = ConfigDict(extra="forbid")

    at: datetime
    refused: str = ""


class UpdateStore:
    """All updates below `folder` (accepted) and `refused` (refused)."""

    def __init__(self, folder: Path, refused: Path) -> None:
        self._accepted, self._refused = folder, refused
        self.removed: list[str] = []
        for parent in (folder, refused):
            parent.mkdir(parents=True, exist_ok=True)
            self.removed += remove_in_progress(parent)

    def __contains__(self, update_id: str) -> bool:
        return (self._accepted / update_id).exists() or (self._refused / update_id).exists()

    def ids(self) -> list[str]:
        """Accepted updates, sorted."""
        return sorted(path.name for path in self._accepted.iterdir() if path.is_dir())

    def refused_ids(self) -> list[str]:
        """Refused updates, sorted."""
        return sorted(path.name for path in self._refused.iterdir() if path.is_dir())

    def accept(self, header: UpdateHeader, delta: bytes) -> Received:
        """Make an update durable. Raises FileExistsError for one that is there already."""
        received = Received(at=datetime.now(UTC))
        with durable_folder(self._accepted / header.id) as work:
            write_atomic(work / DELTA, delta)
            self._describe(work, header, received)
        return received

    def refuse(self, header: UpdateHeader, reason: str) -> Received:
        """Keep the header of an update that is not used, and why. Raises FileExistsError as `accept`."""
        received = Received(at=datetime.now(UTC), refused=reason)
        with durable_folder(self._refused / header.id) as work:
            self._describe(work, header, received)
        return received

    def set_aside(self, update_id: str, reason: str) -> None:
        """Note that an accepted update is not used after all, and why; raises as `header`."""
        _, received = self.header(update_id)
        changed = received.model_copy(update={"refused": reason})
        write_atomic(self._accepted / update_id / RECEIVED, changed.model_dump_json(indent=1) + "\n")

    def header(self, update_id: str) -> tuple[UpdateHeader, Received]:
        """What an update is, and when it came.

        Raises:
            ArmfleetError: REGISTRY_DAMAGED, unreadable.
        """
        folder = self._accepted / update_id
        if not folder.exists():
            folder = self._refused / update_id
        try:
            header = UpdateHeader.model_validate_json((folder / "header.json").read_bytes())
            return header, Received.model_validate_json((folder / RECEIVED).read_bytes())
        except (OSError, ValidationError) as error:
            raise self._damaged(folder, error) from error

    def delta(self, update_id: str) -> bytes:
        """Encoded delta of an accepted update; raises as `header`."""
        try:
            return (self._accepted / update_id / DELTA).read_bytes()
        except OSError as error:
            raise self._damaged(self._accepted / update_id, error) from error

    def size(self, update_id: str) -> int:
        """Bytes of an accepted update's encoded delta, without reading it; raises as `header`."""
        try:
            return (self._accepted / update_id / DELTA).stat().st_size
        except OSError as error:
            raise self._damaged(self._accepted / update_id, error) from error

    @staticmethod
    def _describe(work: Path, header: UpdateHeader, received: Received) -> None:
        write_atomic(work / "header.json", header.model_dump_json(indent=1) + "\n")
        write_atomic(work / RECEIVED, received.model_dump_json(indent=1) + "\n")

    @staticmethod
    def _damaged(folder: Path, error: Exception) -> ArmfleetError:
        return ArmfleetError(
            f"the update in {folder} can't be read ({error})",
            kept="all versions and all other updates",
            do="restore the folder from a backup, or remove it",
            code=ExitCode.REGISTRY_DAMAGED,
        )
