"""Rollouts of `bench-async` on one virtual arm: started, timed and judged.

The time of a rollout runs from its first action until the simulator says that the task is done; going to the
start pose and writing the video are not in it. A rollout that fails takes LIMIT_S.
"""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from agent.evaluation.rollouts import TRACE, RolloutStore
from benchmarks.asynchronous.figures import Mode, Tried
from benchmarks.learning.plan import Asked
from benchmarks.workers.arm_process import ArmWorker, ChannelWorker
from benchmarks.workers.either_arm import SYNC
from shared.adapters import digest, read_adapter
from shared.errors import ArmfleetError
from sim.launch import LaunchedWorkstation
from sim.lockstep import MAX_S

LIMIT_S = MAX_S
"""As in every other evaluation of this project."""
LONGEST_S = 60.0
"""[inference] max_s: the benchmark ends its rollouts itself, by the clock. The agent counts ticks, and a loop
that stands still while it infers has fewer of them."""
RUNNING_S = 30.0
"""Longest way to the start pose and wait for the first action."""
POLL_S = 0.05
"""Half the period of the judge."""


class Bench:
    """A virtual workstation, its arm process, and a policy process per delay.

    Args:
        workstation: Running.
        config: agent.toml.
        adapter: PEFT folder.
        rollouts: Where the arm process keeps them.
    """

    def __init__(self, workstation: LaunchedWorkstation, config: Path, adapter: Path, rollouts: Path) -> None:
        self._control, self._config, self._adapter = workstation.control, config, adapter
        self._store = RolloutStore(rollouts)
        self._arm = ArmWorker(config, "benchmarks.workers.either_arm")
        self._policy: ChannelWorker | None = None
        self._delay_ms = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._arm.close()
        if self._policy is not None:
            self._policy.close()

    def load_policy(self, delay_ms: int) -> None:
        """A new policy process that is `delay_ms` slower, with the adapter."""
        if self._policy is not None:
            self._policy.close()
        self._delay_ms = delay_ms
        options = ("--delay-ms", str(delay_ms))
        self._policy = ChannelWorker("benchmarks.workers.slowed_policy", self._config, *options)
        tensors, _, manifest = read_adapter(self._adapter)
        assert manifest is not None
        self._policy.ask("swap", version=manifest.version, folder=str(self._adapter), digest=digest(tensors))

    def rollout(self, mode: Mode, asked: Asked, seed: int) -> Tried:
        """One attempt.

        Raises:
            ArmfleetError: the arm did not come to begin.
        """
        task = asked.task
        wire = {"verb": asked.verb, "color": asked.color}
        pose = self._control.post("/scene", {"seed": seed, "task": wire})["start_pose"]
        name = f"{SYNC if mode == 'sync' else 'async-'}{self._delay_ms}-{asked.key}-{seed}"
        self._arm.ask("rollout_start", rollout_id=name, task=task.text, start_pose=pose, max_s=LONGEST_S)
        if not self._until(lambda status: status["phase"] == "running" or not status["activity"], RUNNING_S):
            raise ArmfleetError(f"the rollout {name} did not begin within {RUNNING_S:g} s")
        done_at = self._watch(time.time() + LIMIT_S)
        self._arm.ask("rollout_stop", reason="done" if done_at else "not done")
        if not self._until(lambda status: not status["activity"], RUNNING_S):
            raise ArmfleetError(f"the rollout {name} did not end within {RUNNING_S:g} s")
        record, trace = self._store.read(name), (self._store.folder(name) / TRACE).read_text()
        if not trace:
            raise ArmfleetError(f"the rollout {name} did not begin: {record.reason} {record.why}")
        began = json.loads(trace.partition("\n")[0])["wall"]
        seconds = round(done_at - began, 3) if done_at else LIMIT_S
        return Tried(mode, self._delay_ms, (asked.key, seed), bool(done_at), seconds, record.figures)

    def _watch(self, until: float) -> float:
        """When the task was done, seconds since the epoch; 0 if it was not by `until`."""
        while (now := time.time()) < until:
            outcome = self._control.get("/outcome")
            if outcome["placed"] and outcome["ever_success"]:
                return now
            time.sleep(POLL_S)
        return 0.0

    def _until(self, condition: Callable[[Mapping[str, Any]], bool], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not condition(self._arm.ask("status")):
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_S)
        return True
