"""Saved episodes come into the index, and go to the gate."""

from loguru import logger

from agent.judging import Judging
from agent.state import Index


class Intake:
    """What becomes of an episode once it has its name.

    Args:
        index: Of the episodes' folders.
        judging: The gate's queue.
    """

    def __init__(self, index: Index, judging: Judging) -> None:
        self._index, self._judging = index, judging

    def saved(self, episode_id: str) -> None:
        """The arm worker says so."""
        self._index.refresh_episode(episode_id)
        self._judging.add(episode_id)

    def adopt(self) -> None:
        """Hand on the episodes that were saved although nobody heard so: the answer was late, or lost."""
        for episode_id in self._index.unknown_episodes():
            logger.bind(episode=episode_id).info("episode {} was saved after all", episode_id)
            self.saved(episode_id)
