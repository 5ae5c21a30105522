"""What must be true after every kill: what the next start of the agent finds, compared with what was there.

`start_up`, `whole` and `loads` look at the disk, in a child; the `Ledger` only compares what they saw.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lerobot.datasets.lerobot_dataset import LeRobotDataset

from agent.daemon import Agent, worker_commands
from agent.episodes.dataset import read_episode
from agent.episodes.gate import judge_data
from agent.episodes.record import EpisodeRecord, read_record
from agent.episodes.split import content_digest
from agent.episodes.trash import id_of, thrown_away
from benchmarks.soak.kills import Prepare
from benchmarks.soak.steps import Workplace
from shared.errors import ArmfleetError
from shared.files import IN_PROGRESS

TRASHED = "trash"
LISTED = "listed"
CONTENTS = ("data", "meta", "videos", "sidecar.jsonl")
BROKEN = (
    "container.",
    "video.missing",
    "video.camera_missing",
    "video.corrupt",
    "video.size",
    "video.frame_count",
)
"""Checks of the gate that a half-written episode fails."""


@dataclass(frozen=True)
class Known:
    """An episode that is on disk.

    Attributes:
        contents: SHA-256 over its rows, metadata, videos and sidecar.
        verdict, digest, split, label: As in its own file.
        place: LISTED or TRASHED.
    """

    contents: str
    verdict: str
    digest: str
    split: str | None
    label: str | None
    place: str = LISTED


@dataclass(frozen=True)
class Doing:
    """What was going on when the kill came: only this may have changed anything.

    Attributes:
        kind: The step.
        ids: Episodes concerned; of an import and of `record` none is known before.
        label: The new label, for `label`.
    """

    kind: str
    ids: tuple[str, ...] = ()
    label: str | None = None


@dataclass(frozen=True)
class Sight:
    """What a starting agent finds.

    Attributes:
        known: Episodes that can be read, by id.
        index: Ids in the agent's index: what operators see.
        odd: Folders in the trash that are no episode's.
        left_over: Files and folders of interrupted work that the start did not remove.
    """

    known: dict[str, Known]
    index: list[str]
    odd: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)


@dataclass
class Findings:
    """What is wrong, one sentence each."""

    lost: list[str] = field(default_factory=list)
    half_written: list[str] = field(default_factory=list)
    unloadable: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)

    def all(self) -> list[str]:
        """Everything."""
        return [*self.lost, *self.half_written, *self.unloadable, *self.left_over]


class Ledger:
    """Remembers every episode that was ever on disk whole."""

    def __init__(self) -> None:
        self.known: dict[str, Known] = {}
        self.admitted: set[str] = set()
        """Ids that were ever admitted."""
        self.findings = Findings()

    def compare(self, sight: Sight, doing: Doing) -> list[str]:
        """Note what is wrong, remember what is there; ids that are new, which should be looked into."""
        found = self.findings
        for episode_id, before in self.known.items():
            if why := _lost(episode_id, before, sight.known.get(episode_id), doing):
                found.lost.append(f"{episode_id} after a kill of {doing.kind}: {why}")
        listed = {i for i, known in sight.known.items() if known.place == LISTED}
        for name in [*sorted(set(sight.index) ^ listed), *sight.odd]:
            found.half_written.append(f"{name} after a kill of {doing.kind}: listed, and no whole episode")
        fresh = sorted(sight.known.keys() - self.known.keys())
        if doing.kind not in ("save", "import"):
            found.half_written += [f"{name} appeared after a kill of {doing.kind}" for name in fresh]
        found.left_over += [f"{name} after a kill of {doing.kind}" for name in sight.left_over]
        self.known = dict(sight.known)
        self.admitted |= {i for i, known in sight.known.items() if known.verdict == "admitted"}
        return fresh

    def note_broken(self, episode_ids: Iterable[str], why: str) -> None:
        """Note that episodes are not whole, each one once."""
        for line in (f"{episode_id}: {why}" for episode_id in episode_ids):
            if line not in self.findings.half_written:
                self.findings.half_written.append(line)

    def of(self, verdict: str, place: str = LISTED) -> list[str]:
        """Ids, sorted."""
        return sorted(i for i, k in self.known.items() if k.verdict == verdict and k.place == place)

    def training(self) -> list[str]:
        """Ids of the episodes that a training set must hold."""
        return [
            i
            for i in self.of("admitted")
            if self.known[i].split == "train" and self.known[i].label != "failure"
        ]


def _lost(episode_id: str, before: Known, now: Known | None, doing: Doing) -> str:
    """What became of an episode that should not have; "" if all is well."""
    mine = episode_id in doing.ids
    if now is None:
        return "" if mine and doing.kind == "purge" else "gone"
    if now.place != before.place and not (mine and doing.kind == "delete" and now.place == TRASHED):
        return f"it is {now.place}"
    if now.contents != before.contents:
        return "its contents changed"
    if now.label != before.label and not (mine and doing.kind == "label" and now.label == doing.label):
        return f"its label is {now.label}, not {before.label}"
    fixed = before.verdict != "unjudged"
    if fixed and (now.verdict, now.digest, now.split) != (before.verdict, before.digest, before.split):
        return (
            f"it is {now.verdict} ({now.split}), not {before.verdict} ({before.split}), or its digest changed"
        )
    if not fixed and now.verdict != "unjudged" and not (mine and doing.kind == "gate"):
        return "it was judged by nobody"
    return ""


def start_up(place: Workplace) -> Prepare:
    """What the agent does when it starts, and what it finds then: a `Sight` as a dictionary."""

    def act() -> dict[str, Any]:
        agent = Agent(place.config, worker_commands(place.toml))
        index = [str(episode["id"]) for episode in agent.index.episodes()]
        agent.index.close()
        store = place.store()
        known = {r.id: _known(r, store.folder(r.id), LISTED) for r in store.records()}
        odd = []
        for folder in thrown_away(store.root):
            record = _record(folder)
            if record is None or record.id != id_of(folder):
                odd.append(folder.name)
            else:
                known[record.id] = _known(record, folder, TRASHED)
        return {"known": known, "index": index, "odd": odd, "left_over": left_over(store.root)}

    return lambda: act


def seen(told: dict[str, Any]) -> Sight:
    """What `start_up` told."""
    known = {episode_id: Known(**fields) for episode_id, fields in told["known"].items()}
    return Sight(known, told["index"], told["odd"], told["left_over"])


def left_over(folder: Path) -> list[str]:
    """Names of what interrupted work left anywhere below `folder`."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob(f"{IN_PROGRESS}*"))


def whole(place: Workplace, episode_ids: Iterable[str]) -> Prepare:
    """Read episodes as the gate does, to the last picture; {id: why it is not whole}."""

    def act() -> dict[str, str]:
        store = place.store()
        return {i: why for i in episode_ids if (why := _fault(store.folder(i), store.read(i)))}

    return lambda: act


def loads(place: Workplace, folders: dict[str, Path]) -> Prepare:
    """Open datasets as stock LeRobot does and decode their first and last frame; {id: error}."""

    def act() -> dict[str, str]:
        faults = {}
        for episode_id, folder in folders.items():
            try:
                dataset = LeRobotDataset(f"armfleet/{episode_id}", root=folder)
                for row in (0, len(dataset) - 1):
                    dataset[row]
            except Exception as error:  # whatever LeRobot raises: that it does is the finding
                faults[episode_id] = f"{type(error).__name__}: {error}"
        return faults

    return lambda: act


def _record(folder: Path) -> EpisodeRecord | None:
    try:
        return read_record(folder)
    except ArmfleetError:
        return None


def _known(record: EpisodeRecord, folder: Path, place: str) -> dict[str, Any]:
    fields = {name: getattr(record, name) for name in ("verdict", "digest", "split", "label")}
    return {**fields, "contents": _contents(folder), "place": place}


def _contents(folder: Path) -> str:
    state = hashlib.sha256()
    for part in CONTENTS:
        for path in sorted([folder / part, *(folder / part).rglob("*")]):
            if path.is_file():
                state.update(f"{path.relative_to(folder)}|".encode() + path.read_bytes())
    return state.hexdigest()


def _fault(folder: Path, record: EpisodeRecord) -> str:
    try:
        data = read_episode(folder)
    except Exception as error:  # the reader's own errors and any other are findings alike
        return str(error)
    rows = len(data.state)
    counts = {record.frames, rows, *(video.frames for video in data.videos.values())}
    if record.origin is None:
        counts.add(len(data.sidecar or ()))
    if len(counts) > 1 or not data.videos:
        return f"rows, pictures and sidecar differ in number: {sorted(counts)}"
    if record.digest and content_digest(data.state, data.action) != record.digest:
        return "its digest is another one"
    reasons = [reason.check for reason in judge_data(data).reasons if reason.check.startswith(BROKEN)]
    return ", ".join(reasons)
