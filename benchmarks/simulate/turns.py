"""One machine trains for all nodes, one update at a time.

A node's `TurnTaker` stands where its agent has the trainer's process. While another node trains it says that
nothing was begun, as a trainer does that finishes an earlier update, and the agent asks again a second later.
So a node trains from the newest version that it holds when its turn comes.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loguru import logger

from agent.training.data import Split
from agent.training.update import Update, write_update
from shared.adapters import Tensors, read_adapter
from shared.errors import ArmfleetError
from shared.normalisation import Statistics
from shared.recipe import Recipe

if TYPE_CHECKING:
    from agent.training.trainer import LocalTrainer

type Told = tuple[str, dict[str, Any]]
"""An event of the trainer's process: its name and fields."""


class Turns:
    """Whose turn it is; all but the work itself happens in the event loop."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "trainer")
        self._taken = False

    def begin(self, work: Callable[[], Told], tell: Callable[[Told], None]) -> bool:
        """Do `work` in the trainer's thread, then `tell` what came out, unless other work is being done."""
        if self._taken:
            return False
        self._taken, loop = True, asyncio.get_running_loop()

        def end(told: Told) -> None:
            self._taken = False
            tell(told)

        self._thread.submit(lambda: loop.call_soon_threadsafe(end, work()))
        return True

    def close(self) -> None:
        """Wait for the work that is being done."""
        self._thread.shutdown()


class TurnTaker:
    """What `agent.learning.Learning` uses of `agent.supervision.Worker`, for a trainer that is always ready.

    Args:
        turns: Of all nodes.
        make_trainer: Called in the trainer's thread at the first order: loading a base takes seconds.
        outbox: Where finished updates go.

    Attributes:
        on_event: `Learning.on_event`, called in the event loop.
    """

    state = "ready"

    def __init__(self, turns: Turns, make_trainer: Callable[[], "LocalTrainer"], outbox: Path) -> None:
        self._turns, self._make_trainer, self._outbox = turns, make_trainer, outbox
        self._trainer: LocalTrainer | None = None
        self.on_event: Callable[[str, dict[str, Any]], None] = lambda name, fields: None

    async def request(self, _operation: str, timeout_s: float, **fields: Any) -> dict[str, Any]:
        """Take the order `train` of `agent.training.worker`.

        Raises:
            ArmfleetError: the version's folder can't be read.
        """
        tensors, _, manifest = read_adapter(Path(fields["folder"]))
        normalisation = manifest.normalisation if manifest else None
        recipe = Recipe.model_validate(fields["recipe"])
        started = self._turns.begin(
            lambda: self._train(tensors, fields["version"], recipe, fields["learning_rate"], normalisation),
            lambda told: self.on_event(*told),
        )
        return {"started": started}

    def _train(
        self,
        tensors: Tensors,
        version: int,
        recipe: Recipe,
        learning_rate: float,
        normalisation: Statistics | None,
    ) -> Told:
        """What came out."""
        try:
            self._trainer = self._trainer or self._make_trainer()
            update = self._trainer.train(
                tensors, version, recipe, learning_rate, self._deliver, normalisation=normalisation
            )
        except ArmfleetError as error:
            return "failed", error.to_dict()
        except Exception as error:
            logger.exception("training failed")
            return "failed", ArmfleetError(f"training failed: {error}").to_dict()
        return "update", {"id": update.header.id}

    def _deliver(self, update: Update) -> None:
        write_update(self._outbox, update)


def local_trainer(base: str, split: Split, folder: Path, node: str) -> "Callable[[], LocalTrainer]":
    """Makes the trainer of one node. It brings torch, which check-ins need not wait for."""

    def make() -> "LocalTrainer":
        from agent.training.trainer import LocalTrainer

        return LocalTrainer(base, split, folder, node=node)

    return make
