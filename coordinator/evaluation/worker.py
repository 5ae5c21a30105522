"""The evaluation process: `python -m coordinator.evaluation.worker --config coordinator.toml`, started by the
daemon.

Resident, since loading torch and the policy takes 15 s.

Requests   evaluate{version, folder|null, tasks: [{verb, color}], seeds: [int], delay_ticks, noise_seed}
               -> {results: {"push_left_red": [0/1 per seed]}, seconds}
           status{} -> {evaluating: version|null}
Events     ready | error{what, kept, do, code}
"""

import argparse
import os
import time
from pathlib import Path
from typing import Any

from loguru import logger

from coordinator.config import load
from coordinator.evaluation.lockstep import Evaluator
from shared.channel import WorkerChannel, serve
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.logging import setup_logging
from sim.tasks import Task


class EvaluationWorker:
    """The handlers."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self._evaluating: int | None = None

    def evaluate(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Handler of `evaluate`; answers when all rollouts are done.

        Raises:
            ArmfleetError: VERSION_REFUSED, BASE_MISMATCH; CONFIG_INVALID for a task the simulator does not
            know.
        """
        tasks = [_task(fields_of_task) for fields_of_task in fields["tasks"]]
        seeds = [int(seed) for seed in fields["seeds"]]
        folder = Path(fields["folder"]) if fields.get("folder") else None
        self._evaluating = fields.get("version")
        began = time.monotonic()
        try:
            results = self._evaluator.evaluate(
                folder, tasks, seeds, int(fields.get("delay_ticks", 1)), int(fields.get("noise_seed", 0))
            )
        finally:
            self._evaluating = None
        seconds = round(time.monotonic() - began, 2)
        logger.bind(version=fields.get("version")).info(
            "{} rollouts in {} s: {}",
            len(tasks) * len(seeds),
            seconds,
            ", ".join(f"{key} {sum(row)}/{len(row)}" for key, row in results.items()),
        )
        return {"results": results, "seconds": seconds}

    def status(self, _fields: dict[str, Any]) -> dict[str, Any]:
        """Handler of `status`."""
        return {"evaluating": self._evaluating}


def _task(fields: dict[str, str]) -> Task:
    try:
        return Task(fields["verb"], fields["color"])
    except (KeyError, ValueError) as error:
        raise ArmfleetError(
            f"the simulator can't evaluate the task {fields} ({error})",
            do="mend [evaluation] in coordinator.toml",
            code=ExitCode.CONFIG_INVALID,
        ) from error


def main() -> int:
    """Entry point; returns when the daemon is gone."""
    parser = argparse.ArgumentParser(prog="python -m coordinator.evaluation.worker")
    parser.add_argument("--config", type=Path, required=True)
    config = load(parser.parse_args().config)
    setup_logging("evaluation")
    channel = WorkerChannel.from_environment()
    try:
        worker = EvaluationWorker(Evaluator(config.policy.base))
    except ArmfleetError as error:
        logger.error("the evaluation can't start: {}", error)
        channel.emit("error", **error.to_dict())
        return int(error.code)
    channel.emit("ready")
    serve({"evaluate": worker.evaluate, "status": worker.status}, channel, urgent={"status"})
    logger.info("the daemon is gone: the evaluation stops")
    os._exit(0)  # a rollout may be running in the handlers' thread


if __name__ == "__main__":
    raise SystemExit(main())
