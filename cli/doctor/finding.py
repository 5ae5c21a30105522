"""One line of the report."""

from dataclasses import asdict, dataclass
from typing import Literal

from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode

Verdict = Literal["ok", "warn", "fail"]
JOIN_GROUP = "sudo usermod -aG armfleet YOU, then log in again"


@dataclass(frozen=True)
class Finding:
    """What was looked at, and what that means.

    Attributes:
        what: "follower voltage".
        verdict: `warn` also where something could not be looked at: that is no pass.
        means: What was seen and what it means.
        do: What to do about it; empty if nothing.
        code: Exit status of the command if this is the first line that fails.
    """

    what: str
    verdict: Verdict
    means: str
    do: str = ""
    code: ExitCode = ExitCode.OK

    def to_dict(self) -> dict[str, object]:
        """JSON-ready."""
        return {**asdict(self), "code": int(self.code)}


def ok(what: str, means: str, do: str = "") -> Finding:
    """Nothing to worry about."""
    return Finding(what, "ok", means, do)


def warn(what: str, means: str, do: str = "") -> Finding:
    """Works, but look at it; or could not be looked at."""
    return Finding(what, "warn", means, do)


def fail(what: str, means: str, do: str, code: ExitCode) -> Finding:
    """Recording or rollouts won't work like this, or would do harm."""
    return Finding(what, "fail", means, do, code)


def refused(what: str, error: ArmfleetError) -> Finding:
    """A failing line from an error for people."""
    kept = f" Kept: {error.kept}." if error.kept else ""
    return fail(what, f"{error.what}.{kept}", error.do, error.code)
