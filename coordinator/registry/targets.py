"""Versions as signed targets of The Update Framework, handed out inside check-ins.

Three slots, so that the metadata never grows: `promoted` and `previous` in targets.json (promotion key), and
`candidate`, the newest version, in a delegated role (daemon key). A bundle is `{file name: bytes}` and holds
only what a node lacks; the adapter of `previous` is never in it, a node that ran it has kept it:

    timestamp.json  3.snapshot.json  5.targets.json  7.candidate.json  2.root.json  <sha256>.<slot>

The registry decides which version is in which slot; this module only publishes that. Files are written
payload first and timestamp.json last: the new state counts once timestamp.json is in place, whatever
instant the process is killed at. python-tuf does not fsync: everything here goes through `write_atomic`.
"""

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from coordinator.registry.signing import load_key, new_key, sign_root
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.files import remove_in_progress, write_atomic

LIFETIME = {
    "targets": timedelta(days=90),
    "candidate": timedelta(days=90),
    "snapshot": timedelta(days=90),
    "timestamp": timedelta(days=3),
}
"""Twelve-hour timestamps break when a workstation's clock is a day off; three days tolerate it."""


@dataclass(frozen=True)
class Offer:
    """A version to be put into a slot; `payload` is `shared.adapters.pack_adapter`'s."""

    version: int
    tensors_digest: str
    base_digest: str
    payload: bytes

    def target(self, slot: str) -> TargetFile:
        """The signed description: hash, length, and custom fields (no floats: canonical JSON has none)."""
        info = TargetFile.from_data(slot, self.payload, ["sha256"])
        info.unrecognized_fields["custom"] = {
            "version": self.version,
            "tensors_digest": self.tensors_digest,
            "base_digest": self.base_digest,
        }
        return info


class Publisher:
    """The repository in `folder`; safe to use from several threads."""

    def __init__(self, folder: Path, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """Open what `create` made.

        Raises:
            ArmfleetError: REGISTRY_DAMAGED, keys or metadata missing or damaged.
        """
        self._folder, self._clock, self._lock = folder, clock, threading.RLock()
        promotion, daemon = load_key(folder / "keys/promotion.pem"), load_key(folder / "keys/daemon.pem")
        self._signers = {"targets": promotion, "snapshot": daemon, "timestamp": daemon, "candidate": daemon}
        (folder / "targets").mkdir(exist_ok=True)
        remove_in_progress(folder)
        remove_in_progress(folder / "targets")
        self._current = self._load()
        if not self._current:
            self._issue_all(self._targets({}), Targets(targets={}))

    @classmethod
    def create(
        cls, folder: Path, operator_key: Path, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> "Publisher":
        """Make keys and the first root. Whoever has the root's private key can replace all others."""
        folder.mkdir(parents=True, exist_ok=True)
        operator = new_key(operator_key)
        promotion = new_key(folder / "keys/promotion.pem").public_key
        daemon = new_key(folder / "keys/daemon.pem").public_key
        roles = {"targets": promotion, "snapshot": daemon, "timestamp": daemon}
        write_atomic(folder / "1.root.json", sign_root(1, clock(), operator, roles))
        return cls(folder, clock)

    @property
    def root(self) -> bytes:
        """The newest root metadata: what a join bundle carries."""
        return (self._folder / f"{max(self._root_versions())}.root.json").read_bytes()

    def slots(self) -> dict[str, int]:
        """Version in each slot that is taken."""
        return {slot: info.custom["version"] for slot, info in self._infos().items() if info.custom}

    def publish(self, offers: Mapping[str, Offer]) -> bool:
        """Make the slots hold exactly `offers`; nothing is signed when they do already.

        Returns:
            Whether something was published.
        """
        with self._lock:
            wanted = {slot: offer.target(slot) for slot, offer in offers.items()}
            current = self._infos()
            slots = wanted.keys() | current.keys()
            changed = {slot for slot in slots if wanted.get(slot) != current.get(slot)}
            if not changed:
                return False
            for slot in changed & offers.keys():
                path = self._folder / "targets" / wanted[slot].hashes["sha256"]
                if not path.exists():
                    write_atomic(path, offers[slot].payload)
            delegated = Targets(targets={s: i for s, i in wanted.items() if s == "candidate"})
            top = self._targets({s: i for s, i in wanted.items() if s != "candidate"})
            self._issue_all(
                top if changed - {"candidate"} else None, delegated if "candidate" in changed else None
            )
            return True

    def renew(self) -> list[str]:
        """Sign again what has used up half of its lifetime; returns the roles, for the log."""
        with self._lock:
            stale = [role for role in LIFETIME if self._half_spent(role)]
            if stale:
                top = self._current["targets"].signed if "targets" in stale else None
                delegated = self._current["candidate"].signed if "candidate" in stale else None
                self._issue_all(top, delegated, snapshot="snapshot" in stale)
            return stale

    def bundle_for(self, held: Mapping[Any, int], adapters: Collection[str]) -> dict[str, bytes]:
        """Everything that a node lacks, except the adapter of `previous`.

        Args:
            held: Versions of root, timestamp, snapshot, targets and candidate metadata that the node says it
                has; missing or 0: none. Wrong claims hurt only the node: it verifies what it gets.
            adapters: SHA-256 of the packed adapters that it says it has.
        """
        with self._lock:
            had = held.get("root", 0)
            newest = max(self._root_versions())
            bundle = {f"{v}.root.json": self._read(f"{v}.root.json") for v in range(had + 1, newest + 1)}
            bundle["timestamp.json"] = self._read("timestamp.json")
            for role in ("snapshot", "targets", "candidate"):
                version = self._current[role].signed.version
                if had < newest or held.get(role) != version:
                    bundle[f"{version}.{role}.json"] = self._read(f"{version}.{role}.json")
            for slot, info in self._infos().items():
                digest = info.hashes["sha256"]
                if slot != "previous" and digest not in adapters:
                    bundle[f"{digest}.{slot}"] = self._read(f"targets/{digest}")
            return bundle

    # ------------------------------------------------------------------ inside

    def _read(self, name: str) -> bytes:
        return (self._folder / name).read_bytes()

    def _root_versions(self) -> list[int]:
        return [int(path.name.split(".")[0]) for path in self._folder.glob("*.root.json")]

    def _infos(self) -> dict[str, TargetFile]:
        return {**self._current["targets"].signed.targets, **self._current["candidate"].signed.targets}

    def _half_spent(self, role: str) -> bool:
        return self._current[role].signed.expires - self._clock() < LIFETIME[role] / 2

    def _load(self) -> dict[str, Metadata[Any]]:
        """Current metadata, found from timestamp.json; later files are leftovers of a killed process."""
        if not (self._folder / "timestamp.json").exists():
            return {}
        try:
            stamp = Metadata[Timestamp].from_bytes(self._read("timestamp.json"))
            snapshot = Metadata[Snapshot].from_bytes(
                self._read(f"{stamp.signed.snapshot_meta.version}.snapshot.json")
            )
            loaded: dict[str, Metadata[Any]] = {"timestamp": stamp, "snapshot": snapshot}
            for role in ("targets", "candidate"):
                version = snapshot.signed.meta[f"{role}.json"].version
                loaded[role] = Metadata[Targets].from_bytes(self._read(f"{version}.{role}.json"))
        except (OSError, RepositoryError, KeyError) as error:
            raise ArmfleetError(
                f"the signed metadata in {self._folder} can't be read ({error})",
                kept="all versions and updates",
                do="restore the folder from a backup; an older copy is refused by the workstations",
                code=ExitCode.REGISTRY_DAMAGED,
            ) from error
        return loaded

    def _targets(self, infos: Mapping[str, TargetFile]) -> Targets:
        key = self._signers["candidate"].public_key
        role = DelegatedRole("candidate", [key.keyid], 1, True, paths=["candidate"])
        return Targets(targets=dict(infos), delegations=Delegations({key.keyid: key}, {"candidate": role}))

    def _issue_all(self, top: Targets | None, delegated: Targets | None, snapshot: bool = False) -> None:
        """Sign and write; after an OSError (a full disk) what timestamp.json leads to still counts."""
        try:
            self._issue_each(top, delegated, snapshot)
        except OSError:
            self._current = self._load()
            raise

    def _issue_each(self, top: Targets | None, delegated: Targets | None, snapshot: bool) -> None:
        for role, signed in (("targets", top), ("candidate", delegated)):
            if signed is not None:
                self._issue(role, signed)
        if top or delegated or snapshot:
            meta = {
                f"{role}.json": MetaFile.from_data(
                    self._current[role].signed.version,
                    self._read(f"{self._current[role].signed.version}.{role}.json"),
                    ["sha256"],
                )
                for role in ("targets", "candidate")
            }
            self._issue("snapshot", Snapshot(meta=meta))
        self._issue("timestamp", Timestamp(snapshot_meta=MetaFile(self._current["snapshot"].signed.version)))
        self._remove_old()

    def _issue(self, role: str, signed: Signed) -> None:
        signed.version = self._current[role].signed.version + 1 if role in self._current else 1
        signed.expires = (self._clock() + LIFETIME[role]).replace(microsecond=0)
        metadata: Metadata[Any] = Metadata(signed)
        metadata.sign(self._signers[role])
        data = metadata.to_bytes()
        name = "timestamp.json" if role == "timestamp" else f"{signed.version}.{role}.json"
        write_atomic(self._folder / name, data)
        self._current[role] = Metadata.from_bytes(data)

    def _remove_old(self) -> None:
        """Drop metadata and payloads that timestamp.json no longer leads to."""
        keep = {f"{self._current[r].signed.version}.{r}.json" for r in ("snapshot", "targets", "candidate")}
        for role in ("snapshot", "targets", "candidate"):
            for path in self._folder.glob(f"*.{role}.json"):
                if path.name not in keep:
                    path.unlink()
        payloads = {info.hashes["sha256"] for info in self._infos().values()}
        for path in (self._folder / "targets").iterdir():
            if path.name not in payloads:
                path.unlink()
