"""The agent as a process, with torch-free stand-ins for its workers (stand_ins.py): what runs, what gives
way, and what survives the death of any part."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.messages import FieldResult, Held, JudgedVersion
from shared.uds import UdsClient

STAND_INS = Path(__file__).with_name("stand_ins.py")
TASK = "push the red cube to the left"
RUN = """
import asyncio, json, sys
from pathlib import Path
from agent.config import load_agent_config
from agent.daemon import run
from shared.errors import ArmfleetError
from shared.logging import setup_logging
setup_logging("agent")
commands = {name: tuple(argv) for name, argv in json.loads(sys.argv[2]).items()}
try:
    asyncio.run(run(load_agent_config(Path(sys.argv[1])), commands))
except ArmfleetError as error:
    print(error, file=sys.stderr)
    sys.exit(int(error.code))
"""


class Station:
    """One agent process and its socket."""

    def __init__(self, home: Path, base: Path, window: str = "idle_s = 0") -> None:
        self.state = home / "state"
        self.state.mkdir(parents=True, exist_ok=True)
        self.config = home / "agent.toml"
        self.config.write_text(f"""
[node]
name = "station-a"
state_dir = "{self.state}"
socket = "{home}/agent.sock"
[policy]
base = "{base}"
[arm]
follower_port = "{home}/no-such-port"
leader_port = "{home}/no-such-port-either"
calibration_dir = "{home}"
[cameras.front]
type = "zmq"
port = 5555
width = 96
height = 96
fps = 30
[training.window]
{window}
""")
        self.client = UdsClient(home / "agent.sock", timeout_s=20)
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        names = ("arm", "policy", "trainer", "executor", "gate")
        commands = {name: [str(STAND_INS), name, str(self.state)] for name in names}
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(self.config), json.dumps(commands)],
            env={**os.environ, "PYTHONPATH": str(Path.cwd())},
            text=True,
        )
        self.until(self.answers, "the socket answers")
        for name in ("arm", "policy"):
            self.until(lambda name=name: self.worker(name)["state"] == "ready", f"the {name} is ready")

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout=20)

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, "the agent ended"
        try:
            self.client.get("/status")
        except ArmfleetError:
            return False
        return True

    def status(self) -> dict[str, Any]:
        return self.client.get("/status")

    def worker(self, name: str) -> dict[str, Any]:
        return self.status()["workers"][name]

    def told(self, op: str) -> list[dict[str, Any]]:
        path = self.state / "told.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [entry for entry in map(json.loads, lines) if entry["op"] == op]

    def until(self, condition: Callable[[], Any], what: str, limit_s: float = 60.0) -> None:
        deadline = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < deadline, f"not reached: {what}; {self.status()}"
            time.sleep(0.05)

    def record(self, keep: bool = True) -> str:
        self.client.post("/session/start", {"task": TASK})
        episode = self.client.post("/episodes/start", {"task": TASK})["episode"]
        self.client.post("/episodes/stop", {"keep": keep})
        self.client.post("/session/stop")
        return episode


@pytest.fixture
def station(fleet: Any, tmp_path: Path) -> Iterator[Station]:
    """An enrolled station, started; whatever the test did to it, no process is left."""
    made = Station(tmp_path / "a", fleet.base)
    fleet.enrol(made.state, "station-a")
    made.start()
    made.until(lambda: made.status()["exchange"], "the exchange is set up")
    yield made
    made.stop(signal.SIGKILL)


def check_in(station: Station, fleet: Any, reply_of: Callable, **fields: Any) -> tuple[Any, dict[str, bytes]]:
    """One check-in over the agent's socket, as the executor does it."""
    held = fields.pop("held", None) or Held()
    body = fleet.check_in(held, **fields)
    return reply_of(station.client.post_bytes("/exchange/check-in", body))


def test_whole_life_from_recording_to_an_acknowledged_update(
    station: Station, fleet: Any, reply_of: Callable
) -> None:
    episode = station.record()
    station.until(lambda: station.status()["episodes"]["train"] == 1, "the gate admitted the episode")
    record = json.loads((station.state / "episodes" / episode / "armfleet.json").read_text())
    assert (record["verdict"], record["split"], record["task"]) == ("admitted", "train", TASK)
    assert "the coordinator asks for no training" in station.status()["why"]

    fleet.publish(promoted=fleet.offer(1), candidate=fleet.offer(2))
    reply, _ = check_in(station, fleet, reply_of)
    assert (reply.held.promoted, reply.held.candidate, reply.refused) == (1, 2, None)
    assert reply.health.episodes_admitted == 1
    station.until(lambda: station.told("train"), "the trainer was told")
    order = station.told("train")[0]
    assert (order["version"], order["learning_rate"], order["recipe"]["steps"]) == (2, 1e-3, 4)
    station.until(lambda: station.status()["exchange"]["outbox"]["updates"] == 1, "the update is ready")
    station.until(lambda: "is awaited" in station.status()["why"], "nothing is left to train on")

    reply, blobs = check_in(station, fleet, reply_of, held=reply.held)
    assert reply.update is not None
    assert (reply.update.base_version, blobs) == (2, {"delta": b"delta"})
    assert reply.held.running == 1
    again, _ = check_in(station, fleet, reply_of, held=reply.held)
    assert again.update == reply.update, "sent again until it is acknowledged"
    done, _ = check_in(station, fleet, reply_of, held=reply.held, acknowledged=[reply.update.id])
    assert done.update is None
    assert station.status()["exchange"]["outbox"]["updates"] == 0
    assert len(station.told("train")) == 1, "one update per version"


def test_operator_stops_training_within_a_second(station: Station, fleet: Any, reply_of: Callable) -> None:
    (station.state / "slow").touch()
    station.record()
    fleet.publish(candidate=fleet.offer(1))
    check_in(station, fleet, reply_of)
    station.until(lambda: station.told("train"), "training runs")
    pid = station.worker("trainer")["pid"]
    assert station.status()["activity"] == "train"
    asked = time.monotonic()
    station.client.post("/session/start", {"task": TASK})
    assert time.monotonic() - asked < 1.0
    assert not Path(f"/proc/{pid}").exists()
    status = station.status()
    assert status["activity"] == "record"
    assert TASK in status["why"]
    assert status["workers"]["trainer"]["reason"] == "the operator asked for record"
    station.client.post("/session/stop")
    (station.state / "slow").unlink()
    station.until(lambda: len(station.told("train")) == 2, "training goes on afterwards")


def test_an_episode_that_is_deleted_while_it_is_trained_on_interrupts_the_trainer(
    station: Station, fleet: Any, reply_of: Callable
) -> None:
    (station.state / "slow").touch()
    kept, deleted = station.record(), station.record()
    station.until(lambda: station.status()["episodes"]["train"] == 2, "the gate admitted both")
    fleet.publish(candidate=fleet.offer(1))
    check_in(station, fleet, reply_of)
    station.until(lambda: station.told("train"), "training runs")
    station.until(lambda: station.status()["exchange"]["training"]["version"] == 1, "the agent knows")
    pid = station.worker("trainer")["pid"]
    answer = station.client.post("/episodes/change", {"op": "delete", "episodes": [deleted]})
    assert (answer["done"], answer["training_interrupted"]) == ([deleted], True)
    assert not Path(f"/proc/{pid}").exists()
    assert Path(answer["trash"][deleted]).is_dir()
    assert [episode["id"] for episode in station.client.get("/episodes")["episodes"]] == [kept]
    station.until(lambda: len(station.told("train")) == 2, "the update begins again")


def test_killed_arm_worker_ends_the_session_and_the_agent_lets_go_of_the_arm(station: Station) -> None:
    station.client.post("/session/start", {"task": TASK})
    station.client.post("/episodes/start", {"task": TASK})
    os.kill(station.worker("arm")["pid"], signal.SIGKILL)
    station.until(lambda: station.status()["arm"]["torque_fault"], "the agent tried to release")
    status = station.status()
    assert "no-such-port is not there" in status["arm"]["torque_fault"]
    assert status["arm"]["episode"] is None
    station.until(lambda: station.worker("arm")["state"] == "ready", "the arm worker is back")
    assert station.worker("arm")["restarts"] == 1
    assert station.record(), "the arm is free for the next session"


@pytest.mark.parametrize("name", ["policy", "trainer", "executor"])
def test_killed_worker_never_takes_the_agent_down(
    station: Station, fleet: Any, reply_of: Callable, name: str
) -> None:
    (station.state / "slow").touch()
    station.record()
    fleet.publish(promoted=fleet.offer(1), candidate=fleet.offer(1))
    check_in(station, fleet, reply_of)
    station.until(lambda: station.told("train") and station.told("swap"), "everything runs")
    (station.state / "slow").unlink()
    os.kill(station.worker(name)["pid"], signal.SIGKILL)
    station.until(lambda: station.worker(name)["restarts"] == 1, "the death was noticed")
    station.until(lambda: station.worker(name)["state"] == "ready", "it is back")
    station.until(lambda: station.status()["exchange"]["outbox"]["updates"] == 1, "the update is finished")
    running = station.status()["exchange"]["versions"]
    station.until(
        lambda: station.status()["exchange"]["versions"]["running"], f"version 1 runs again {running}"
    )


def test_policy_that_hangs_is_killed_and_started_again(station: Station) -> None:
    stopped = station.worker("policy")["pid"]
    os.kill(stopped, signal.SIGSTOP)
    station.until(lambda: station.worker("policy")["restarts"] == 1, "three questions were not answered")
    station.until(lambda: station.worker("policy")["state"] == "ready", "it is back")
    assert station.worker("policy")["pid"] != stopped
    assert station.worker("arm")["restarts"] == 0


def test_promoted_version_waits_for_the_end_of_a_rollout(
    station: Station, fleet: Any, reply_of: Callable
) -> None:
    first = station.client.post("/rollouts/start", {"task": TASK})
    assert first["version"] is None
    with pytest.raises(ArmfleetError, match="the arm is in use"):
        station.client.post("/session/start", {"task": TASK})
    fleet.publish(promoted=fleet.offer(4))
    reply, _ = check_in(station, fleet, reply_of)
    assert (reply.held.promoted, reply.held.running, reply.activity) == (4, None, "rollout")
    assert station.client.get(f"/rollouts/{first['rollout']}")["state"] == "running"
    assert not station.told("swap")
    station.client.post("/rollouts/stop")
    station.until(lambda: station.told("swap"), "the swap follows")
    done = station.client.get(f"/rollouts/{first['rollout']}")
    assert (done["state"], done["reason"], done["success"]) == ("done", "operator", None)
    assert station.client.post(f"/rollouts/{first['rollout']}/label", {"success": True})["success"] is True
    station.until(lambda: station.status()["exchange"]["versions"]["running"], "version 4 runs")
    second = station.client.post("/rollouts/start", {"task": TASK, "evaluation": True})
    assert second["version"] == 4
    assert station.status()["activity"] == "evaluate"
    station.client.post("/rollouts/stop")
    label = f"/rollouts/{second['rollout']}"
    station.until(lambda: station.client.get(label)["state"] == "done", "the second rollout is over")
    station.client.post(f"{label}/label", {"success": False})
    running = station.client.get("/versions")["running"]
    wanted = JudgedVersion(version=4, tensors_digest=running["digest"])
    reply, _ = check_in(station, fleet, reply_of, judged=[wanted], why="better on the mean")
    assert reply.field == [FieldResult(version=4, task=TASK, labels="0")]
    shown = station.client.get("/versions")
    assert (shown["why"], shown["field"]) == ("better on the mean", [reply.field[0].model_dump()])


def test_killed_agent_finds_its_state_again(station: Station, fleet: Any, reply_of: Callable) -> None:
    station.record()
    station.until(lambda: station.status()["episodes"]["train"] == 1, "admitted")
    fleet.publish(promoted=fleet.offer(1), candidate=fleet.offer(1))
    check_in(station, fleet, reply_of)
    station.until(lambda: station.status()["exchange"]["outbox"]["updates"] == 1, "the update is ready")
    station.client.post("/session/start", {"task": TASK})
    station.client.post("/episodes/start", {"task": TASK})
    station.stop(signal.SIGKILL)
    (station.state / "state.sqlite").write_bytes(b"not a database")
    station.start()
    station.until(lambda: station.status()["exchange"], "the exchange is set up")
    status = station.status()
    assert status["episodes"]["train"] == 1
    assert list((station.state / "episodes").glob(".inprogress-*")) == []
    assert status["exchange"]["outbox"]["updates"] == 1
    assert "was trained on" in status["why"]
    reply, _ = check_in(station, fleet, reply_of)
    assert (reply.held.candidate, reply.update is not None) == (1, True)


def test_check_in_of_another_fleet_changes_nothing(station: Station, fleet: Any) -> None:
    fleet.publish(promoted=fleet.offer(1))
    with pytest.raises(ArmfleetError, match="of the fleet 'elsewhere'") as caught:
        station.client.post_bytes("/exchange/check-in", fleet.check_in(fleet="elsewhere"))
    assert caught.value.code is ExitCode.JOIN_OTHER_COORDINATOR
    assert station.status()["exchange"]["versions"]["promoted"] is None


def test_stopped_agent_leaves_no_process_and_no_socket(station: Station) -> None:
    pids = [station.worker(name)["pid"] for name in ("arm", "policy", "executor")]
    assert station.stop() == 0
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert not station.client.path.exists()


def test_second_agent_on_the_same_state_is_refused(station: Station) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(station.config), "{}"],
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == ExitCode.ALREADY_RUNNING
    assert "another agent uses" in done.stderr


def test_agent_without_a_fleet_serves_and_says_how_to_join(fleet: Any, tmp_path: Path) -> None:
    station = Station(tmp_path / "b", fleet.base, "idle_s = 0")
    try:
        station.start()
        status = station.status()
        assert status["exchange"] is None
        assert status["why"] == "nothing to train: no fleet was joined"
        with pytest.raises(ArmfleetError, match="armfleet join BUNDLE"):
            station.client.get("/versions")
        fleet.enrol(station.state, "station-a")
        station.until(lambda: station.status()["exchange"], "the enrolment is noticed while running")
    finally:
        station.stop(signal.SIGKILL)


def test_window_that_is_closed_is_the_reason_not_to_train(
    fleet: Any, tmp_path: Path, reply_of: Callable
) -> None:
    station = Station(tmp_path / "c", fleet.base, "idle_s = 3600")
    fleet.enrol(station.state, "station-a")
    try:
        station.start()
        station.until(lambda: station.status()["exchange"], "the exchange is set up")
        station.record()
        station.until(lambda: station.status()["episodes"]["train"] == 1, "admitted")
        fleet.publish(candidate=fleet.offer(1))
        check_in(station, fleet, reply_of)
        status = station.status()
        assert status["activity"] == "idle"
        assert "the window opens after 3600 s" in status["why"]
        assert status["workers"]["trainer"]["state"] == "stopped"
    finally:
        station.stop(signal.SIGKILL)


def test_the_daemon_imports_neither_torch_nor_lerobot() -> None:
    code = (
        "import sys, agent.daemon, agent.judging, agent.exchange.executor, agent.exchange.join;"
        "print([m for m in ('torch', 'lerobot', 'transformers', 'peft') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.strip() == "[]"
