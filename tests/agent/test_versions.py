"""The policy's way to the promoted version, with a policy worker that is a plain object."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from agent.activity import Activity
from agent.membership import Membership
from agent.versions import RETRY_S, Versions
from shared.errors import ArmfleetError
from shared.messages import Health


class Policy:
    """Refuses every swap."""

    state, reason = "ready", "running"

    def __init__(self) -> None:
        self.swaps = 0

    async def request(self, op: str, timeout_s: float, **fields: Any) -> dict[str, Any]:
        self.swaps += 1
        raise ArmfleetError("the adapter doesn't fit")


def test_a_version_that_the_policy_refuses_does_not_block_rollouts() -> None:
    now = [0.0]
    inbox = SimpleNamespace(
        slots={"promoted": SimpleNamespace(version=7, tensors_digest="seven")},
        folder=lambda accepted: Path("x"),
    )
    policy = Policy()
    versions = Versions(policy, inbox, lambda: False, clock=lambda: now[0])  # type: ignore[arg-type]

    def follow() -> bool:
        behind = versions.behind
        if behind:
            asyncio.run(versions.follow())
        return behind

    assert follow()
    assert not follow(), "not in each tick"
    versions.check_usable()
    assert "doesn't fit" in versions.fault
    now[0] += RETRY_S
    assert follow()
    assert not follow()
    inbox.slots["promoted"] = SimpleNamespace(version=8, tensors_digest="eight")
    assert follow(), "another version is tried at once"
    versions.policy_restarted()
    assert follow(), "a new policy worker holds the base alone"
    assert policy.swaps == 4


def test_during_a_comparison_the_coordinator_is_not_told_which_version_runs() -> None:
    versions = SimpleNamespace(running=SimpleNamespace(version=7), blinded=True)
    member: Any = SimpleNamespace(versions=versions, _describe=lambda: (Activity.EVALUATE, Health()))
    assert Membership._describe_node(member)[2] is None
    versions.blinded = False
    assert Membership._describe_node(member)[2] == 7
