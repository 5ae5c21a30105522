"""Regular expressions on full names of modules: several in one, and one taken apart again.

A recipe holds one, as its first release did, so that agents of any release read it and signed manifests keep
their bytes.
"""

import re
from collections.abc import Sequence

_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", re.DOTALL)
"""An escaped character, a set of characters, or one character."""


def either(patterns: Sequence[str]) -> str:
    """One expression that matches in full what any of `patterns` does.

    Raises:
        ValueError: there are none, or one is no regular expression.
    """
    if not patterns:
        raise ValueError("an empty list names no module")
    for pattern in patterns:
        compiled(pattern)
    return "|".join(f"(?:{pattern})" for pattern in patterns)


def alternatives(pattern: str) -> list[str]:
    """The parts of `pattern` between the bars that stand in no parentheses."""
    parts, depth = [""], 0
    for token in _TOKEN.findall(pattern):
        depth += {"(": 1, ")": -1}.get(token, 0)
        if token == "|" and depth == 0:
            parts.append("")
        else:
            parts[-1] += token
    return parts


def compiled(pattern: str) -> re.Pattern[str]:
    """`pattern`, ready for use.

    Raises:
        ValueError: it is no regular expression.
    """
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
