"""A task's sentence, where both sides must read it alike."""

import re
import unicodedata
from typing import Annotated

from pydantic import AfterValidator, Field

from shared.files import sha256

START_LOSS, START_MSE = "start_loss", "start_mse"
"""Metrics per task in an update's header: of the version that it began from, before its first step."""
NAME_LENGTH = 30
"""With the longest prefix, `action_mse_`, as long as `shared.messages.Metric` lets pass."""
TASK_LENGTH = 300
"""Characters of an instruction. SmolVLA reads its first 48 tokens, some 200 characters of English."""
TOLD_LENGTH = 120
"""Characters of what a workstation tells of it."""
_MARK = 4
_UNREADABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What moves a terminal's cursor, breaks a line or turns the direction of writing, and half characters."""


def why_unusable(task: str) -> str:
    """Why this can't be the instruction of an episode or a rollout, as a sentence; empty: it can.

    It stands in journals, on terminals, in pages and in metrics' labels, so it is one line of readable text.
    Which punctuation it has is its author's business: whatever shows it escapes it.
    """
    if found := _UNREADABLE.search(task):
        name = f"U+{ord(found.group()):04X}"
        return f"the task has a line break or another control character ({name}, at {found.start() + 1})"
    if len(task) > TASK_LENGTH:
        return f"the task has {len(task)} characters, at most {TASK_LENGTH} are allowed"
    return ""


def _usable(task: str) -> str:
    if why := why_unusable(task):
        raise ValueError(why)
    return task


TaskText = Annotated[str, Field(min_length=1), AfterValidator(_usable)]
"""An instruction, as it is recorded, trained and run."""
ToldTask = Annotated[str, Field(pattern=r"^[\w ,.'-]+$", max_length=TOLD_LENGTH)]
"""What a workstation tells of an instruction: words, but no path and no address (`told_task`)."""


def plain_task(task: str) -> str:
    """An instruction without what does not tell two apart: case, spaces, a full stop."""
    return " ".join(task.casefold().split()).rstrip(".! ")


def told_task(task: str) -> str:
    """An instruction as `ToldTask` lets it pass: spaces for the characters that it does not name. Empty:
    nothing is left.

    One that is too long is cut, and ends in four digits of its digest as in `metric_name`.
    """
    if len(task) <= TOLD_LENGTH and all(map(_may_be_told, task)):
        return task
    text = _words(task)
    if len(text) > TOLD_LENGTH:
        text = f"{text[: TOLD_LENGTH - _MARK - 1]} {sha256(text.encode())[:_MARK]}"
    return text


def metric_name(prefix: str, task: str) -> str:
    """A metric's name for an instruction: what `shared.messages.Metric` lets pass.

    Where that leaves something of the instruction out, the name ends in four digits of its digest: two tasks
    have the same one by a chance of 1 in 65,536. It is made of the words that are told of the task, where
    there are any, so that the coordinator finds the task to its name.
    """
    plain = plain_task(_words(task)) or plain_task(task)
    name = re.sub(r"[^a-z0-9]+", "_", plain).strip("_")
    if len(name) > NAME_LENGTH or not plain.isascii():
        name = f"{name[: NAME_LENGTH - _MARK - 1]}_{sha256(plain.encode())[:_MARK]}"
    return prefix + name


def _words(task: str) -> str:
    return " ".join("".join(letter if _may_be_told(letter) else " " for letter in task).split())


def _may_be_told(letter: str) -> bool:
    """Letters, marks, digits and connectors: what `\\w` means in every version of pydantic's expressions."""
    kind = unicodedata.category(letter)
    return letter in " ,.'-" or kind[0] in "LM" or kind in ("Nd", "Pc")
