"""What `GET /metrics` on the agent's socket says of the last finished update, in Prometheus' text format.

Format: https://prometheus.io/docs/instrumenting/exposition_formats (0.0.4). All are gauges: they describe
one update and are the same after a restart, since they come from the history.
"""

from agent.training.history import UpdateRecord
from shared.tasks import START_LOSS, START_MSE

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "armfleet_update_"
PER_TASK = {
    "train_loss": "Mean training loss.",
    "eval_loss": "Loss on evaluation episodes.",
    "action_mse": "Mean squared error of sampled actions on evaluation episodes, normalised units.",
    START_LOSS: "Loss on evaluation episodes of the version that it began from.",
    START_MSE: "As action_mse, of the version that it began from.",
}
SCALARS = {
    "learning_rate": "Of its steps.",
    "gradient_norm": "Mean L2 norm of the gradient before clipping.",
    "gradient_norm_max": "Largest L2 norm of the gradient before clipping.",
    "trainable_parameters": "Numbers that train.",
    "steps_per_second": "Steps per second of computing.",
    "peak_memory_bytes": "Most memory that the trainer's process took.",
    "peak_gpu_memory_bytes": "Most memory that the trainer's tensors took on the GPU.",
    "energy_joules": "Energy that the GPU took during its steps.",
}


def exposition(record: UpdateRecord | None) -> str:
    """The page; empty before the first update."""
    if record is None:
        return ""
    lines: list[str] = []
    for name, meaning in PER_TASK.items():
        values = record.per_task.get(name, {})
        lines += _family(name, meaning, {f'{{task="{_escaped(task)}"}}': x for task, x in values.items()})
    for name, meaning in SCALARS.items():
        lines += _family(name, meaning, {"": record.scalars[name]} if name in record.scalars else {})
    about = {
        "steps": ("Steps of the update.", record.steps),
        "examples": ("Frames that it could draw from.", record.examples),
        "duration_seconds": ("Time its steps took.", record.seconds),
        "base_version": ("Version that it began from.", record.version),
        "finished_timestamp_seconds": ("When it was finished, Unix time.", record.finished.timestamp()),
    }
    for name, (meaning, value) in about.items():
        lines += _family(name, meaning, {"": value})
    return "\n".join(lines) + "\n"


def _family(name: str, meaning: str, values: dict[str, float]) -> list[str]:
    if not values:
        return []
    name = PREFIX + name
    rows = [f"{name}{labels} {float(value)!r}" for labels, value in values.items()]
    return [f"# HELP {name} {meaning} Of the last finished update.", f"# TYPE {name} gauge", *rows]


def _escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
