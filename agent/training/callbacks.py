"""Who is told of an update that is trained; `LocalTrainer.train` says what and when."""

from collections.abc import Callable
from dataclasses import dataclass

from agent.training.building import OnBuild
from agent.training.update import Update

Deliver = Callable[[Update], None]
OnStep = Callable[[int, int, float], None]


@dataclass(frozen=True)
class Callbacks:
    """Of one update."""

    deliver: Deliver | None
    on_step: OnStep | None
    on_build: OnBuild | None
