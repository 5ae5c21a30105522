"""A task's sentence, where both sides must read it alike."""

import re

from shared.files import sha256

START_LOSS, START_MSE = "start_loss", "start_mse"
"""Metrics per task in an update's header: of the version that it began from, before its first step."""
NAME_LENGTH = 30
"""With the longest prefix, `action_mse_`, as long as `shared.messages.Metric` lets pass."""
_MARK = 4


def plain_task(task: str) -> str:
    """An instruction without what does not tell two apart: case, spaces, a full stop."""
    return " ".join(task.casefold().split()).rstrip(".! ")


def metric_name(prefix: str, task: str) -> str:
    """A metric's name for an instruction: what `shared.messages.Metric` lets pass.

    Where that leaves something of the instruction out, the name ends in four digits of its digest: two tasks
    have the same one by a chance of 1 in 65,536.
    """
    plain = plain_task(task)
    name = re.sub(r"[^a-z0-9]+", "_", plain).strip("_")
    if len(name) > NAME_LENGTH or not plain.isascii():
        name = f"{name[: NAME_LENGTH - _MARK - 1]}_{sha256(plain.encode())[:_MARK]}"
    return prefix + name
