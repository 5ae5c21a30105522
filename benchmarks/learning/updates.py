"""What stations train, with the product's trainer, each update kept in a file.

An update that is on disk is read; so a killed run trains nothing twice. One that was killed in the middle is
finished first: the trainer resumes it from its own checkpoint, to the same bytes.
"""

from pathlib import Path

from safetensors.numpy import load, save

from agent.training.checkpoint import load_checkpoint
from agent.training.data import Split
from agent.training.trainer import CHECKPOINT, LocalTrainer
from agent.training.update import Update
from benchmarks.learning.plan import Arm, Station
from benchmarks.learning.residual import added_to
from coordinator.aggregation.mean import Tensors64
from shared.adapters import Tensors
from shared.codec import decode, encode
from shared.envelope import pack, unpack
from shared.files import write_atomic
from shared.recipe import Recipe

DELTA = "delta"


class StationUpdates:
    """The updates of one station, numbered from 0.

    Args:
        arm: Whether updates are exact.
        station: Its name and whether it is poisoned.
        recipe: With the training seed; its codec is the arm's.
        base: Folder of the base policy.
        split: Its demonstrations.
        folder: For this station alone; created.
    """

    def __init__(
        self, arm: Arm, station: Station, recipe: Recipe, base: Path, split: Split, folder: Path
    ) -> None:
        self._arm, self._station, self._recipe = arm, station, recipe
        self._base, self._split = base, split
        self._state, self._outbox = folder / "state", folder / "updates"
        self._outbox.mkdir(parents=True, exist_ok=True)
        self._trainer: LocalTrainer | None = None
        self.bytes_sent = 0
        """Encoded deltas of the updates that were asked for."""

    def update(
        self,
        number: int,
        tensors: Tensors,
        version: int,
        rate: float,
        residuals: Tensors64 | None = None,
    ) -> tuple[Tensors, int]:
        """(delta as the coordinator decodes it, number of examples) of update `number`, trained from
        `version` if it is not on disk.

        Args:
            tensors: The version's adapter.
            rate: Learning rate.
            residuals: What the version has on top of the base's frozen weights; None: nothing.
        """
        if number >= len(self._kept()):
            self._train(number, tensors, version, rate, residuals or {})
        header, blobs = unpack(self._kept()[number].read_bytes())
        self.bytes_sent += len(blobs[DELTA])
        sent = blobs[DELTA]
        delta = load(sent) if self._arm.exact else decode(sent, tensors, self._recipe.codec)
        return delta, int(header["examples"])

    def _train(self, number: int, tensors: Tensors, version: int, rate: float, residuals: Tensors64) -> None:
        trainer = self._trainer or self._make_trainer()
        with added_to(trainer.policy, residuals):
            if trainer.unfinished() is not None:
                trainer.resume(self._keep)
            if number == len(self._kept()):
                trainer.train(tensors, version, self._recipe, rate, self._keep)
        self._trainer = trainer

    def _make_trainer(self) -> LocalTrainer:
        return LocalTrainer(self._base, self._split, self._state, node=self._station.name)

    def _keep(self, update: Update) -> None:
        """`agent.training.callbacks.Deliver`; called again with the same update after a kill."""
        if any(self._outbox.glob(f"*-{update.header.id}")):
            return
        fields = {"examples": update.header.examples}
        path = self._outbox / f"{len(self._kept()):06d}-{update.header.id}"
        write_atomic(path, pack(fields, {DELTA: self._sent(update)}))

    def _sent(self, update: Update) -> bytes:
        """The bytes that this station sends of an update."""
        if self._station.poison is None and not self._arm.exact:
            return update.delta
        factor = 1.0 if self._station.poison is None else self._station.poison
        exact = {name: factor * array for name, array in self._exact_delta().items()}
        return save(exact) if self._arm.exact else encode(exact, self._recipe.codec)

    def _exact_delta(self) -> Tensors:
        """The change before it is encoded: the trainer writes a checkpoint before it delivers."""
        checkpoint = load_checkpoint(self._state / CHECKPOINT)
        assert checkpoint is not None
        _, state = checkpoint
        return {name: (state["now"][name] - start).numpy() for name, start in state["start"].items()}

    def _kept(self) -> list[Path]:
        return sorted(path for path in self._outbox.iterdir() if path.name[0].isdigit())
