"""A task that is evaluated as unseen, but not kept from training, is named with the line that mends it."""

from collections.abc import Callable

import pytest
import tomli

from coordinator import daemon
from coordinator.config import CoordinatorConfig
from coordinator.evaluation.unseen import may_train, warning
from shared.exit_codes import ExitCode
from shared.recipe import Recipe

SENTENCE = "push the blue cube to the left"


def test_what_the_recipe_keeps_from_training_is_compared_as_stations_do(config: CoordinatorConfig) -> None:
    kept = Recipe(never_train=("Push the blue  cube to the left.",))
    assert may_train(config.evaluation, kept) == {}
    other = Recipe(never_train=("push the blue cube to the right",))
    assert may_train(config.evaluation, other) == {"push_left_blue": SENTENCE}


def test_the_line_that_mends_it_keeps_what_was_there_and_does() -> None:
    said = warning([SENTENCE], Recipe(never_train=("pull the red cube back",)))
    line = said[said.index("never_train = ") :]
    assert tomli.loads(line)["never_train"] == ["pull the red cube back", SENTENCE]


@pytest.mark.parametrize("never_train", [(), (SENTENCE,)])
def test_the_coordinator_says_so_when_it_starts_and_starts(
    config: CoordinatorConfig, monkeypatch: pytest.MonkeyPatch, never_train: tuple[str, ...], tmp_path
) -> None:
    said: list[str] = []
    log: Callable = lambda _, *words: said.extend(map(str, words))  # noqa: E731
    monkeypatch.setattr(daemon, "setup_logging", lambda component: None)
    monkeypatch.setattr(daemon.logger, "warning", log)
    monkeypatch.setattr(daemon.logger, "error", log)
    recipe = config.recipe.model_copy(update={"never_train": never_train})
    monkeypatch.setattr(daemon, "load", lambda path: config.model_copy(update={"recipe": recipe}))
    assert daemon.main(tmp_path) == ExitCode.CONFIG_INVALID, "only because there is no fleet"
    assert "there is no fleet" in said[-1]
    assert [SENTENCE in words for words in said[:-1]] == [True] * (not never_train)
