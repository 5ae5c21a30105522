"""The one exception meant for people."""

from shared.exit_codes import ExitCode


class ArmfleetError(Exception):
    """Says what happened, what was kept and what to do next.

    Args:
        what: What happened, as a sentence without its full stop.
        kept: What is unharmed ("12 admitted episodes").
        do: What the reader can do now ("plug the adapter in again").
        code: Exit status of the process if the error ends it.
    """

    def __init__(
        self, what: str, *, kept: str = "", do: str = "", code: ExitCode = ExitCode.UNEXPECTED
    ) -> None:
        self.what, self.kept, self.do, self.code = what, kept, do, ExitCode(code)
        super().__init__(what)

    def __str__(self) -> str:
        parts = [self.what, f"Kept: {self.kept}" if self.kept else "", f"Do: {self.do}" if self.do else ""]
        return " ".join(part.rstrip(".") + "." for part in parts if part)

    def to_dict(self) -> dict[str, str | int]:
        """The wire form; `from_dict` is its inverse."""
        return {"what": self.what, "kept": self.kept, "do": self.do, "code": int(self.code)}

    @classmethod
    def from_dict(cls, data: dict) -> "ArmfleetError":
        """Rebuild an error that another process reported; an unknown code becomes UNEXPECTED."""
        known = {int(code) for code in ExitCode}
        code = data.get("code", 1)
        return cls(
            str(data.get("what", "unknown error")),
            kept=str(data.get("kept", "")),
            do=str(data.get("do", "")),
            code=ExitCode(code) if code in known else ExitCode.UNEXPECTED,
        )
