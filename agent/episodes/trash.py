"""Deleted episodes: moved to `.trash` in the store with a note, so that a slip loses nothing.

    episodes/.trash/000012-20261124T142500/   the episode's folder, unchanged, and
                                    deleted.json  when, and how it comes back

Moving the folder back under its old name brings the episode back. The agent notices within a minute.
"""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

from agent.episodes.record import EpisodeRecord, read_record
from shared.errors import ArmfleetError
from shared.files import IN_PROGRESS, commit_folder, write_atomic

TRASH, NOTE = ".trash", "deleted.json"


def throw_away(folder: Path) -> Path:
    """Move an episode's folder to the trash beside it; where it lies now."""
    trash = folder.parent / TRASH
    trash.mkdir(exist_ok=True)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")[:-3]
    target = trash / f"{folder.name}-{stamp}"
    note = {
        "id": folder.name,
        "deleted": datetime.now(UTC).isoformat(timespec="seconds"),
        "bring_back": f"remove this note and move the folder to {folder}",
    }
    write_atomic(folder / NOTE, json.dumps(note, indent=1) + "\n")
    commit_folder(folder, target)
    return target


def purge(root: Path, folder: Path) -> None:
    """Remove an episode's folder, in the store at `root` or in its trash, for good; killed half-way it is no
    episode any more, and lies where the next start removes the rest."""
    doomed = root / f"{IN_PROGRESS}purge-{folder.name}"
    folder.rename(doomed)
    shutil.rmtree(doomed)


def thrown_away(root: Path, episode_id: str = "") -> list[Path]:
    """Folders in the trash of the store at `root`, oldest first; of one episode or of all."""
    trash = root / TRASH
    folders = sorted(path for path in trash.iterdir() if path.is_dir()) if trash.is_dir() else []
    return [path for path in folders if episode_id in ("", id_of(path))]


def trash_records(root: Path) -> list[EpisodeRecord]:
    """Records of what lies in the trash: a held-out demonstration stays held out there. Damaged ones are
    left out."""
    records = []
    for folder in thrown_away(root):
        try:
            records.append(read_record(folder))
        except ArmfleetError:
            continue  # what can't be read can't be a copy of anything either
    return records


def id_of(folder: Path) -> str:
    """Id of the episode whose folder in the trash this is."""
    return folder.name.rsplit("-", 1)[0]
