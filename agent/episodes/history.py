"""The workstation's own sound episodes, as what is left of them: a signature each.

Signatures are small (about 30 kB) and kept beside the episode (`signature.safetensors`), so that comparing
with two hundred episodes costs no decoding. Torch-free.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from loguru import logger
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from agent.episodes.dataset import EpisodeData, scan
from agent.episodes.following import filled, follow
from agent.episodes.footage import THUMBNAIL, Video, glimpse_video
from agent.episodes.split import content_digest

FILE = "signature.safetensors"
TRACE_HZ = 10.0
"""Rate of the kept trace: a hand moves at under 3 Hz."""
MOST = 200
"""Episodes compared with, the newest: about 20 ms, and 6 MB."""
LOOKS = 8
"""Pictures of which a camera's look is made."""


@dataclass(frozen=True)
class Look:
    """What a camera shows on the whole.

    Attributes:
        background: (THUMBNAIL, THUMBNAIL) uint8, the median of LOOKS pictures.
        tint: (2, TINT, TINT) mean colour.
    """

    background: np.ndarray
    tint: np.ndarray


@dataclass(frozen=True)
class Signature:
    """One episode, small.

    Attributes:
        path, index: Where it is.
        digest: Of its content (`agent.episodes.split`).
        names: Of the joints.
        trace: (n, joints) float32 states at TRACE_HZ, smoothed.
        fps, rows: Of the episode.
        lag_s: By which state trails action; NaN where it could not be told.
        offset: (joints,) median of action minus state, lag taken out; NaN where unknown.
        low, high: (joints,) range of the state.
        speed: Units per second, the 95th percentile of the fastest joint.
        looks: By camera.
    """

    path: str
    index: int
    digest: str
    names: tuple[str, ...]
    trace: np.ndarray
    fps: float
    rows: int
    lag_s: float
    offset: np.ndarray
    low: np.ndarray
    high: np.ndarray
    speed: float
    looks: Mapping[str, Look]


@dataclass(frozen=True)
class History:
    """Sound episodes of the same workstation, oldest first."""

    episodes: tuple[Signature, ...]

    def like(self, joints: int) -> list[Signature]:
        """Those with as many joints."""
        return [s for s in self.episodes if s.trace.shape[1] == joints]


def signature(episode: EpisodeData) -> Signature | None:
    """An episode's signature; None for one that can't be compared (no rows, shapes that differ)."""
    if not len(episode.state) or episode.state.shape != episode.action.shape:
        return None
    state, action = filled(episode.state), filled(episode.action)
    following = follow(state, action, episode.fps)
    return Signature(
        path=str(episode.path),
        index=episode.index,
        digest=content_digest(episode.state, episode.action),
        names=episode.names,
        trace=trace(state, episode.fps),
        fps=episode.fps,
        rows=len(state),
        lag_s=following.lag_s if following else float("nan"),
        offset=np.median(following.residual, axis=0) if following else np.full(state.shape[1], np.nan),
        low=np.percentile(state, 1, axis=0),
        high=np.percentile(state, 99, axis=0),
        speed=top_speed(state, episode.fps),
        looks={name: look(video) for name, video in episode.videos.items() if video.frames},
    )


def top_speed(state: np.ndarray, fps: float) -> float:
    """Units per second of the fastest joint, 95th percentile of the frames in which it moves."""
    step = max(1, round(fps / TRACE_HZ))
    if len(state) <= step:
        return 0.0
    speed = np.abs(state[step:] - state[:-step]).max(axis=1) * fps / step
    moving = speed[speed > 2.0]
    return float(np.percentile(moving, 95)) if len(moving) else 0.0


def trace(state: np.ndarray, fps: float) -> np.ndarray:
    """(n, joints) float32 at TRACE_HZ; each row is the mean of the frames about it."""
    step = max(1, round(fps / TRACE_HZ))
    whole = len(state) // step * step
    if not whole:
        return state[:1].astype(np.float32)
    return state[:whole].reshape(-1, step, state.shape[1]).mean(axis=1).astype(np.float32)


def look(video: Video) -> Look:
    """What a camera shows on the whole."""
    chosen = np.linspace(0, video.frames - 1, LOOKS).round().astype(int)
    background = np.median(video.thumbnails[chosen], axis=0).astype(np.uint8)
    return Look(background, video.tint if video.tint is not None else np.zeros((2, 1, 1), np.float32))


def read_history(folder: Path) -> History:
    """Signatures of a dataset folder, or of all dataset folders in it (one or two levels down)."""
    found = [s for dataset in datasets_below(folder)[-MOST:] for s in signatures_of(dataset)]
    return History(tuple(found[-MOST:]))


def datasets_below(folder: Path) -> list[Path]:
    """Dataset folders: the folder itself, or those up to two levels below, by name."""
    if (folder / "meta/info.json").is_file():
        return [folder]
    found = [*folder.glob("*/meta/info.json"), *folder.glob("*/*/meta/info.json")]
    return sorted(path.parent.parent for path in found if not path.parent.parent.name.startswith("."))


def signatures_of(dataset: Path) -> Iterable[Signature]:
    """The kept signature, else made now from the tables and a few pictures."""
    kept = load(dataset)
    if kept is not None:
        return [kept]
    episodes = (e for e in scan(dataset, glimpse_video) if isinstance(e, EpisodeData))
    return [s for episode in episodes if (s := signature(episode)) is not None]


def save(folder: Path, kept: Signature) -> None:
    """Keep a signature beside its episode; it can be made again, so it need not be durable."""
    tensors = {"trace": kept.trace, "offset": kept.offset, "low": kept.low, "high": kept.high}
    for name, seen in kept.looks.items():
        tensors |= {f"background.{name}": seen.background, f"tint.{name}": seen.tint}
    about = {
        "index": kept.index,
        "digest": kept.digest,
        "names": list(kept.names),
        "fps": kept.fps,
        "rows": kept.rows,
        "lag_s": kept.lag_s,
        "speed": kept.speed,
    }
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    try:
        save_file(contiguous, folder / FILE, metadata={"about": json.dumps(about)})
    except (OSError, SafetensorError) as error:
        logger.warning("the signature of {} could not be kept: {}", folder, error)


def load(folder: Path) -> Signature | None:
    """A kept signature; None where there is none, or none that can be used."""
    try:
        with safe_open(folder / FILE, framework="np") as file:
            about = json.loads(file.metadata()["about"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        looks = {
            name.removeprefix("background."): Look(tensor, tensors[name.replace("background.", "tint.", 1)])
            for name, tensor in tensors.items()
            if name.startswith("background.") and tensor.shape == (THUMBNAIL, THUMBNAIL)
        }
        arrays = {name: tensors[name] for name in ("trace", "offset", "low", "high")}
        about["names"] = tuple(about["names"])
        return Signature(path=str(folder), looks=looks, **arrays, **about)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None
