"""The name of a base policy: one digest over its files. Free of torch."""

import hashlib
from pathlib import Path

from shared.policy.source import base_files, resolve_base


def base_digest(base: str | Path) -> str:
    """SHA-256 over the relative paths and contents of the base's files.

    Weights, configuration, normalisation statistics and tokenizer all count: two nodes with the same digest
    compute the same actions from the same adapter. The folder's own place does not count.

    Raises:
        ArmfleetError: BASE_MISSING, see `resolve_base`.
    """
    folder = resolve_base(base)
    state = hashlib.sha256()
    for path in base_files(folder):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        state.update(f"{path.relative_to(folder).as_posix()}|{content}\n".encode())
    return state.hexdigest()
