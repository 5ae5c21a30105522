"""The episode store: one folder per episode, each the whole truth about itself. Torch-free, LeRobot-free.

    store = EpisodeStore(config.episodes_dir, config.split)
    record = store.judge(episode_id)    # after record_stop: gate, digest, split; durable when it returns
    store.records()                     # all of them, oldest first
    store.label(episode_id, "failure")  # what an operator says of it

The daemon and its gate call the methods that write, one at a time (a lock on the folder): between reading and
replacing an episode's own file nobody else does. The recorder and the importer only add folders.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from loguru import logger

from agent.config import SplitSection
from agent.episodes.dataset import read_episode
from agent.episodes.gate import judge_data
from agent.episodes.held_out import remember
from agent.episodes.history import MOST, History, load, save
from agent.episodes.leaks import near_duplicate, read_trace, trace_of
from agent.episodes.record import (
    FILE,
    Decision,
    EpisodeRecord,
    Label,
    Reason,
    Split,
    now,
    read_record,
    write_record,
)
from agent.episodes.split import assign, content_digest
from agent.episodes.trash import purge, throw_away, thrown_away, trash_records
from agent.lock import locked
from shared.errors import ArmfleetError
from shared.files import remove_in_progress

LOCK = ".lock"
WAIT_S = 30.0
"""Longest wait for another process that writes: it holds the lock for milliseconds, but at low priority."""


class EpisodeStore:
    """The episodes of one workstation.

    Args:
        root: Folder of episode folders.
        split: [split] of agent.toml.
        thresholds: [gate] thresholds of agent.toml.
    """

    def __init__(
        self, root: Path, split: SplitSection, thresholds: Mapping[str, float] | None = None
    ) -> None:
        self.root, self._split, self._thresholds = root, split, thresholds
        root.mkdir(parents=True, exist_ok=True)

    def recover(self) -> list[str]:
        """At start-up, while nobody writes: remove what killed processes left half-written, in the store and
        beside the episodes' own files; the names."""
        names = remove_in_progress(self.root)
        for folder in (*(self.root / name for name in self._names()), *thrown_away(self.root)):
            names += [f"{folder.name}/{name}" for name in remove_in_progress(folder)]
        return names

    def folder(self, episode_id: str) -> Path:
        """Where an episode lives: a LeRobot dataset."""
        return self.root / episode_id

    def records(self) -> list[EpisodeRecord]:
        """All episodes, in the order of their ids; one whose own file is damaged is logged and left out."""
        records = []
        for name in self._names():
            try:
                records.append(read_record(self.root / name))
            except ArmfleetError as error:
                logger.bind(episode=name).error("{}", error)
        return records

    def read(self, episode_id: str) -> EpisodeRecord:
        """One episode's record.

        Raises:
            ArmfleetError: there is none of this id, or EPISODE_DAMAGED.
        """
        if not (self.root / episode_id / FILE).is_file() and not (self.root / episode_id).is_dir():
            raise ArmfleetError(
                f"there is no episode {episode_id}", do="`armfleet episodes list` names all there are"
            )
        return read_record(self.root / episode_id)

    def admitted(self, split: str | None = None) -> list[EpisodeRecord]:
        """The admitted episodes, of one split or of both."""
        return [r for r in self.records() if r.verdict == "admitted" and split in (None, r.split)]

    def judge(self, episode_id: str) -> EpisodeRecord:
        """Pass the gate, compute digest and trace, assign the split; the record, written durably.

        An episode that was judged before keeps its split, and what a person decided stands, with the gate's
        findings beside it. One that can't be read is quarantined.

        Raises:
            ArmfleetError: EPISODE_DAMAGED, its own file can't be read.
        """
        self.read(episode_id)
        found = self._judged(self.folder(episode_id))
        with self._writing():
            record = self.read(episode_id)  # a label may have come meanwhile
            judged = record.model_copy(update=found)
            if judged.decision is not None:
                judged = judged.model_copy(update={"verdict": judged.decision.verdict})
            judged = self._with_split(judged)
            write_record(self.folder(episode_id), judged)
        why = "; ".join(reason.message for reason in judged.reasons)
        logger.bind(episode=episode_id, split=judged.split).info(
            "episode {} is {}{}", episode_id, judged.verdict, f": {why}" if why else ""
        )
        return judged

    def label(self, episode_id: str, label: Label | None) -> EpisodeRecord:
        """Keep what the operator says of the attempt; None takes it back. Raises as `read`."""
        with self._writing():
            record = self.read(episode_id).model_copy(update={"label": label})
            write_record(self.folder(episode_id), record)
        logger.bind(episode=episode_id).info("episode {} is labelled {}", episode_id, label)
        return record

    def decide(self, episode_id: str, verdict: str, reason: str) -> EpisodeRecord:
        """Admit or quarantine by hand, whatever the gate says; its findings stay in the record.

        Raises:
            ArmfleetError: as `read`; or the episode was never judged and can't be admitted unread.
        """
        with self._writing():
            record = self.read(episode_id)
            if verdict == "admitted" and (record.verdict == "unjudged" or not record.trace):
                why = "has not seen it yet" if record.verdict == "unjudged" else "could not read it"
                raise ArmfleetError(
                    f"episode {episode_id} can't be admitted: the gate {why}",
                    kept="the episode, as it is",
                    do="wait for the gate, or import a sound copy of it",
                )
            decision = Decision.model_validate({"verdict": verdict, "reason": reason, "at": now()})
            record = record.model_copy(update={"verdict": decision.verdict, "decision": decision})
            record = self._with_split(record)
            write_record(self.folder(episode_id), record)
        logger.bind(episode=episode_id).info("episode {} is {} by hand: {}", episode_id, verdict, reason)
        return record

    def delete(self, episode_id: str, for_good: bool = False) -> Path | None:
        """Move an episode to the trash, or remove it for good, also from the trash; where it lies now.

        Raises:
            ArmfleetError: there is none of this id.
        """
        with self._writing():
            folder, thrown = self.folder(episode_id), thrown_away(self.root, episode_id)
            if not folder.is_dir() and not (for_good and thrown):
                raise ArmfleetError(f"there is no episode {episode_id}", kept="all episodes")
            if not for_good:
                target = throw_away(folder)
                logger.bind(episode=episode_id).warning("episode {} was moved to {}", episode_id, target)
                return target
            for doomed in [*thrown, *([folder] if folder.is_dir() else [])]:
                self._remember(doomed)
                purge(self.root, doomed)
        logger.bind(episode=episode_id).warning("episode {} was removed for good", episode_id)
        return None

    def _remember(self, folder: Path) -> None:
        try:
            record = read_record(folder)
        except ArmfleetError:
            return  # what can't be read can't have a copy that is known to be one
        if record.split == "eval" and record.digest:
            remember(self.root, record)

    def _judged(self, folder: Path) -> dict[str, object]:
        """What the gate and the content say: fields of a record."""
        try:
            data = read_episode(folder)
        except ArmfleetError as error:
            reason = Reason(check="container.unreadable", value=None, threshold=None, message=error.what)
            return {"verdict": "quarantined", "reasons": [reason]}
        judgement = judge_data(data, self._history(folder.name), thresholds=self._thresholds)
        if judgement.verdict == "admitted" and judgement.signature is not None:
            save(folder, judgement.signature)
        return {
            "verdict": judgement.verdict,
            "reasons": judgement.reasons,
            "notes": judgement.notes,
            "digest": content_digest(data.state, data.action),
            "trace": _trace(data.state, data.action, data.fps),
        }

    def _history(self, episode_id: str) -> History:
        """What is kept of the other admitted episodes, the newest `MOST`."""
        others = [r.id for r in self.admitted() if r.id != episode_id][-MOST:]
        kept = (load(self.folder(other)) for other in others)
        return History(tuple(signature for signature in kept if signature is not None))

    def _with_split(self, record: EpisodeRecord) -> EpisodeRecord:
        """Assign the split of a newly admitted episode; one that was assigned never changes."""
        if record.split is not None or record.verdict != "admitted":
            return record
        others = [other for other in self.records() if other.id != record.id]
        placed = [r for r in (*others, *trash_records(self.root)) if r.split]
        admitted = [other for other in others if other.verdict == "admitted"]
        share, seed = self._split.eval_share, self._split.seed
        split: Split = assign(record.digest, record.task, admitted, share, seed, self._twins(record, placed))
        return record.model_copy(update={"split": split})

    def _twins(self, record: EpisodeRecord, known: list[EpisodeRecord]) -> list[EpisodeRecord]:
        """Those of `known` that show the same demonstration as `record`, or nearly."""
        same = [other for other in known if other.digest == record.digest]
        if same or not record.trace:
            return same
        data = read_episode(self.folder(record.id), with_video=False)
        traced = [(other, read_trace(other.trace)) for other in known if other.trace]
        return [other for other, trace in traced if near_duplicate(trace, data.state, data.action)]

    @contextmanager
    def _writing(self) -> Iterator[None]:
        refusal = ArmfleetError(
            f"another process has been writing to {self.root} for {WAIT_S:g} s", do="try again"
        )
        with locked(self.root / LOCK, WAIT_S, refusal):
            yield

    def _names(self) -> list[str]:
        folders = (path for path in self.root.iterdir() if path.is_dir())
        return sorted(path.name for path in folders if not path.name.startswith("."))


def _trace(state: np.ndarray, action: np.ndarray, fps: float) -> str:
    if state.ndim != 2 or state.shape != action.shape or not len(state):
        return ""
    return trace_of(state, action, fps).text()
