"""Whether another episode may begin in the folder of episodes, under which id, and for how long there is
room."""

from collections import deque
from pathlib import Path

from agent.config import AgentConfig
from agent.episodes.trash import id_of, thrown_away
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.files import IN_PROGRESS, free_bytes
from shared.policy.rtc import CONTROL_HZ

BYTES_PER_PIXEL = 0.05
"""Of video, in each frame, where nothing was measured yet: two 240x320 cameras at 30 fps left 2.3 MB in 10 s
(H.264, veryfast, CRF 23)."""
NEWEST = 20
"""Episodes whose size is taken for that of the next."""


def check_disk(episodes: Path, min_free_mb: int) -> None:
    """Raise DISK_FULL if less than [recording] min_free_mb is free."""
    free = free_bytes(episodes) // 2**20
    if free < min_free_mb:
        raise ArmfleetError(
            f"only {free} MB are free, recording needs {min_free_mb} MB",
            kept="every episode recorded so far",
            do="make room, or lower [recording] min_free_mb",
            code=ExitCode.DISK_FULL,
        )


def next_episode(episodes: Path) -> str:
    """An id that no episode here has, finished or not; ids sort by age."""
    names = [path.name.removeprefix(IN_PROGRESS) for path in episodes.iterdir()]
    names += [id_of(folder) for folder in thrown_away(episodes)]  # they may come back
    return f"{max((int(name) for name in names if name.isdigit()), default=0) + 1:06d}"


class Space:
    """How long the disk lasts, judged by the size of the newest episodes.

    Args:
        config: agent.toml.
    """

    def __init__(self, config: AgentConfig) -> None:
        self._folder, self._reserve = config.episodes_dir, config.recording.min_free_mb * 2**20
        pixels = sum(camera.width * camera.height for camera in config.cameras.values())
        self._assumed = max(1.0, pixels * CONTROL_HZ * BYTES_PER_PIXEL)
        self._measured: deque[tuple[int, float]] = deque(maxlen=NEWEST)

    def note(self, episode_id: str, seconds: float) -> None:
        """Measure an episode of this length; one that is gone is left out."""
        try:
            files = [path for path in (self._folder / episode_id).rglob("*") if path.is_file()]
            size = sum(path.stat().st_size for path in files)
        except OSError:
            return
        if size and seconds > 0:
            self._measured.append((size, seconds))

    @property
    def bytes_per_s(self) -> float:
        """Of recording."""
        if not self._measured:
            return self._assumed
        sizes, seconds = zip(*self._measured, strict=True)
        return sum(sizes) / sum(seconds)

    @property
    def measured(self) -> bool:
        """False: assumed, for want of episodes."""
        return bool(self._measured)

    def minutes(self) -> float:
        """Of recording before [recording] min_free_mb is reached."""
        return max(0, free_bytes(self._folder) - self._reserve) / self.bytes_per_s / 60
