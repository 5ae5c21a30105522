"""What is said while the cache is built and no step is taken yet: it may take longer than an update."""

import time
from collections.abc import Callable, Iterator, Sequence

from loguru import logger

from agent.training.data import Episode

OnBuild = Callable[[str, int, int], None]
"""Called with (tier, number, count) before the work on each episode that the tier lacks, numbered from 1."""


def announced(
    tier: str, missing: Sequence[Episode], wanted: int, on_build: OnBuild | None
) -> Iterator[Episode]:
    """The `missing` of a tier's `wanted` episodes, one after the other, to be built; the journal gets a line
    before the first and one after the last, and none where nothing is missing."""
    if not missing:
        return
    logger.info(
        "the cache has no {} yet of {} of {} episodes: they are computed once, before the first step",
        tier,
        len(missing),
        wanted,
    )
    began = time.monotonic()
    for number, episode in enumerate(missing, 1):
        if on_build is not None:
            on_build(tier, number, len(missing))
        yield episode
    logger.info("the cache's {} are there, after {:.0f} s", tier, time.monotonic() - began)
