"""The agent: one asyncio process without torch that owns a workstation's state and its workers.

It starts the workers, serves the control socket, and twice a second decides what the workstation does: the
operator's wish, else training inside its window, else nothing. A part that fails is listed as failed; the
rest keeps serving.
"""

import asyncio
import signal
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from loguru import logger

from agent.activity import Activity, Decision, Verdict, decide, training_window
from agent.api import make_api
from agent.arm import ArmDesk
from agent.cgroup import Cgroup, divide
from agent.config import AgentConfig, load_agent_config
from agent.episodes.desk import EpisodeDesk
from agent.episodes.store import EpisodeStore
from agent.evaluation.field import field_results
from agent.evaluation.rollouts import RolloutStore
from agent.exchange.enrolment import FILE as ENROLMENT
from agent.heartbeat import Heartbeat
from agent.judging import Judging
from agent.lock import only_one
from agent.machine import Observer
from agent.membership import Membership, prepare
from agent.parking import Parking
from agent.sessions.series_desk import SeriesDesk
from agent.sessions.session_desk import SessionDesk
from agent.state import Index
from agent.supervision import Worker, WorkerSpec
from agent.training.statistics import StationStatistics
from agent.versions import Versions
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.files import free_bytes
from shared.logging import setup_logging
from shared.messages import Health
from shared.systemd import notify_ready, notify_status, notify_stopping, ping_watchdog
from shared.uds import serve

TICK_S = 0.5
RETRY_S = 30.0
"""Pause before a part that could not be set up is tried again."""
ARM_GRACE_S = 4.0
"""The arm worker holds, lets go and ends within two seconds of the end of its channel."""
GATE = "gate"


def worker_commands(config_path: Path) -> dict[str, tuple[str, ...]]:
    """Arguments after the interpreter, by name; the gate gets the episode's id appended."""
    modules = {
        "arm": "agent.robot.worker",
        "policy": "agent.inference.worker",
        "trainer": "agent.training.worker",
        "executor": "agent.exchange.executor",
    }
    commands = {name: ("-m", module, "--config", str(config_path)) for name, module in modules.items()}
    return {**commands, GATE: ("-m", "agent.judging", str(config_path))}


class Agent:
    """All parts of the agent.

    Args:
        config: agent.toml.
        commands: As from `worker_commands`.
        cgroup: The trainer's; None: the daemon's.
    """

    def __init__(
        self, config: AgentConfig, commands: Mapping[str, tuple[str, ...]], cgroup: Cgroup | None = None
    ) -> None:
        self.config = config
        self.faults: dict[str, str] = {}
        """Parts that could not be set up, and why."""
        self.membership: Membership | None = None
        self.arm: ArmDesk | None = None
        self.parking: Parking | None = None
        self.recording: SessionDesk | None = None
        self.series: SeriesDesk | None = None
        self.supernode = {"state": "unknown", "reason": "the executor has not reported yet"}
        self.decision = Decision(Activity.IDLE, "starting")
        self.window = Verdict(False, "starting")
        self._observer = Observer(gpu=config.policy.device != "cpu")
        self._started = time.monotonic()
        self._retry_at = 0.0
        self._said = ""
        self._swap: asyncio.Task[None] | None = None
        for folder in (config.episodes_dir, config.rollouts_dir, config.outbox_dir, config.adapters_dir):
            folder.mkdir(parents=True, exist_ok=True)
        stores = EpisodeStore(config.episodes_dir, config.split), RolloutStore(config.rollouts_dir)
        for name in [name for store in stores for name in store.recover()]:
            logger.warning("removed {}: it was being written when the agent was killed", name)
        self.index = Index(config.node.state_dir / "state.sqlite", config.episodes_dir, config.rollouts_dir)
        self.index.unblind_rollouts()  # a comparison ended with the agent that ran it
        self.judging = Judging(commands[GATE], self._judged)
        self.workers = self._make_workers(commands, cgroup)
        self._policy_heartbeat = Heartbeat(self.workers["policy"], "policy")
        self.episodes = EpisodeDesk(
            config, self.index.refresh_episode, self.judging.add, self._interrupt_training
        )
        if config.arm is not None:
            self.arm = ArmDesk(
                config,
                self.workers["arm"],
                self.index,
                self.judging,
                preempt=self._preempt,
                running_version=self._running_version,
                rollout_allowed=self._check_policy,
                after_rollout=self._follow_promoted,
            )
            self.parking = Parking(self.workers["arm"], config.arm.follower_port, self._arm_in_use)
            self.recording = SessionDesk(
                config, self.arm, self.workers["arm"], self.index, self.judging, self.episodes.change
            )
            self.series = SeriesDesk(config, self.arm, self.workers["arm"], self._versions)

    # ------------------------------------------------------------------ life

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then end the workers in order."""
        api = asyncio.create_task(serve(make_api(self), self.config.node.socket, stop), name="api")
        gate = asyncio.create_task(self.judging.run(), name="gate")
        try:
            for episode_id in self.index.unjudged_episodes():
                self.judging.add(episode_id)
            if self.arm is not None:
                self.workers["arm"].start()
                self.workers["policy"].start()
            notify_ready("serving")
            logger.info("the agent of {} is serving at {}", self.config.node.name, self.config.node.socket)
            await self._tick_until(stop, api)
        finally:
            notify_stopping()
            stop.set()
            gate.cancel()
            await self.episodes.stop()
            await self._stop_workers()
            await asyncio.gather(gate, return_exceptions=True)
            self.index.close()
        await api

    async def _tick_until(self, stop: asyncio.Event, api: asyncio.Task[None]) -> None:
        while not stop.is_set() and not api.done():
            try:
                await self.tick()
                self.faults.pop("tick", None)
            except Exception as error:
                if "tick" not in self.faults:
                    logger.exception("a tick failed; the next one follows")
                self.faults["tick"] = f"{type(error).__name__}: {error}"
            ping_watchdog()
            try:
                await asyncio.wait_for(stop.wait(), TICK_S)
            except TimeoutError:
                continue

    async def tick(self) -> None:
        """Decide what the workstation does now, and see to it."""
        if self.series is not None:
            self.series.tick()  # first: whatever fails below, an arm without its operator is stopped
        await self._join_if_enrolled()
        self.decision = self.decide()
        self._policy_heartbeat.tick()
        if self.arm is not None:
            await self.arm.rest()
        if self.parking is not None:
            self.parking.tick()
        if self.recording is not None:
            self.recording.tick()
        if self.membership is not None:
            await self._steer_training(self.membership)
            if self.membership.versions.behind and (self._swap is None or self._swap.done()):
                self._swap = asyncio.create_task(self.membership.versions.follow(), name="swap")
        line = f"{self.decision.activity}: {self.decision.reason}"
        if self.decision.activity.value != self._said:
            self._said = self.decision.activity.value
            logger.bind(activity=self._said).info("{}", line)
        notify_status(line)

    def decide(self) -> Decision:
        """The activity now; keeps the window's verdict for `/status`."""
        arm, membership = self.arm, self.membership
        trainer = self.workers["trainer"].state != "stopped"
        idle_s = time.monotonic() - (arm.last_used if arm else self._started)
        self.window = training_window(
            self.config.training.window, datetime.now(), idle_s, self._observer.machine(), trainer
        )
        work = membership.learning.work() if membership else Verdict(False, "no fleet was joined")
        return decide(arm.claim if arm else None, self.window, work)

    async def _steer_training(self, membership: Membership) -> None:
        learning = membership.learning
        if self.decision.activity is Activity.TRAIN:
            await learning.allow()
        elif self.decision.activity is not Activity.IDLE:
            await learning.give_way(self.decision.reason)
        elif not self.window.open:
            await learning.give_way(self.window.reason)
        else:
            await learning.rest()

    async def _join_if_enrolled(self) -> None:
        """Set up the exchange once there is an enrolment; a failure is kept and tried again later.

        Not during a rollout: hashing a full-size base takes seconds, and the tick sees to the operator.
        """
        enrolled = (self.config.enrolment_dir / ENROLMENT).exists()
        if self.membership is not None or not enrolled or time.monotonic() < self._retry_at:
            return
        if self.arm is not None and self.arm.rollout is not None:
            return
        try:
            ground = await asyncio.to_thread(prepare, self.config)
            self.membership = Membership(
                self.config,
                ground,
                self.workers["policy"],
                self.workers["trainer"],
                rolling_out=lambda: self.arm is not None and self.arm.rolling_out,
                training_episodes=lambda: self.index.episode_counts()["train"],
                describe=lambda: (self.decide().activity, self.health()),  # as of now, not of the last tick
                statistics=StationStatistics(self.config),
                field=lambda judged: field_results(self.index.rollouts(), judged),
            )
        except Exception as error:
            self._retry_at = time.monotonic() + RETRY_S
            self.faults["exchange"] = str(error)
            logger.opt(exception=not isinstance(error, ArmfleetError)).error("no exchange: {}", error)
            return
        self.faults.pop("exchange", None)
        self.workers["executor"].start()
        logger.info("this workstation is {} of the fleet {}", self.config.node.name, ground.enrolment.fleet)

    async def _stop_workers(self) -> None:
        workers = self.workers
        if self.arm is not None:
            await self.arm.finish()
        await workers["trainer"].kill("the agent stops")
        await asyncio.gather(
            *(workers[name].stop("the agent stops", ARM_GRACE_S) for name in ("arm", "executor", "policy"))
        )

    # ------------------------------------------------------------------ parts

    def _make_workers(
        self, commands: Mapping[str, tuple[str, ...]], cgroup: Cgroup | None
    ) -> dict[str, Worker]:
        return {
            "arm": Worker(
                WorkerSpec("arm", commands["arm"], dies_with_daemon=False), self._arm_event, self._arm_died
            ),
            "policy": Worker(WorkerSpec("policy", commands["policy"]), self._policy_event),
            "trainer": Worker(
                WorkerSpec("trainer", commands["trainer"], background=True, cgroup=cgroup),
                self._trainer_event,
            ),
            "executor": Worker(WorkerSpec("executor", commands["executor"]), self._executor_event),
        }

    def _arm_event(self, name: str, fields: dict[str, Any]) -> None:
        if self.arm is not None:
            self.arm.on_event(name, fields)

    def _arm_in_use(self) -> str:
        claim = self.arm.claim if self.arm else None
        return f"{claim.activity}, {claim.detail}" if claim else ""

    async def _arm_died(self, why: str) -> None:
        if self.arm is not None:
            await self.arm.on_death(why)

    def _policy_event(self, name: str, fields: dict[str, Any]) -> None:
        if name == "ready" and self.membership is not None:
            self.membership.versions.policy_restarted()

    def _trainer_event(self, name: str, fields: dict[str, Any]) -> None:
        if self.membership is not None:
            self.membership.learning.on_event(name, fields)

    def _executor_event(self, name: str, fields: dict[str, Any]) -> None:
        if name == "supernode":
            self.supernode = {"state": str(fields.get("state")), "reason": str(fields.get("reason"))}

    async def _interrupt_training(self, reason: str) -> bool:
        """Stop a trainer that may have read what changes now; whether it was at an update."""
        if self.membership is None:
            return False
        busy = self.membership.learning.busy
        await self.membership.learning.give_way(reason)
        return busy

    def _judged(self, episode_id: str) -> None:
        self.index.refresh_episode(episode_id)

    async def _preempt(self, reason: str) -> None:
        if self.membership is not None:
            await self.membership.learning.give_way(reason)

    def _versions(self) -> Versions | None:
        return self.membership.versions if self.membership else None

    def _running_version(self) -> int | None:
        running = self.membership.versions.running if self.membership else None
        return running.version if running else None

    def _check_policy(self) -> None:
        if self.membership is not None:
            self.membership.versions.check_usable()
        elif self.workers["policy"].state != "ready":
            raise ArmfleetError(
                f"the policy worker is {self.workers['policy'].state}", do="try again shortly"
            )

    async def _follow_promoted(self) -> None:
        if self.membership is not None:
            await self.membership.versions.follow()

    # ------------------------------------------------------------------ state

    def health(self) -> Health:
        """What a check-in's answer says about health."""
        counts = self.index.episode_counts()
        return Health(
            workers={name: worker.state for name, worker in self.workers.items()},
            episodes_admitted=counts["admitted"],
            episodes_quarantined=counts["quarantined"],
            disk_free_mb=free_bytes(self.config.node.state_dir) // 2**20,
        )

    def status(self) -> dict[str, Any]:
        """What the agent does now, and why."""
        decision = self.decide()
        return {
            "node": self.config.node.name,
            "activity": decision.activity.value,
            "why": decision.reason,
            "window": {"open": self.window.open, "reason": self.window.reason},
            "workers": {name: worker.status() for name, worker in self.workers.items()},
            "faults": self.faults,
            "arm": self.arm.status() if self.arm else None,
            "recording": self.recording.status() if self.recording else None,
            "series": self.series.status() if self.series else None,
            "episodes": self.index.episode_counts(),
            "gate": {"waiting": self.judging.waiting, "fault": self.judging.fault},
            "exchange": self.membership.status() if self.membership else None,
            "supernode": self.supernode,
            "disk_free_mb": free_bytes(self.config.node.state_dir) // 2**20,
        }


async def run(config: AgentConfig, commands: Mapping[str, tuple[str, ...]]) -> None:
    """Run an agent until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    with only_one(config.node.state_dir):
        cgroup = divide(config.training.memory_limit_gb)
        await Agent(config, commands, cgroup).run(stop)


def main(config: Path) -> int:
    """Run the agent that `config` describes; its exit status."""
    setup_logging("agent")
    try:
        asyncio.run(run(load_agent_config(config), worker_commands(config.absolute())))
    except ArmfleetError as error:
        logger.critical("{}", error)
        return int(error.code)
    return int(ExitCode.OK)
