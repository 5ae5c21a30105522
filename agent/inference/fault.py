"""Why a policy is not listened to any more: what ends a rollout, in the operator's words. Free of torch."""

from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode

KEPT = "the rollout's trace and video, all episodes and versions; the arm holds"
_LOOK = "see in `armfleet status` that policy and cameras are ready; a policy that hangs is started again"


class PolicyFault(ArmfleetError):
    """The rollout ends; the arm and its cameras are sound.

    Args:
        reason: The rollout's, one word.
        what, do: As of ArmfleetError.
    """

    def __init__(self, reason: str, what: str, do: str = _LOOK) -> None:
        super().__init__(what, kept=KEPT, do=do, code=ExitCode.POLICY_FAILED)
        self.reason = reason


def bad_actions(version: int | None) -> PolicyFault:
    """Its actions are infinite or no numbers."""
    do = "let the fleet's operator know, who can roll it back; it would do the same again"
    return PolicyFault("bad_actions", f"{named(version)} gave actions that are not finite numbers", do)


def policy_changed(before: int | None, now: int | None) -> PolicyFault:
    """Another version answers than the one that the rollout began with."""
    what = f"the rollout began with {named(before)}, and {named(now)} answered"
    return PolicyFault("policy_changed", what, "start the rollout again")


def policy_lost(trouble: str) -> PolicyFault:
    """LeRobot's engine has given up."""
    return PolicyFault("policy_lost", f"the policy can't be reached: {trouble}")


def policy_silent(seconds: float, trouble: str) -> PolicyFault:
    """There was no first action."""
    return PolicyFault("policy_silent", f"no action came within {seconds:g} s{_because(trouble)}")


def starved(seconds: float, trouble: str) -> PolicyFault:
    """There were no further actions."""
    return PolicyFault("starved", f"no new action came for {seconds:g} s{_because(trouble)}")


def named(version: int | None) -> str:
    """Of a version or the base."""
    return "the base alone" if version is None else f"version {version}"


def _because(trouble: str) -> str:
    return f": {trouble}" if trouble else ""
