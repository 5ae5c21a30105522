"""The trainer process: `python -m agent.training.worker --config agent.toml`, started by the daemon.

Requests   train{version, folder, recipe, learning_rate} -> {started, update}
           status{} -> {training, update, step}
Events     ready | building{tier, episode, episodes} | progress{step, steps, loss} | update{id}
           | failed{what, kept, do, code}

Lowest CPU and I/O priority. SIGKILL is the ordinary way to stop it: on the next start an unfinished update
goes on from its checkpoint; after an error, at the next `train`. `update` is said after the update's folder
got its name in the outbox and its measurements their line in the history.
"""

import argparse
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
from loguru import logger

from agent.config import AgentConfig, load_agent_config
from agent.episodes.held_out import leak_guard
from agent.training.checkpoint import Progress
from agent.training.history import History
from agent.training.loggers import Logger, make_loggers, write_all
from agent.training.trainer import LocalTrainer
from agent.training.update import Update, write_update
from shared.adapters import read_adapter
from shared.channel import WorkerChannel, serve
from shared.errors import ArmfleetError
from shared.logging import setup_logging
from shared.priority import set_priority
from shared.recipe import Recipe

LOWEST = 19
"""Nice value that leaves the processor to everybody else (sched(7))."""
PROGRESS_S = 1.0
"""Shortest time between two `progress` events."""


class TrainingWorker:
    """Carries out one update at a time in a thread of its own.

    Args:
        trainer: Does the work.
        outbox: Where finished updates go.
        channel: To the daemon.
        history: Gets a line per update.
        loggers: Get the same.
    """

    def __init__(
        self,
        trainer: LocalTrainer,
        outbox: Path,
        channel: WorkerChannel,
        history: History,
        loggers: Sequence[Logger],
    ) -> None:
        self._trainer, self._outbox, self._channel = trainer, outbox, channel
        self._history, self._loggers = history, loggers
        self._lock = threading.Lock()
        self._running: dict[str, Any] | None = None
        self._said = 0.0

    def resume(self) -> None:
        """Go on with an update that a killed process left behind, if there is one."""
        left = self._trainer.unfinished()
        if left is not None:
            with self._lock:
                self._begin_rest_of(left)

    def train(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Handler of `train`: begins an update and returns at once.

        An update of the same version that was resumed counts as begun. One of another version is finished
        first: `started` is false then, and the daemon asks again. One of the same version and recipe that an
        error ended (the disk was full when it was to be delivered) goes on from its checkpoint.

        Raises:
            ArmfleetError: the version's folder can't be read.
        """
        version = int(fields["version"])
        recipe = Recipe.model_validate(fields["recipe"])
        with self._lock:
            if self._running is not None:
                return {"started": self._running["version"] == version}
            left = self._trainer.unfinished()
            if left is not None and (left.base_version, left.recipe) == (version, recipe):
                self._begin_rest_of(left)
                return {"started": True}
            tensors, _, manifest = read_adapter(Path(fields["folder"]))
            normalisation = manifest.normalisation if manifest else None
            learning_rate = float(fields["learning_rate"])
            self._begin(
                version,
                lambda: self._trainer.train(
                    tensors,
                    version,
                    recipe,
                    learning_rate,
                    self._deliver,
                    self._on_step,
                    normalisation,
                    self._on_build,
                ),
            )
        return {"started": True}

    def status(self, _fields: dict[str, Any]) -> dict[str, Any]:
        """Handler of `status`."""
        running = self._running
        return {"training": running is not None, **(running or {})}

    def _begin_rest_of(self, left: Progress) -> None:
        self._begin(
            left.base_version, lambda: self._trainer.resume(self._deliver, self._on_step, self._on_build)
        )

    def _begin(self, version: int, work: Any) -> None:
        self._running = {"version": version, "step": 0}
        threading.Thread(target=self._work, args=(version, work), name="training", daemon=True).start()

    def _work(self, version: int, work: Any) -> None:
        log = logger.bind(version=version)
        try:
            update: Update = work()
        except ArmfleetError as error:
            log.warning("training ended without an update: {}", error)
            self._running = None
            self._channel.emit("failed", **error.to_dict())
        except Exception as error:
            log.exception("training failed")
            self._running = None
            self._channel.emit("failed", **ArmfleetError(f"training failed: {error}").to_dict())
        else:
            log.bind(update=update.header.id).info("{}", update.record.in_words())
            self._loggers = write_all(self._loggers, update.record)
            self._running = None
            self._channel.emit("update", id=update.header.id)

    def _deliver(self, update: Update) -> None:
        write_update(self._outbox, update)
        try:
            self._history.append(update.record)
        except OSError as error:  # the update itself is safe
            logger.bind(update=update.header.id).warning("the history lacks this update: {}", error)

    def _on_build(self, tier: str, number: int, count: int) -> None:
        """Each one is told: an episode may take a minute."""
        self._channel.emit("building", tier=tier, episode=number, episodes=count)

    def _on_step(self, step: int, steps: int, loss: float) -> None:
        if self._running is not None:
            self._running["step"] = step
        if step == steps or time.monotonic() - self._said >= PROGRESS_S:
            self._said = time.monotonic()
            self._channel.emit("progress", step=step, steps=steps, loss=round(loss, 5))


def lowest_priority() -> None:
    """Leave CPU and disk to everybody else (sched(7), ioprio_set(2))."""
    set_priority(LOWEST)
    try:
        psutil.Process().ionice(psutil.IOPRIO_CLASS_IDLE)
    except (psutil.Error, OSError) as error:
        logger.warning("I/O priority stays as it is: {}", error)


def make_trainer(config: AgentConfig) -> LocalTrainer:
    """The trainer that agent.toml describes.

    Raises:
        ArmfleetError: BASE_MISSING; a list of held-out episodes can't be read.
    """
    return LocalTrainer(
        config.policy.base,
        config.episodes_dir,
        config.training_dir,
        node=config.node.name,
        device=config.policy.device,
        threads=config.policy.threads,
        duty_cycle=config.training.duty_cycle,
        checkpoint_s=config.training.checkpoint_s,
        cache_gb=config.training.cache_gb,
        precision=config.training.precision,
        micro_batch=config.training.micro_batch,
        guard=leak_guard(config.split, config.policy.base),
    )


def main() -> int:
    """Entry point; returns when the daemon is gone."""
    parser = argparse.ArgumentParser(prog="python -m agent.training.worker")
    parser.add_argument("--config", type=Path, required=True)
    config = load_agent_config(parser.parse_args().config)
    setup_logging("trainer")
    lowest_priority()
    channel = WorkerChannel.from_environment()
    try:
        loggers = make_loggers(config.training, config.node.name, config.training_dir)
        history = History(config.training_dir)
        worker = TrainingWorker(make_trainer(config), config.outbox_dir, channel, history, loggers)
    except ArmfleetError as error:
        logger.error("the trainer can't start: {}", error)
        channel.emit("error", **error.to_dict())
        return int(error.code)
    channel.emit("ready")
    worker.resume()
    serve({"train": worker.train, "status": worker.status}, channel, urgent={"status"})
    logger.info("the daemon is gone: the trainer stops, its checkpoint stays")
    # A thread may be in the middle of a step; interpreter shutdown would wait for it or crash in it.
    os._exit(0)


if __name__ == "__main__":
    raise SystemExit(main())
