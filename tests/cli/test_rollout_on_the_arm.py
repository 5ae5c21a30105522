"""`armfleet rollout` from the key to the video: a real agent with real arm and policy processes and the tiny
base, on the virtual workstation."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from agent.config import SplitSection
from agent.episodes.record import Intervention, now
from agent.episodes.store import EpisodeStore
from agent.evaluation.rollouts import RolloutStore
from agent.sessions.series import OPERATOR_GONE
from cli.attending import SAME_KEY_S
from coordinator.registry.targets import Offer
from shared.adapters import Manifest, digest, pack_adapter, write_adapter
from shared.errors import ArmfleetError
from shared.policy.digest import base_digest
from shared.policy.initial import initial_adapter
from shared.recipe import Recipe
from shared.uds import UdsClient
from tests.agent.conftest import SmallFleet, read_reply
from tests.agent.robot.process import START_S, running_workstation, wait_for, write_agent_config
from tests.cli.terminal import LIMIT_S, ROOT, Terminal

pytestmark = pytest.mark.timeout(600)
TASK = "push the red cube to the left"
STILL = 1.0
"""Units that a held arm may sag."""


class Station:
    """A virtual workstation and the agent on it."""

    def __init__(self, folder: Path, workstation) -> None:
        self.workstation, self.config = workstation, write_agent_config(folder, workstation)
        self.config.write_text(self.config.read_text() + "\n[inference]\nmax_s = 60\n")
        command = [sys.executable, "-m", "cli.main", "agent", "--config", str(self.config)]
        self.process = subprocess.Popen(command, cwd=ROOT)
        self.client = UdsClient(folder / "agent.sock", timeout_s=30)
        self.store = RolloutStore(folder / "state/rollouts")
        wait_for(self.ready, START_S, "arm and policy did not become ready")

    def ready(self) -> bool:
        try:
            status = self.client.get("/status")
        except ArmfleetError:
            return False
        return all(status["workers"][name]["state"] == "ready" for name in ("arm", "policy"))

    def series(self) -> dict:
        return self.client.get("/series")["series"]

    def until(self, phase: str) -> dict:
        wait_for(lambda: self.series()["phase"] == phase, LIMIT_S, phase)
        return self.series()

    def pose(self) -> list[float]:
        return self.workstation.status()["follower"]

    def settle(self) -> None:
        """Wait until the arm is at rest: it sags a little when torque comes on."""
        before = self.pose()
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:
            time.sleep(0.5)
            if self.moved(before) < STILL / 10:
                return
            before = self.pose()
        raise TimeoutError("the arm does not come to rest")

    def moved(self, before: list[float]) -> float:
        return max(abs(a - b) for a, b in zip(self.pose(), before, strict=True))

    def command(self, *options: str) -> list[str]:
        return [sys.executable, "-m", "cli.main", *options]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        self.client.close()


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    with running_workstation(tmp_path_factory.mktemp("ws")) as workstation:
        made = Station(tmp_path_factory.mktemp("a"), workstation)
        yield made
        made.stop()


def test_a_series_from_the_key_to_the_page(station: Station, tmp_path: Path) -> None:
    station.workstation.scene()
    terminal = Terminal(
        station.command("rollout", "--task", TASK, "--rollouts", "3", "--socket", str(station.client.path))
    )
    terminal.await_words("set up the scene, then start")
    station.settle()
    before = station.pose()
    time.sleep(1)
    assert station.moved(before) < STILL, "nothing moves before a key"

    terminal.press(" ")
    station.until("running")
    wait_for(
        lambda: (station.client.get("/series")["rollout"] or {}).get("chunks", 0) > 3, 60, "no chunks came"
    )
    told = station.client.get("/series")
    assert told["rollout"]["latency_ms"] > 0
    assert told["rollout"]["queue"] is not None
    assert 0 < told["rollout"]["chunk_age_s"] < 5
    assert (
        told["arm"]["joints"][0]["low"]
        < told["arm"]["joints"][0]["position"]
        < told["arm"]["joints"][0]["high"]
    )
    time.sleep(SAME_KEY_S)
    terminal.press(" ")
    station.until("labelling")
    held = station.pose()
    time.sleep(1)
    assert station.moved(held) < STILL, "it holds"
    terminal.press("s")
    station.until("ready")

    terminal.press(" ")
    station.until("running")
    terminal.press("a")
    wait_for(lambda: not station.workstation.torque(), 30, "the arm was not let go")
    assert station.until("labelling")["reason"] == "abort"
    terminal.press("r")
    assert station.until("ready")["discarded"] == 1

    time.sleep(SAME_KEY_S)
    terminal.press(" ")
    station.until("running")
    terminal.process.send_signal(signal.SIGKILL)
    terminal.process.wait()
    killed = time.monotonic()
    assert station.until("labelling")["reason"] == OPERATOR_GONE
    print(f"from the terminal's death to the end of the rollout: {time.monotonic() - killed:.1f} s")
    held = station.pose()
    time.sleep(2)
    assert station.moved(held) < STILL
    assert station.series()["phase"] == "labelling", "nothing starts by itself"
    terminal.close()

    second = Terminal(station.command("rollout", "--socket", str(station.client.path)))
    second.await_words("the arm was stopped")
    second.press("f")
    station.until("ready")
    second.press("q")
    assert second.end() == 130
    assert "1 of 2" in second.seen
    second.close()
    wait_for(lambda: station.client.get("/status")["activity"] == "idle", 10, "the arm was not given back")

    records = station.store.records()
    assert [(r.reason, r.success, r.discarded) for r in records] == [
        ("operator", True, False),
        ("abort", None, True),
        (OPERATOR_GONE, False, False),
    ]
    first = records[0]
    assert sum(first.figures.latency_counts) == first.figures.chunks > 3
    assert (station.store.folder(first.id) / "video.mp4").stat().st_size > 1000
    listed = run(station, "list", "--json")
    assert [json.loads(line)["id"] for line in listed.splitlines()] == [record.id for record in records]
    page = tmp_path / "page.html"
    run(station, "show", first.id, "--html", str(page))
    assert "data:video/mp4;base64," in page.read_text()
    run(station, "label", first.id, "--failure")
    assert station.client.get(f"/rollouts/{first.id}")["success"] is False


def drive(station: Station, joint: int, by: float) -> None:
    """A hand moves one joint of the leader, and the follower comes along."""
    pose = list(station.workstation.status()["leader"])
    pose[joint] += by
    station.workstation.move_leader(pose, 1.0)
    wait_for(lambda: abs(station.pose()[joint] - pose[joint]) < 6.0, 10, "the follower does not follow")


def taken_over(station: Station, terminal: Terminal) -> None:
    """The key is pressed, and the arm follows a leader that stood 30 degrees away."""
    pose = station.pose()
    pose[0] -= 30.0
    station.workstation.move_leader(pose, 1.0)
    terminal.press("t")
    wait_for(lambda: told(station).get("phase") == "led", 20, "the arm did not come to the leader")


def told(station: Station) -> dict:
    return station.client.get("/series")["rollout"] or {}


def test_a_person_takes_over_from_the_policy_and_hands_back(station: Station) -> None:
    station.workstation.scene()
    options = ("rollout", "--task", TASK, "--rollouts", "2", "--socket", str(station.client.path))
    terminal = Terminal(station.command(*options))
    terminal.await_words("set up the scene, then start")
    terminal.press(" ")
    station.until("running")
    wait_for(lambda: told(station).get("chunks", 0) > 2, 60, "no chunks came")
    taken_over(station, terminal)
    terminal.await_words("you, recording")
    drive(station, 0, 25.0)
    drive(station, 4, 25.0)
    chunks = told(station)["chunks"]
    terminal.press("t")
    wait_for(lambda: told(station).get("chunks", 0) > chunks + 2, 60, "the policy does not go on")
    assert told(station)["phase"] == "running"
    wait_for(lambda: station.series()["episodes"], 30, "nothing was kept")

    time.sleep(SAME_KEY_S)
    taken_over(station, terminal)
    drive(station, 0, 25.0)
    drive(station, 4, -25.0)
    terminal.process.send_signal(signal.SIGKILL)
    terminal.process.wait()
    assert station.until("labelling")["reason"] == OPERATOR_GONE
    held = station.pose()
    station.workstation.move_leader([value + 10.0 for value in station.workstation.status()["leader"]])
    assert station.moved(held) < STILL, "it holds, and follows no more"
    terminal.close()
    kept = station.series()["episodes"]
    assert len(kept) == 2, "also what was being recorded when the terminal was killed"
    station.client.post("/series/act", {"act": "failure"})
    station.until("ready")
    station.client.post("/series/act", {"act": "end"})
    station.until("done")

    rollout = station.store.records()[-1]
    assert (rollout.interventions, rollout.success) == (2, False)
    episodes = EpisodeStore(station.config.parent / "state/episodes", SplitSection())
    wait_for(
        lambda: all(episodes.read(name).verdict != "unjudged" for name in kept), 60, "they are not judged"
    )
    for record in map(episodes.read, kept):
        assert record.verdict == "admitted", record.reasons
        assert record.intervention == Intervention(rollout=rollout.id, version=None)
        assert record.usable


def run(station: Station, *options: str) -> str:
    argv = station.command("rollouts", *options, "--config", str(station.config))
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


def offer(number: int, base: str, folder: Path) -> Offer:
    """A version over the tiny base that does something of its own."""
    recipe = Recipe(rank=2)
    tensors, peft = initial_adapter(ROOT / "sim/base", recipe)
    rng = np.random.default_rng(number)
    for name, array in tensors.items():
        if ".lora_B." in name:
            tensors[name] = rng.normal(0, 0.05, array.shape).astype(np.float32)
    made = digest(tensors)
    manifest = Manifest(
        version=number, parent=None, base_digest=base, tensors_digest=made, recipe=recipe, created=now()
    )
    folder.mkdir()
    write_adapter(folder, tensors, peft, manifest)
    return Offer(number, made, base, pack_adapter(folder))


def test_two_versions_take_turns_and_each_rollout_proves_which_one_it_was(
    station: Station, tmp_path: Path
) -> None:
    fleet = SmallFleet(tmp_path / "fleet")
    fleet.base_digest = base_digest(ROOT / "sim/base")
    fleet.enrol(station.config.parent / "state", "a")
    wait_for(lambda: station.client.get("/status")["exchange"], 60, "the fleet was not joined")
    offers, held = (
        {number: offer(number, fleet.base_digest, tmp_path / str(number)) for number in (1, 2)},
        None,
    )
    for number in (1, 2):
        fleet.publish(promoted=offers[number])
        reply, _ = read_reply(station.client.post_bytes("/exchange/check-in", fleet.check_in(held)))
        held = reply.held

    def runs(number: int) -> bool:
        return (station.client.get("/versions")["running"] or {}).get("version") == number

    wait_for(lambda: runs(2), 60, "version 2 does not run")
    evaluate = ("evaluate", "--task", TASK, "--rollouts", "1", "--against", "previous")
    terminal = Terminal(station.command(*evaluate, "--socket", str(station.client.path)))
    for words in ("set up a scene that you can set up again", "the same start scene again"):
        terminal.await_words(words)
        time.sleep(SAME_KEY_S)
        terminal.press(" ")
        wait_for(
            lambda: (station.client.get("/series")["rollout"] or {}).get("chunks", 0) > 1, 60, "no chunks"
        )
        terminal.press("f")
    assert terminal.end() == 0, terminal.seen[-2000:]
    assert "Not decided: version 2 may be better than version 1 or not" in terminal.seen
    terminal.close()
    records = [record for record in station.store.records() if record.place and record.place.paired]
    assert sorted(record.version or 0 for record in records) == [1, 2]
    for record in records:
        assert record.version is not None
        assert record.digest == offers[record.version].tensors_digest
        assert not record.blinded
    wait_for(lambda: runs(2), 60, "the promoted version is not back")
