"""Versions on their way in: verified by TUF, checked against the base, unpacked to `adapters/<digest>/`.

`accepted.json` records, by digest, what each slot held when it was last accepted. Expiry governs accepting
only: what is recorded there stays loadable after a month offline. What `promoted` and `candidate` pointed
to before is kept too (a roll-back sends no bytes), and everything the daemon says is in use.
"""

import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from loguru import logger
from pydantic import BaseModel, ConfigDict, ValidationError
from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import TargetFile

from agent.exchange.fit import Shapes, misfits
from agent.exchange.trust import TrustedMetadata
from shared.adapters import digest, read_adapter, unpack_adapter
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.files import durable_folder, remove_in_progress, write_atomic
from shared.messages import Digest

FILE = "accepted.json"
HISTORY = 8
"""Adapters kept beside the slots: a trainer that resumes, and the operator who looks back, still find
theirs.
"""


class Accepted(BaseModel):
    """A version that TUF vouched for and that fits the base."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int
    tensors_digest: Digest
    """Of the float32 tensors and the version's statistics; the name of its folder."""
    base_digest: Digest
    sha256: Digest
    """Of the packed adapter, as TUF and `Held.adapters` name it."""
    accepted_at: datetime


class Record(BaseModel):
    """accepted.json."""

    model_config = ConfigDict(extra="forbid")

    slots: dict[str, Accepted] = {}
    history: list[Accepted] = []
    """Newest first, without what is in a slot."""
    replaced: Accepted | None = None
    """What `promoted` pointed to before."""


@dataclass
class Outcome:
    """What one message brought."""

    changed: list[str] = field(default_factory=list)
    """Slots that hold another version than before."""
    refused: dict[str, str] = field(default_factory=dict)
    """By slot (or "all"), why not."""

    @property
    def sentence(self) -> str:
        """All refusals in one line; empty if there are none."""
        return "; ".join(f"{slot}: {why}" for slot, why in sorted(self.refused.items()))


class Inbox:
    """Accepts versions. Blocking; one call at a time.

    Args:
        trust: Verified metadata.
        folder: Where accepted.json lives (the TUF folder).
        adapters: Where adapters are unpacked.
        base_digest: The base of this workstation.
        base_shapes: Shapes of its tensors.
        clock: Time with zone.
    """

    def __init__(
        self,
        trust: TrustedMetadata,
        folder: Path,
        adapters: Path,
        base_digest: str,
        base_shapes: Shapes,
        clock: Callable[[], datetime],
    ) -> None:
        self._trust, self._path, self._adapters, self._clock = trust, folder / FILE, adapters, clock
        self._base_digest, self._base_shapes = base_digest, base_shapes
        adapters.mkdir(parents=True, exist_ok=True)
        for name in remove_in_progress(adapters):
            logger.info("removed the half-written adapter {}", name)
        self._record = self._load()

    @property
    def slots(self) -> dict[str, Accepted]:
        """What each slot holds."""
        return dict(self._record.slots)

    @property
    def previous(self) -> Accepted | None:
        """What `promoted` held before; it is always kept."""
        return self._record.replaced

    def folder(self, accepted: Accepted) -> Path:
        """The PEFT folder of an accepted version."""
        return self._adapters / accepted.tensors_digest

    def held_adapters(self) -> list[str]:
        """SHA-256 of the packed adapters on disk; the newest 64."""
        everything = [*self._record.slots.values(), *self._record.history]
        present = [a.sha256 for a in everything if self.folder(a).is_dir()]
        return list(dict.fromkeys(present))[:64]

    def held_metadata(self) -> dict[str, int]:
        """Versions of the trusted metadata."""
        return self._trust.held()

    def accept(self, blobs: Mapping[str, bytes], slots: Collection[str]) -> Outcome:
        """Take what a check-in carried; each slot is accepted or refused on its own."""
        outcome = Outcome()
        try:
            vouched = self._trust.update(blobs, slots)
        except ArmfleetError as error:
            outcome.refused["all"] = error.what
            return outcome
        outcome.refused.update(vouched.faults)
        taken = {slot: a for slot, a in self._record.slots.items() if slot in vouched.targets}
        taken.update({slot: a for slot, a in self._record.slots.items() if slot in vouched.faults})
        for slot, info in vouched.targets.items():
            try:
                taken[slot] = self._take(slot, info, blobs, taken)
            except ArmfleetError as error:
                outcome.refused[slot] = error.what
        outcome.changed = sorted(s for s in taken if taken[s] != self._record.slots.get(s))
        if taken != self._record.slots:
            self._replace(taken)
        for slot in outcome.changed:
            logger.bind(version=taken[slot].version).info("version {} is {}", taken[slot].version, slot)
        return outcome

    def prune(self, in_use: Collection[str]) -> None:
        """Remove adapters beyond the history, except what was promoted before and those whose tensor
        digest is in `in_use`.
        """
        replaced = self._record.replaced
        pinned = {*in_use, *([replaced.tensors_digest] if replaced else [])}
        kept = [a for i, a in enumerate(self._record.history) if i < HISTORY or a.tensors_digest in pinned]
        if kept != self._record.history:
            self._record = self._record.model_copy(update={"history": kept})
            self._save()
        named = {a.tensors_digest for a in [*self._record.slots.values(), *kept]} | pinned
        for path in self._adapters.iterdir():
            if path.is_dir() and path.name not in named:
                shutil.rmtree(path)

    def _take(
        self, slot: str, info: TargetFile, blobs: Mapping[str, bytes], taken: Mapping[str, Accepted]
    ) -> Accepted:
        sha = info.hashes.get("sha256", "")
        known = [*taken.values(), *self._record.slots.values(), *self._record.history]
        for accepted in known:
            if accepted.sha256 == sha and self.folder(accepted).is_dir():
                return accepted
        blob = blobs.get(f"{sha}.{slot}")
        if blob is None:
            raise ArmfleetError(
                f"the adapter {sha[:12]} is not in this message", code=ExitCode.VERSION_REFUSED
            )
        try:
            info.verify_length_and_hashes(blob)
        except LengthOrHashMismatchError as error:
            raise ArmfleetError(
                f"the adapter is not the one that was signed ({error})", code=ExitCode.VERSION_REFUSED
            ) from error
        accepted = self._describe(info, sha)
        self._unpack(blob, accepted)
        return accepted

    def _describe(self, info: TargetFile, sha: str) -> Accepted:
        """The signed description, checked against this workstation's base."""
        try:
            accepted = Accepted.model_validate(
                {**(info.custom or {}), "sha256": sha, "accepted_at": self._clock()}
            )
        except ValidationError as error:
            raise ArmfleetError(
                f"its signed description is incomplete ({error.errors()[0]['loc']})",
                code=ExitCode.VERSION_REFUSED,
            ) from error
        if accepted.base_digest != self._base_digest:
            raise ArmfleetError(
                f"version {accepted.version} is for the base {accepted.base_digest[:12]}, "
                f"this workstation has {self._base_digest[:12]}",
                kept="the versions held stay in use",
                do="install the fleet's base, or ask the operator of the fleet",
                code=ExitCode.VERSION_REFUSED,
            )
        return accepted

    def _unpack(self, blob: bytes, accepted: Accepted) -> None:
        """Write the PEFT folder, whole or not at all, after its tensors were compared with what was
        signed.
        """
        final = self._adapters / accepted.tensors_digest
        if final.is_dir():  # the same tensors under another signature (a roll-back)
            return
        with durable_folder(final) as work:
            with tempfile.NamedTemporaryFile(dir=self._adapters, prefix=".inprogress-") as file:
                file.write(blob)
                file.flush()
                manifest = unpack_adapter(Path(file.name), work)
            tensors, _, _ = read_adapter(work)
            normalisation = manifest.normalisation if manifest else None
            if digest(tensors, normalisation) != accepted.tensors_digest:
                raise ArmfleetError(
                    "its tensors are not those that were signed", code=ExitCode.VERSION_REFUSED
                )
            if manifest is None or (manifest.version, manifest.base_digest) != (
                accepted.version,
                accepted.base_digest,
            ):
                raise ArmfleetError("its manifest is not what was signed", code=ExitCode.VERSION_REFUSED)
            faults = misfits({name: tensor.shape for name, tensor in tensors.items()}, self._base_shapes)
            if faults:
                raise ArmfleetError(
                    f"version {accepted.version} does not fit the base: {'; '.join(faults[:3])}",
                    code=ExitCode.VERSION_REFUSED,
                )

    def _replace(self, slots: dict[str, Accepted]) -> None:
        current = {a.tensors_digest for a in slots.values()}
        old = [*self._record.slots.values(), *self._record.history]
        history = list({a.tensors_digest: a for a in reversed(old)}.values())[::-1]
        before, now = self._record.slots.get("promoted"), slots.get("promoted")
        swapped = before is not None and (now is None or now.tensors_digest != before.tensors_digest)
        self._record = Record(
            slots=slots,
            history=[a for a in history if a.tensors_digest not in current],
            replaced=before if swapped else self._record.replaced,
        )
        self._save()

    def _save(self) -> None:
        write_atomic(self._path, self._record.model_dump_json(indent=1))

    def _load(self) -> Record:
        if not self._path.exists():
            return Record()
        try:
            return Record.model_validate_json(self._path.read_bytes())
        except (ValidationError, OSError) as error:
            logger.error("{} can't be read and is written anew at the next check-in ({})", self._path, error)
            return Record()
