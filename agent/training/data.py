"""Episodes as training data: which may be used, and what is read from their folders. Free of torch.

An episode folder is a LeRobot dataset (v3.0) with one episode, plus `armfleet.json` with its task, verdict
and split. Rows and frames are read directly (parquet, PyAV): the folder is already validated, and one pass in
order is all that training needs.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
from loguru import logger

from agent.episodes.held_out import PURGED, read_held_out
from agent.episodes.leaks import HeldOut, LeakGuard, read_trace, trace_of
from agent.episodes.record import FILE, EpisodeRecord, read_record
from agent.episodes.split import content_digest
from agent.episodes.trash import TRASH
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.files import IN_PROGRESS
from shared.policy.rtc import CONTROL_HZ
from shared.tasks import plain_task

IMAGES = "observation.images."
Frames = Mapping[str, Iterable[np.ndarray]]
"""Camera name to its pictures in order, each (H, W, 3) uint8 RGB: an array of all, or a generator that
decodes one after the other: those of one 640x480 camera take 1.7 GB per minute."""


@dataclass(frozen=True)
class Episode:
    """One demonstration at 30 Hz.

    state, action: (frames, 6) float32 in units (degrees, gripper 0..100).
    frames: Gives the pictures, anew with each call; called only when their features are not cached.
    calibration: Digest of the arms' calibration when it was recorded; empty where it is not known.
    """

    id: str
    digest: str
    task: str
    state: np.ndarray
    action: np.ndarray
    frames: Callable[[], Frames]
    calibration: str = ""

    def __len__(self) -> int:
        return len(self.state)


@dataclass(frozen=True)
class Split:
    """Admitted episodes, by what they are for. `separate` is the only way to make one."""

    train: tuple[Episode, ...]
    eval: tuple[Episode, ...]


def separate(
    train: Iterable[Episode],
    held_out: Iterable[Episode],
    also: Sequence[HeldOut] = (),
    guard: LeakGuard | None = None,
) -> Split:
    """Keep evaluation episodes out of training, whatever their folders say: an episode that is in both, or
    nearly the same as one that is held out, counts for evaluation only.

    Args:
        train: Candidates for training.
        held_out: Evaluation episodes.
        also: Other demonstrations of this workstation that are held out.
        guard: Knows what is held out besides, and what was compared before.
    """
    guard, eval_episodes = guard or LeakGuard(), tuple(held_out)
    kept = [_as_held_out(episode) for episode in eval_episodes]
    train_episodes = []
    for episode in train:
        why = guard.why_not(episode.digest, episode.task, episode.state, episode.action, [*kept, *also])
        if why:
            logger.bind(episode=episode.id).warning("left out of training: {}", why)
        else:
            train_episodes.append(episode)
    return Split(tuple(train_episodes), eval_episodes)


def _as_held_out(episode: Episode) -> HeldOut:
    trace = trace_of(episode.state, episode.action, CONTROL_HZ)
    return HeldOut(episode.digest, trace, f"evaluation ({episode.id})")


class EpisodeFolder:
    """The admitted episodes below a folder. An unchanged episode is read once.

    Args:
        folder: The episode store.
        guard: What must not train besides the evaluation episodes found there.
    """

    def __init__(self, folder: Path, guard: LeakGuard | None = None) -> None:
        self._folder, self._guard = folder, guard or LeakGuard()
        self._known: dict[tuple[str, int], tuple[str, Episode] | None] = {}

    def read(self) -> Split:
        """All admitted episodes, in the order of their names.

        One that can't be read is left out, with the cause in the log: a damaged folder must not stop
        training.
        """
        usable = self._admitted()
        return separate(
            [episode for split, episode in usable if split == "train"],
            [episode for split, episode in usable if split == "eval"],
            _held_out(self._folder),
            self._guard,
        )

    def demonstrated(self) -> list[np.ndarray]:
        """Actions of each admitted episode that is for training, (frames, 6) units. Nothing is trained on
        them, so none is left out for being too much like one that is held out."""
        return [episode.action for split, episode in self._admitted() if split == "train"]

    def _admitted(self) -> list[tuple[str, Episode]]:
        known: dict[tuple[str, int], tuple[str, Episode] | None] = {}
        for path in sorted(self._folder.iterdir()) if self._folder.is_dir() else []:
            note = path / FILE
            if path.name.startswith((IN_PROGRESS, ".")) or not note.is_file():
                continue
            key = (path.name, note.stat().st_mtime_ns)
            known[key] = self._known[key] if key in self._known else _admitted(path)
        self._known = known
        return [entry for entry in known.values() if entry is not None]


def _held_out(store: Path) -> list[HeldOut]:
    """Every demonstration that was ever assigned to evaluation here, whatever became of it: quarantined,
    labelled a failure, in the trash or purged."""
    found = read_held_out(store / PURGED) if (store / PURGED).is_file() else []
    for note in sorted([*store.glob(f"[!.]*/{FILE}"), *store.glob(f"{TRASH}/*/{FILE}")]):
        try:
            record = read_record(note.parent)
            if record.split == "eval" and record.digest:
                trace = read_trace(record.trace) if record.trace else None
                found.append(HeldOut(record.digest, trace, f"evaluation ({record.id})"))
        except (ArmfleetError, ValueError) as error:
            logger.bind(episode=note.parent.name).warning("can't tell whether it is held out: {}", error)
    return found


def _admitted(path: Path) -> tuple[str, Episode] | None:
    try:
        record = read_record(path)
        if not record.usable or record.split is None:
            return None
        return record.split, read_episode(path, record)
    except ArmfleetError as error:
        logger.bind(episode=path.name).warning("left out of training: {}", error)
        return None


def read_episode(path: Path, record: EpisodeRecord) -> Episode:
    """Read one episode's rows; its images stay on disk until asked for.

    Raises:
        ArmfleetError: EPISODE_DAMAGED.
    """
    try:
        info = json.loads((path / "meta" / "info.json").read_text())
        rows = pq.read_table(
            sorted((path / "data").rglob("*.parquet")), columns=["observation.state", "action"]
        )
        state, action = (_matrix(rows[name]) for name in ("observation.state", "action"))
        cameras = sorted(key.removeprefix(IMAGES) for key in info["features"] if key.startswith(IMAGES))
    except (OSError, ValueError, KeyError) as error:
        raise _damaged(path, str(error)) from error
    if len(state) == 0 or not (np.isfinite(state).all() and np.isfinite(action).all()):
        raise _damaged(path, "it has no rows, or rows that are not finite")
    if state.shape != action.shape:
        raise _damaged(path, f"its state has the shape {state.shape}, its action {action.shape}")
    return Episode(
        id=path.name,
        digest=content_digest(state, action),  # what the folder holds, not what its file says
        task=record.task,
        state=state,
        action=action,
        frames=lambda: {camera: decode(path, camera, len(state)) for camera in cameras},
        calibration=record.calibration_digest,
    )


def decode(path: Path, camera: str, count: int) -> Iterator[np.ndarray]:
    """The images of one camera, one after the other, (H, W, 3) uint8 RGB.

    Raises:
        ArmfleetError: EPISODE_DAMAGED: missing, undecodable, or at the end, fewer or more than `count`.
    """
    files = sorted((path / "videos" / f"{IMAGES}{camera}").rglob("*.mp4"))
    if not files:
        raise _damaged(path, f"the video of camera '{camera}' is missing")
    number = 0
    try:
        for file in files:
            with av.open(file) as container:
                stream = container.streams.video[0]
                stream.thread_type = "NONE"
                for frame in container.decode(stream):
                    number += 1
                    yield frame.to_ndarray(format="rgb24")
    except (av.FFmpegError, OSError, IndexError) as error:
        raise _damaged(path, f"the video of camera '{camera}' can't be decoded ({error})") from error
    if number != count:
        raise _damaged(path, f"{number} images of camera '{camera}' for {count} rows")


def tasks_of(episodes: Sequence[Episode]) -> list[str]:
    """The distinct instructions, sorted."""
    return sorted({episode.task for episode in episodes})


def without_tasks(episodes: Iterable[Episode], tasks: Collection[str]) -> list[Episode]:
    """The episodes that show none of `tasks`."""
    left_out = {plain_task(task) for task in tasks}
    return [episode for episode in episodes if plain_task(episode.task) not in left_out]


def _matrix(column: object) -> np.ndarray:
    return np.asarray(column.to_pylist(), dtype=np.float32)  # type: ignore[attr-defined]


def _damaged(path: Path, why: str) -> ArmfleetError:
    return ArmfleetError(
        f"episode {path.name} can't be used: {why}",
        kept="its folder",
        do="quarantine or delete the episode",
        code=ExitCode.EPISODE_DAMAGED,
    )
