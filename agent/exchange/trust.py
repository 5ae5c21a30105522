"""The Update Framework's client, fed from the blobs of a check-in instead of a web server.

python-tuf verifies; this module gives it a place to work and keeps what it verified. python-tuf never calls
fsync and replaces `root.json` in two steps, so it works in a copy. Only when everything was verified is the
copy flushed and renamed to `trusted-<n+1>`, and the older folder removed: at any instant there is one
complete, verified set on disk, never a mixture, and a message that fails changes nothing. Blobs are named
as in a repository with consistent snapshots (TUF specification 1.0.33, section 6.2):

    2.root.json  timestamp.json  3.snapshot.json  5.targets.json  7.candidate.json  <sha256>.<slot>
"""

import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from loguru import logger
from tuf.api.exceptions import DownloadError, DownloadHTTPError, RepositoryError
from tuf.api.metadata import Metadata, Root, TargetFile
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.files import durable_folder, remove_in_progress

ROLES = ("root", "timestamp", "snapshot", "targets", "candidate")
SCHEME = "bundle:"
LIMITS = UpdaterConfig(
    max_root_rotations=64,
    root_max_length=32_768,
    timestamp_max_length=4_096,
    snapshot_max_length=16_384,
    targets_max_length=65_536,
)
"""Three slots keep targets.json at 1.5 kB; the limits only have to stop nonsense."""


class BlobFetcher(FetcherInterface):
    """Serves python-tuf from the blobs of one message."""

    def __init__(self, blobs: Mapping[str, bytes]) -> None:
        self._blobs = blobs

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.removeprefix(f"{SCHEME}/")
        if name not in self._blobs:  # "404" is how python-tuf learns that there is no newer root
            raise DownloadHTTPError(f"{name} is not in this message", 404)
        return iter((self._blobs[name],))


@dataclass(frozen=True)
class Vouched:
    """What TUF vouches for after one message."""

    targets: dict[str, TargetFile]
    """By slot; a slot that is empty at the coordinator is absent."""
    faults: dict[str, str]
    """By slot, why it could not be looked up."""


class TrustedMetadata:
    """The verified metadata in `folder`. Blocks for some milliseconds; one call at a time.

    Args:
        folder: Owned by this class.
        bootstrap: The root metadata from the join bundle: the anchor, handed to python-tuf every time.
        clock: Gives the time, with its zone, that expiry is judged by.
    """

    def __init__(self, folder: Path, bootstrap: bytes, clock: Callable[[], datetime]) -> None:
        self._folder, self._bootstrap, self._clock = folder, bootstrap, clock
        folder.mkdir(parents=True, exist_ok=True)
        for name in remove_in_progress(folder):
            logger.info("removed {} of an interrupted update of trusted metadata", name)
        self._bootstrap_version = Metadata[Root].from_bytes(bootstrap).signed.version
        self._resync = False

    def held(self) -> dict[str, int]:
        """Version of each role's metadata on disk; 0 for all but root after a failure, to get them again."""
        versions = {role: self._version(role) for role in ROLES}
        if self._resync:
            versions = {role: (version if role == "root" else 0) for role, version in versions.items()}
        return versions | {"root": max(versions["root"], self._bootstrap_version)}

    def update(self, blobs: Mapping[str, bytes], slots: Collection[str]) -> Vouched:
        """Verify the metadata in `blobs` against what is trusted; on success it is trusted from now on.

        Raises:
            ArmfleetError: VERSION_REFUSED; what is trusted has not changed.
        """
        now = self._clock()
        current = self._current()
        number = int(current.name.removeprefix("trusted-")) if current else 0
        self._resync = True
        try:
            with durable_folder(self._folder / f"trusted-{number + 1:06d}") as work:
                if current:
                    shutil.copytree(current, work, symlinks=True, dirs_exist_ok=True)
                vouched = self._verify(work, blobs, slots, now)
                if current and _same(current, work):
                    raise _Unchanged(vouched)
        except _Unchanged as unchanged:
            vouched = unchanged.vouched
        except (RepositoryError, DownloadError, KeyError, OSError) as error:
            raise ArmfleetError(
                f"a version was not accepted: {self._explain(error, now)}",
                kept="the versions held stay in use",
                do="nothing, if it happens once: all metadata is asked for again; else compare the clocks",
                code=ExitCode.VERSION_REFUSED,
            ) from error
        else:
            if current:
                shutil.rmtree(current)
        self._resync = bool(vouched.faults)
        return vouched

    def _verify(
        self, work: Path, blobs: Mapping[str, bytes], slots: Collection[str], now: datetime
    ) -> Vouched:
        updater = Updater(
            str(work), SCHEME, None, SCHEME, BlobFetcher(blobs), LIMITS, bootstrap=self._bootstrap
        )
        updater._trusted_set.reference_time = now  # python-tuf 7 has no public way to hand in a clock
        updater.refresh()
        targets, faults = {}, {}
        for slot in slots:
            try:
                info = updater.get_targetinfo(slot)
            except (RepositoryError, DownloadError) as error:
                faults[slot] = self._explain(error, now)
                continue
            if info is not None:
                targets[slot] = info
        return Vouched(targets, faults)

    def _explain(self, error: Exception, now: datetime) -> str:
        """python-tuf names no times, and calls an expired file on disk a missing download."""
        text = f"{type(error).__name__}: {error} (this clock says {now:%Y-%m-%d %H:%M} UTC)"
        for role in ROLES:
            metadata = self._cached(role)
            if metadata is not None and metadata.signed.is_expired(now):
                text += f"; the {role} held expired at {metadata.signed.expires:%Y-%m-%d %H:%M}"
        return text

    def _current(self) -> Path | None:
        """The newest trusted set. Two exist only if a kill came between commit and clean-up."""
        sets = sorted(self._folder.glob("trusted-*"))
        for older in sets[:-1]:
            shutil.rmtree(older)
        return sets[-1] if sets else None

    def _cached(self, role: str) -> Metadata[Any] | None:
        current = self._current()
        if current is None:
            return None
        try:
            return Metadata.from_bytes((current / f"{role}.json").read_bytes())
        except (OSError, RepositoryError):
            return None  # not there yet, or damaged: python-tuf asks for it anew

    def _version(self, role: str) -> int:
        metadata = self._cached(role)
        return metadata.signed.version if metadata else 0


class _Unchanged(Exception):
    """Ends the working copy without a commit: the message brought nothing new."""

    def __init__(self, vouched: Vouched) -> None:
        self.vouched = vouched


def _same(one: Path, other: Path) -> bool:
    def files(folder: Path) -> dict[str, bytes]:
        return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    return files(one) == files(other)
