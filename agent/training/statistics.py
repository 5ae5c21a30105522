"""What this workstation reports of its recordings: normalisation statistics of what trains, and only that."""

from collections.abc import Collection

import numpy as np
from loguru import logger
from pydantic import ValidationError

from agent.config import AgentConfig
from agent.episodes.held_out import leak_guard
from agent.training.data import Episode, EpisodeFolder, without_tasks
from shared.errors import ArmfleetError
from shared.normalisation import MIN_FRAMES, Statistics, measured


def of_episodes(episodes: Collection[Episode]) -> Statistics | None:
    """Statistics of all frames of `episodes`; None where they are too few to be told.

    Raises:
        ArmfleetError: values that no arm has, or other joints than six.
    """
    if sum(map(len, episodes)) < MIN_FRAMES:
        return None
    try:
        return measured(
            np.concatenate([episode.state for episode in episodes]),
            np.concatenate([episode.action for episode in episodes]),
        )
    except ValueError as error:  # pydantic's are some, too
        cause = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise ArmfleetError(
            f"the recordings have no usable statistics ({cause})",
            kept="all episodes",
            do="look for an episode with other joints, or with values beyond any joint's range",
        ) from error


class StationStatistics:
    """Reads the admitted training episodes, never those for evaluation, each time it is asked.

    Args:
        config: Of this workstation; what it keeps from training is kept out here, too.
    """

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        self._folder: EpisodeFolder | None = None
        self._said = ""

    def __call__(self, never_train: Collection[str]) -> Statistics | None:
        """Without the tasks `never_train`; None if there is nothing to tell, with the cause in the log."""
        try:
            split = self._episodes().read()
            statistics = of_episodes(without_tasks(split.train, never_train))
        except ArmfleetError as error:
            self._say(f"no normalisation statistics are told: {error}")
            return None
        if statistics is None:
            self._say(f"no normalisation statistics are told: fewer than {MIN_FRAMES} frames train")
        else:
            self._say(f"normalisation statistics of {statistics.state.count} frames are told")
        return statistics

    def _episodes(self) -> EpisodeFolder:
        if self._folder is None:
            guard = leak_guard(self._config.split, self._config.policy.base)
            self._folder = EpisodeFolder(self._config.episodes_dir, guard)
        return self._folder

    def _say(self, sentence: str) -> None:
        """Once: every check-in asks again."""
        if sentence != self._said:
            self._said = sentence
            logger.info("{}", sentence)
