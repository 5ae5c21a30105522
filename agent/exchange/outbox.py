"""Finished updates that the coordinator has not acknowledged yet: one folder each, `header.json` and
`delta.bin`.

The trainer commits a folder by renaming it into place. It leaves only when a later check-in names its id as
durable at the coordinator; Flower's delivery is at most once, so a reply that was sent proves nothing.
Removal is a rename followed by a deletion: a kill at any instant leaves the update whole or gone.
"""

import contextlib
import shutil
from collections.abc import Collection
from pathlib import Path

from loguru import logger
from pydantic import ValidationError

from shared.errors import ArmfleetError
from shared.files import IN_PROGRESS, remove_in_progress, sha256
from shared.messages import UpdateHeader

HEADER, DELTA = "header.json", "delta.bin"
DAMAGED, UNSENT = ".damaged-", ".unsent-"
"""What is set aside, for a person to look at."""


class Outbox:
    """The folder of updates. Not thread-safe: its owner calls it from one thread at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def clean_up(self) -> None:
        """Finish removals that a kill interrupted. Call before the trainer starts: it writes here too."""
        for name in remove_in_progress(self.folder):
            logger.info("removed {} from the outbox: half-written or acknowledged", name)

    def pending(self) -> list[str]:
        """Ids, oldest first."""
        found = []
        for path in self.folder.iterdir():
            if path.name.startswith("."):
                continue
            with contextlib.suppress(FileNotFoundError):  # acknowledged this very moment
                found.append(((path / HEADER).stat().st_mtime_ns, path.name))
        return [name for _, name in sorted(found)]

    def first(self) -> tuple[UpdateHeader, bytes] | None:
        """The oldest update that can be sent; damaged ones are set aside on the way and logged."""
        for update_id in self.pending():
            try:
                return self.load(update_id)
            except ArmfleetError as error:
                logger.bind(update=update_id).error("{}", error)
                path = self.folder / update_id
                path.rename(self.folder / f"{DAMAGED}{update_id}")
        return None

    def set_aside(self, update_id: str, why: str) -> None:
        """Keep an update that can't be sent where it holds up no other."""
        logger.bind(update=update_id).error("{}; it is kept as {}{}", why, UNSENT, update_id)
        (self.folder / update_id).rename(self.folder / f"{UNSENT}{update_id}")

    def load(self, update_id: str) -> tuple[UpdateHeader, bytes]:
        """Read one update.

        Raises:
            ArmfleetError: it is unreadable, or its delta isn't the one that its header names.
        """
        folder = self.folder / update_id
        try:
            header = UpdateHeader.model_validate_json((folder / HEADER).read_bytes())
            delta = (folder / DELTA).read_bytes()
        except (OSError, ValidationError) as error:
            raise ArmfleetError(
                f"the update {update_id} can't be read ({type(error).__name__})",
                kept="it is set aside in the outbox and not sent",
                do="nothing: the next update replaces it",
            ) from error
        if header.id != update_id or sha256(delta) != header.sha256:
            raise ArmfleetError(
                f"the update {update_id} is damaged: its content is not what its header names",
                kept="it is set aside in the outbox and not sent",
                do="nothing: the next update replaces it",
            )
        return header, delta

    def acknowledge(self, update_ids: Collection[str]) -> list[str]:
        """Remove what is durable at the coordinator; returns the ids that were here."""
        removed = []
        for update_id in update_ids:
            folder = self.folder / update_id
            if not folder.is_dir() or update_id.startswith("."):
                continue
            leaving = self.folder / f"{IN_PROGRESS}acknowledged-{update_id}"
            folder.rename(leaving)
            shutil.rmtree(leaving)
            removed.append(update_id)
            logger.bind(update=update_id).info("the coordinator has update {}", update_id[:8])
        return removed
