"""Which of the admitted episodes an update is made from, with their pictures encoded."""

from collections.abc import Collection

from loguru import logger

from agent.training.augmentation import with_augmentations
from agent.training.building import OnBuild
from agent.training.cache import TrainingCache
from agent.training.data import Split, without_tasks
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.recipe import Recipe


def chosen(
    split: Split,
    recipe: Recipe,
    cache: TrainingCache,
    only: Collection[str] | None = None,
    on_build: OnBuild | None = None,
) -> Split:
    """What of `split` trains and what evaluates, altered versions included; the first tier of `cache` is
    built.

    Args:
        only: Digests of the training episodes that an update goes on with: what it does not need is not
            computed before. None: all.
        on_build: Told of each episode that is built.

    Raises:
        ArmfleetError: nothing is left to train on; as `TrainingCache.admit`, but for damaged episodes, which
            are left out.
    """
    train = without_tasks(split.train, recipe.never_train)
    if left := len(split.train) - len(train):
        logger.warning("{} episodes show tasks that the coordinator keeps unseen: they don't train", left)
    train = with_augmentations(train, recipe.augmentations)
    if only is not None:
        train = [episode for episode in train if episode.digest in only]
    split = _with_features(Split(tuple(train), split.eval), cache, on_build)
    if not split.train and only is None:
        raise ArmfleetError(
            "there is nothing to train on: no admitted training episode",
            do="record demonstrations; the agent's log says why any were quarantined",
        )
    return split


def _with_features(split: Split, cache: TrainingCache, on_build: OnBuild | None) -> Split:
    """`split` with the first tier built; an episode with a damaged video is left out, with the cause in the
    log."""
    damaged: set[str] = set()
    for episode in cache.without_features([*split.train, *split.eval], on_build):
        try:
            cache.admit(episode)
        except ArmfleetError as error:
            if error.code != ExitCode.EPISODE_DAMAGED:
                raise
            logger.bind(episode=episode.id).warning("left out of training: {}", error)
            damaged.add(episode.digest)
    return Split(
        tuple(episode for episode in split.train if episode.digest not in damaged),
        tuple(episode for episode in split.eval if episode.digest not in damaged),
    )
