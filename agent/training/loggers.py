"""TensorBoard and Weights & Biases, where agent.toml asks for one; nothing is written or sent otherwise.

Both get what the history gets (`agent.training.history`), the steps of the node's life as their axis. They
are a convenience: one that fails is left alone until the trainer starts again, and training goes on.
"""

import importlib.util
import queue
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from loguru import logger

from agent.config import TrainingSection
from agent.training.history import UpdateRecord
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode

WAITING = 100
"""Updates that may wait for wandb's server."""


class Logger(Protocol):
    """Takes what was measured of an update."""

    def write(self, record: UpdateRecord) -> None:
        """Raises whatever its library raises."""


class TensorBoard:
    """Event files in `folder`.

    Raises:
        ArmfleetError: CONFIG_INVALID: the package is not installed.
    """

    def __init__(self, folder: Path) -> None:
        _require("tensorboard", "tensorboard")
        self._folder = folder
        self._writer: Any = None

    def write(self, record: UpdateRecord) -> None:
        """Append and flush: the trainer may be killed at any instant."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder))
        for name, value in series(record).items():
            self._writer.add_scalar(name, value, record.total_steps, record.finished.timestamp())
        self._writer.flush()


class Wandb:
    """One run per node in `project`, gone on with by each trainer process. The machine's name, user,
    paths, code and console are not sent; the names of tasks are.

    Args:
        project: wandb's project; key and server come from wandb's own variables and files.
        node: The run's name.
        folder: For wandb's files.

    Raises:
        ArmfleetError: CONFIG_INVALID: the package is not installed.
    """

    def __init__(self, project: str, node: str, folder: Path) -> None:
        _require("wandb", "wandb_project")
        self._project, self._node, self._folder = project, node, folder
        self._waiting: queue.Queue[UpdateRecord] = queue.Queue(WAITING)
        self._sender = threading.Thread(target=self._send, name="wandb", daemon=True)

    def write(self, record: UpdateRecord) -> None:
        """Leave it to a thread: wandb was seen to wait for ten minutes for a server that it could not reach.

        Raises:
            RuntimeError: too many updates wait to be sent.
        """
        if self._sender.ident is None:
            self._sender.start()
        if self._waiting.full():
            raise RuntimeError(f"{WAITING} updates could not be sent")
        self._waiting.put_nowait(record)

    def _send(self) -> None:
        try:
            run = self._begin()
            while True:
                record = self._waiting.get()
                run.log({"total_steps": record.total_steps, "version": record.version, **series(record)})
        except Exception as error:
            logger.warning("wandb gets no metrics any more: {}", error)

    def _begin(self) -> Any:
        import wandb

        settings = wandb.Settings(
            console="off",
            disable_git=True,
            host=self._node,
            save_code=False,
            silent=True,
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        run = wandb.init(
            project=self._project,
            id=self._node,
            name=self._node,
            resume="allow",
            dir=self._folder,
            settings=settings,
        )
        run.define_metric("*", step_metric="total_steps")
        return run


def series(record: UpdateRecord) -> dict[str, float]:
    """Name to value: means over tasks under the metric's name, those of a task as `metric/task`."""
    tasks = {f"{name}/{task}": x for name, found in record.per_task.items() for task, x in found.items()}
    return record.scalars | tasks


def make_loggers(config: TrainingSection, node: str, folder: Path) -> list[Logger]:
    """What `config` asks for.

    Raises:
        ArmfleetError: CONFIG_INVALID: its package is not installed.
    """
    loggers: list[Logger] = []
    if config.tensorboard is not None:
        loggers.append(TensorBoard(config.tensorboard))
    if config.wandb_project is not None:
        loggers.append(Wandb(config.wandb_project, node, folder))
    return loggers


def write_all(loggers: Sequence[Logger], record: UpdateRecord) -> list[Logger]:
    """Write to each; those that did not fail."""
    working = []
    for each in loggers:
        try:
            each.write(record)
        except Exception as error:  # theirs may raise anything, and none of it is worth an update
            logger.warning("{} gets no metrics any more: {}", type(each).__name__, error)
        else:
            working.append(each)
    return working


def _require(package: str, key: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ArmfleetError(
            f"[training] {key} is set, but the package {package} is not installed",
            kept="what was trained",
            do=f"install {package} into armfleet's environment, or take the line out of agent.toml",
            code=ExitCode.CONFIG_INVALID,
        )
