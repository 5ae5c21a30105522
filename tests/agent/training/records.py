"""A record of an update as a trainer leaves it."""

from datetime import UTC, datetime, timedelta
from typing import Any

from agent.training.history import UpdateRecord
from agent.training.update import Update

RED, GREEN = "push the red cube to the left", "push the green cube to the right"
COSTS = frozenset({"steps_per_second", "peak_memory_bytes", "peak_gpu_memory_bytes", "energy_joules"})
"""Metrics that differ between two runs of the same update; the others follow from what it was made of."""
BEGAN = datetime(2026, 5, 1, tzinfo=UTC)


def made_record(number: int = 0, **changes: Any) -> UpdateRecord:
    """Update `number` of a node: 16 steps in 4 seconds, an hour after the one before."""
    fields: dict[str, Any] = {
        "update": f"{number:032x}",
        "version": number,
        "finished": BEGAN + timedelta(hours=number),
        "steps": 16,
        "total_steps": 16 * (number + 1),
        "examples": 900,
        "seconds": 4.0,
        "learning_rate": 1e-3,
        "train_loss": {RED: 0.5, GREEN: 0.25},
        "eval_loss": {RED: 0.75},
        "action_mse": {RED: 1.5},
        "gradient_norm": 1.0,
        "gradient_norm_max": 2.0,
        "trainable_parameters": 1000,
        "peak_memory_bytes": 900_000_000,
    }
    return UpdateRecord.model_validate(fields | changes)


def repeatable(update: Update) -> dict[str, float]:
    """The metrics that two runs of an update share."""
    assert update.header.metrics.keys() >= {"steps_per_second", "peak_memory_bytes"}
    return {name: value for name, value in update.header.metrics.items() if name not in COSTS}
