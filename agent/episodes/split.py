"""Train or eval: decided once per episode, by its content, and never changed by later episodes.

Pure and torch-free. The rule: a seeded hash of the content digest falls below the share. Since small numbers
leave that to luck, the tenth admitted episode of a task becomes eval if none before it was; and an episode
whose content, or nearly the same, was seen before goes where its twin went.
"""

from collections.abc import Iterable

import numpy as np

from agent.episodes.record import EpisodeRecord, Split
from shared.files import sha256

ENOUGH = 10
"""Admitted episodes of a task from which on at least one is held out."""


def content_digest(state: np.ndarray, action: np.ndarray) -> str:
    """SHA-256 over the (T, 6) joint values.

    Images, names and instructions are left out on purpose: a re-encoded, renamed or relabelled copy is the
    same demonstration, and must not come to lie on both sides of the split.
    """
    parts = [np.ascontiguousarray(values, dtype="<f4").tobytes() for values in (state, action)]
    return sha256(f"{len(state)}|".encode() + b"".join(parts))


def drawn(digest: str, share: float, seed: int) -> bool:
    """Whether the seeded lottery holds the episode out; probability `share`."""
    number = int(sha256(f"{seed}:{digest}".encode())[:16], 16)
    return number < share * 2**64


def assign(
    digest: str,
    task: str,
    admitted: Iterable[EpisodeRecord],
    share: float,
    seed: int,
    near: Iterable[EpisodeRecord] = (),
) -> Split:
    """Where a newly admitted episode goes.

    Args:
        digest: Its content digest.
        task: Its instruction.
        admitted: The records of all episodes admitted before it.
        share: [split] eval_share.
        seed: [split] seed.
        near: Episodes with a split, admitted or not, that show nearly the same demonstration.
    """
    known = list(admitted)
    twins = {record.split for record in known if record.digest == digest} | {record.split for record in near}
    if twins & {"train", "eval"}:
        return "eval" if "eval" in twins else "train"
    if share <= 0:
        return "train"
    if drawn(digest, share, seed):
        return "eval"
    same = [record.split for record in known if record.task == task]
    return "eval" if len(same) + 1 >= ENOUGH and "eval" not in same else "train"
