"""Lists of demonstrations that must not train: of this workstation's configuration, and of the base."""

import json
from pathlib import Path

from agent.config import SplitSection
from agent.episodes.leaks import HeldOut, LeakGuard, read_trace
from agent.episodes.record import EpisodeRecord
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.files import write_atomic
from shared.policy.source import resolve_base

FILE = "held_out.jsonl"
"""In the base's folder: what the base was trained or evaluated on and must stay out of its updates."""


PURGED = ".held_out.jsonl"
"""In the store: evaluation episodes that were removed for good, so that no copy of them trains."""


def remember(store: Path, record: EpisodeRecord) -> None:
    """Note an evaluation episode that is about to be removed for good; written durably."""
    path = store / PURGED
    known = path.read_text() if path.is_file() else ""
    entry = {"digest": record.digest, "trace": record.trace, "what": f"evaluation ({record.id}, removed)"}
    write_atomic(path, f"{known}{json.dumps(entry)}\n")


def leak_guard(split: SplitSection, base: str) -> LeakGuard:
    """The guard that agent.toml and the base policy describe.

    Raises:
        ArmfleetError: a list can't be read (training without it could leak); BASE_MISSING.
    """
    lists = [split.held_out] if split.held_out else []
    beside = resolve_base(base) / FILE
    if beside.is_file():
        lists.append(beside)
    listed = [entry for path in lists for entry in read_held_out(path)]
    return LeakGuard(listed, split.never_train_tasks)


def read_held_out(path: Path) -> list[HeldOut]:
    """A list of held-out demonstrations: one a line, a content digest or an object with `digest` and, where
    near-duplicates count too, `trace` and `what`. A line of `armfleet episodes list --json` is one.

    Raises:
        ArmfleetError: CONFIG_UNREADABLE or CONFIG_INVALID: training without the list could leak.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ArmfleetError(
            f"the list of held-out episodes {path} can't be read: {error}",
            kept="nothing is trained without it",
            do="check the path and its permissions",
            code=ExitCode.CONFIG_UNREADABLE,
        ) from error
    held_out = []
    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                held_out.append(_entry(line.strip(), path.parent.name))
            except (ValueError, KeyError, TypeError) as error:
                raise ArmfleetError(
                    f"{path}:{number}: neither a digest nor an object with one ({error})",
                    kept="nothing is trained without the list",
                    do="mend or remove that line",
                    code=ExitCode.CONFIG_INVALID,
                ) from error
    return held_out


def _entry(line: str, default: str) -> HeldOut:
    fields = json.loads(line) if line.startswith("{") else {"digest": line}
    digest = str(fields["digest"]).lower()
    if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise ValueError("a digest has 64 hexadecimal digits")
    trace = read_trace(fields["trace"]) if fields.get("trace") else None
    return HeldOut(digest, trace, str(fields.get("what") or f"evaluation ({default})"))
