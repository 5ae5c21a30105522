"""Recording one episode into one LeRobot dataset folder of its own, whole or not at all.

A killed `LeRobotDataset` loses everything it holds, and a resumed one may never load again. So each episode
is a dataset: it grows in `.inprogress-ID`, is saved, finalized and flushed, and then gets its name in one
step.

    recorder = EpisodeRecorder(…); recorder.warm_up()
    take = recorder.start("000012", "push the red cube to the left")
    take.add(seen, goal)            # 30 times a second, in the control loop
    folder = take.save()            # or take.discard()
"""

import errno
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import av
import datasets
import numpy as np
from lerobot.configs.video import RGBEncoderConfig
from lerobot.datasets import dataset_writer
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from loguru import logger

from agent.config import RecordingSection
from agent.episodes.encoding import EpisodeEncoder
from agent.episodes.record import SIDECAR, EpisodeRecord, Intervention, now, write_record
from agent.robot.cameras import Frame
from agent.robot.features import ROBOT_TYPE, Shape, dataset_features
from agent.robot.loop import Observation
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.files import IN_PROGRESS, commit_folder, free_bytes

MIN_FRAMES = 2
"""LeRobot computes no image statistics below, and a dataset of one frame can't be read back."""
PRESET = "veryfast"
WARM_UP_FRAMES = 8


@dataclass(frozen=True)
class RecorderSettings:
    """What every episode of this workstation has in common.

    Attributes:
        folder: The store; finished episodes are its subfolders.
        cameras: Name -> (height, width, 3).
        fps: Rows per second.
        recording: [recording] of agent.toml.
        calibration_digest: Of follower and leader, when recording began.
    """

    folder: Path
    cameras: Mapping[str, Shape]
    fps: int
    recording: RecordingSection
    calibration_digest: str


class Take:
    """An episode being recorded. `add` is called by the control loop, the rest by whoever asked for it."""

    def __init__(
        self,
        settings: RecorderSettings,
        encoder: RGBEncoderConfig,
        episode_id: str,
        task: str,
        max_frames: int,
        intervention: Intervention | None = None,
    ) -> None:
        self.id, self.task = episode_id, task
        self._intervention = intervention
        self.frames = 0
        self._max_frames = max_frames
        self.first_frame = threading.Event()
        self._settings = settings
        self._final = settings.folder / episode_id
        self._work = settings.folder / f"{IN_PROGRESS}{episode_id}"
        shutil.rmtree(self._work, ignore_errors=True)
        self._dataset = LeRobotDataset.create(
            repo_id=f"armfleet/{episode_id}",
            fps=settings.fps,
            features=dataset_features(settings.cameras),
            root=self._work,
            robot_type=ROBOT_TYPE,
            rgb_encoder=encoder,
            metadata_buffer_size=1,
        )
        self._encoder = EpisodeEncoder(settings.fps, encoder)
        self._dataset.writer._streaming_encoder = self._encoder  # LeRobot offers no way to hand one in
        self._sidecar = (self._work / SIDECAR).open("w", encoding="utf-8")
        self._closed = False

    def add(self, seen: Observation, action: np.ndarray) -> None:
        """One row: what was seen and the goal commanded in answer, (6,) units.

        Raises:
            ArmfleetError: the encoder failed; the episode can't be kept.
        """
        if self._closed or self.full:
            return
        frame: dict[str, object] = {
            "observation.state": np.asarray(seen.state, np.float32),
            "action": np.asarray(action, np.float32),
            "task": self.task,
        }
        frame |= {f"observation.images.{name}": shot.image for name, shot in seen.frames.items()}
        try:
            self._dataset.add_frame(frame)
            self._sidecar.write(json.dumps(_sidecar_row(self.frames, seen)) + "\n")
        except OSError as error:
            raise _disk_full(self._settings.folder, error) from error
        except (RuntimeError, ValueError) as error:
            raise _unusable(self.id, f"a frame could not be added: {error}") from error
        self.frames += 1
        self.first_frame.set()

    @property
    def full(self) -> bool:
        """The longest length is reached; further rows are not taken."""
        return self.frames >= self._max_frames

    def save(self) -> Path:
        """Finish, flush and name the episode; its folder.

        Raises:
            ArmfleetError: EPISODE_DAMAGED (too short, frames dropped) or DISK_FULL; nothing is left then.
        """
        self._closed = True
        try:
            self._check()
            self._dataset.save_episode()
            self._dataset.finalize()
            self._sidecar.close()
            settings = self._settings
            record = EpisodeRecord(
                id=self.id,
                task=self.task,
                frames=self.frames,
                fps=settings.fps,
                created=now(),
                calibration_digest=settings.calibration_digest,
                intervention=self._intervention,
            )
            shutil.rmtree(self._work / "images", ignore_errors=True)
            write_record(self._work, record)
            commit_folder(self._work, self._final)
        except OSError as error:
            self.discard()
            raise _disk_full(self._settings.folder, error) from error
        except RuntimeError as error:
            self.discard()
            raise _unusable(self.id, str(error)) from error
        except BaseException:
            self.discard()
            raise
        logger.bind(episode=self.id).info("saved episode {}: {} frames", self.id, self.frames)
        return self._final

    def discard(self) -> None:
        """Stop the encoder and remove what was written; never fails."""
        self._closed = True
        try:
            self._dataset.writer.cancel_pending_videos()
            self._dataset.finalize()
        except Exception as error:
            logger.bind(episode=self.id).warning("closing a discarded episode: {}", error)
        self._sidecar.close()
        shutil.rmtree(self._work, ignore_errors=True)

    def _check(self) -> None:
        if self.frames < MIN_FRAMES:
            raise _unusable(self.id, f"it has {self.frames} frames, a dataset needs {MIN_FRAMES}")
        if dropped := self._encoder.dropped:
            raise _unusable(self.id, f"the video encoder fell behind and dropped {dropped} frames")


class EpisodeRecorder:
    """Makes `Take`s; holds what is worth keeping warm between them."""

    def __init__(self, settings: RecorderSettings) -> None:
        self.settings = settings
        recording = settings.recording
        # Each episode would otherwise print twenty lines about its video and a progress bar.
        av.logging.set_libav_level(av.logging.ERROR)
        datasets.disable_progress_bars()
        dataset_writer.embed_images = _embed_pictures
        self._encoder = RGBEncoderConfig(vcodec=recording.vcodec, crf=recording.crf, preset=PRESET)

    def warm_up(self) -> None:
        """Record a few black frames to a temporary folder, so that the first real one doesn't pay for
        imports."""
        self.settings.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="armfleet-warm-up-") as folder:
            settings = RecorderSettings(
                Path(folder), self.settings.cameras, self.settings.fps, self.settings.recording, ""
            )
            take = Take(settings, self._encoder, "warm-up", "warm up", WARM_UP_FRAMES)
            for index in range(WARM_UP_FRAMES):
                take.add(_blank(self.settings.cameras, index), np.zeros(6, np.float32))
            take.save()

    def start(
        self, episode_id: str, task: str, max_s: float, intervention: Intervention | None = None
    ) -> Take:
        """Begin an episode; its first row comes with the control loop's next tick.

        Args:
            episode_id: Names its folder.
            task: The instruction.
            max_s: Its longest length.
            intervention: The rollout in which a person has taken over; None for a demonstration.

        Raises:
            ArmfleetError: DISK_FULL, less than [recording] min_free_mb is free; the id is taken; the task is
            empty.
        """
        settings = self.settings
        if not task.strip():
            raise ArmfleetError("an episode needs a task", do='say what is to be done: --task "…"')
        if (settings.folder / episode_id).exists():
            raise ArmfleetError(f"there is an episode {episode_id} already", kept="that episode")
        free = free_bytes(settings.folder) // 2**20
        if free < settings.recording.min_free_mb:
            raise ArmfleetError(
                f"{free} MB are free on the disk of {settings.folder}, recording needs "
                f"{settings.recording.min_free_mb}",
                kept="all saved episodes; nothing was recorded",
                do="make room, or lower [recording] min_free_mb",
                code=ExitCode.DISK_FULL,
            )
        try:
            frames = max(1, round(max_s * settings.fps))
            return Take(settings, self._encoder, episode_id, task, frames, intervention)
        except OSError as error:
            raise _disk_full(settings.folder, error) from error


_lerobots_embed_images = dataset_writer.embed_images


def _embed_pictures(dataset: datasets.Dataset) -> datasets.Dataset:
    """As LeRobot's, which passes every row through Python also where no column holds pictures: nine tenths of
    the time that saving takes, 1.8 s for a minute."""
    if any(isinstance(feature, datasets.Image) for feature in dataset.features.values()):
        return _lerobots_embed_images(dataset)
    return dataset


def _sidecar_row(index: int, seen: Observation) -> dict[str, object]:
    """What a dataset can't hold: real time, ages, repeats, what the bus needed, health. Seconds.

    `bus` (arm -> joint -> kind -> count) is there in rows in which something had to be cured, `health` in
    rows before which a joint was sampled."""
    row: dict[str, object] = {
        "frame": index,
        "tick": seen.tick,
        "wall": round(seen.wall, 6),
        "period": None if np.isnan(seen.period_s) else round(seen.period_s, 6),
        "late": round(seen.late_s, 6),
        "retries": seen.retries,
        "cameras": {
            name: {"stamp": round(shot.stamp, 6), "age": round(shot.age_s, 6), "repeat": shot.repeat}
            for name, shot in seen.frames.items()
        },
    }
    if seen.bus:
        row["bus"] = seen.bus
    if seen.health:
        joint, health = seen.health
        row["health"] = {"joint": joint, **health.to_dict()}
    return row


def _blank(cameras: Mapping[str, Shape], tick: int) -> Observation:
    frames = {name: Frame(np.zeros(shape, np.uint8), 0.0, 0.0, False, 0.0) for name, shape in cameras.items()}
    return Observation(tick, time.time(), float("nan"), 0.0, np.zeros(6, np.float32), None, frames, 0)


def _unusable(episode_id: str, cause: str) -> ArmfleetError:
    return ArmfleetError(
        f"episode {episode_id} can't be kept: {cause}",
        kept="all episodes saved before",
        do="record it again",
        code=ExitCode.EPISODE_DAMAGED,
    )


def _disk_full(folder: Path, error: OSError) -> ArmfleetError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        what, do = f"the disk of {folder} is full", "make room and record it again"
        code = ExitCode.DISK_FULL
    else:
        what, do = f"{folder} can't be written to: {error}", "check the disk and its permissions"
        code = ExitCode.UNEXPECTED
    return ArmfleetError(what, kept="all episodes saved before", do=do, code=code)
