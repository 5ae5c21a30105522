"""`make soak-demo`: a small demo in which one process of every kind is killed once with SIGKILL.

Checked: the run completes; no episode, update or version is lost; torque is off within 2 s when what died
held the arm; an update whose trainer was killed in the middle is resumed or trained again; an arm process
killed while it records leaves no half-written episode behind. The last line is JSON.
"""

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any, Literal

from cli.demo import enrol, record, story, train
from cli.demo.plan import BASE, SMALL
from cli.demo.station import Station
from cli.demo.world import World
from shared.files import IN_PROGRESS, write_atomic

WORKERS = ("trainer", "executor", "policy", "arm")
SERVICES = {
    "coordinator": "coordinator",
    "superexec": "superexec",
    "superlink": "superlink",
    "supernode": "a-supernode",
    "agent": "a-agent",
}
ORDER = (
    "trainer",
    "executor",
    "policy",
    "coordinator",
    "superexec",
    "superlink",
    "supernode",
    "arm",
    "agent",
)
HOLDS_THE_ARM = ("arm", "agent")
TORQUE_S = 2.0
BACK_S = 180.0
"""A SuperNode is let in again when its old session has expired, after about a minute."""


@dataclass
class Kill:
    """One SIGKILL, and the seconds until torque was off (where it was on) and until all was well."""

    kind: str
    torque_off_s: float | None
    back_s: float
    update: Literal["resumed", "trained again"] | None = None
    """What became of the update that a killed trainer was at."""


def pid_of(world: World, station: Station, kind: str) -> int | None:
    """The process to kill, if it runs now."""
    if kind in WORKERS:
        return station.status()["workers"][kind]["pid"]
    return world.supervisor.pid(SERVICES[kind])


def strike(world: World, station: Station, kind: str) -> int:
    """SIGKILL to the process as soon as there is one; its id."""

    def try_once() -> int | None:
        if (pid := pid_of(world, station, kind)) is None:
            return None
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return None  # it ended by itself between the look and the signal
        return pid

    pid = station.until(f"a {kind} to kill", 180, try_once, every=0.1)
    world.screen.say(f"SIGKILL to the {kind} (process {pid})")
    return pid


def kill_trainer(world: World, ledger: "Ledger", station: Station) -> Kill:
    """Kill the trainer in the middle of an update, and wait until that update is delivered after all."""
    stopped: dict[str, Any] | None = None
    while stopped is None or stopped["delivered"] or fate_of(ledger, station, stopped):
        # the first time; or it was done just before, and the kill proved nothing
        station.until("training", 180, lambda: train.in_update(station), every=0.02)
        began = monotonic()
        strike(world, station, "trainer")
        stopped = train.checkpoint(station.layout)
    fate = station.until(
        "the interrupted update", BACK_S, lambda: fate_of(ledger, station, stopped), every=0.2
    )
    return Kill("trainer", None, round(monotonic() - began, 1), fate)


def fate_of(ledger: "Ledger", station: Station, stopped: dict[str, Any]) -> str | None:
    """How the update of the checkpoint `stopped` was finished: "resumed", "trained again", or None yet."""
    if stopped["update_id"] in ledger.look()["updates"]:
        return "resumed"
    now = train.checkpoint(station.layout)
    again = now["update_id"] != stopped["update_id"] and now["base_version"] == stopped["base_version"]
    return "trained again" if again and now["delivered"] else None


def kill(world: World, ledger: "Ledger", station: Station, kind: str) -> Kill:
    """Kill one process, measure the release of the arm if it was held, and wait until it is back."""
    if kind == "trainer":
        return kill_trainer(world, ledger, station)
    held = kind in HOLDS_THE_ARM
    if held:
        _grip(station)
    if kind == "arm":
        _record(station)
    pid = strike(world, station, kind)
    began, torque = monotonic(), None
    if held:
        station.until("the release of the arm", 30, lambda: not _torque(station), every=0.01)
        torque = round(monotonic() - began, 2)
    station.until(f"the {kind} back", BACK_S, _back(world, station, kind, pid), every=0.2)
    return Kill(kind, torque, round(monotonic() - began, 1))


def _grip(station: Station) -> None:
    task = station.layout.plan.task
    assert task is not None
    station.start_session(task)
    station.until("torque", 30, lambda: _torque(station))


def _record(station: Station) -> None:
    """Begin an episode, and wait until part of it is on disk."""
    task = station.layout.plan.task
    assert task is not None
    station.agent.post("/episodes/start", {"task": task.text})
    station.until("an episode on the way", 10, lambda: half_written(station))


def half_written(station: Station) -> list[str]:
    """Episodes at a station that are not whole."""
    return sorted(path.name for path in (station.layout.state / "episodes").glob(f"{IN_PROGRESS}*"))


def _torque(station: Station) -> bool:
    return any(station.sim.get("/status")["follower_torque"])


def _back(world: World, station: Station, kind: str, old: int) -> Callable[[], bool]:
    """A check that the process is there again and works; for the Flower ones, that check-ins arrive again."""
    asked = monotonic()

    def works() -> bool:
        if pid_of(world, station, kind) in (None, old):
            return False
        if kind in HOLDS_THE_ARM:
            station.wait_ready(BACK_S)
        if kind in WORKERS:
            return station.status()["workers"][kind]["state"] == "ready"
        age = station.status()["exchange"]["last_check_in_s"]
        return age is not None and age < monotonic() - asked and bool(world.coordinator.get("/status"))

    return works


class Ledger:
    """Remembers every episode, update and version ever seen, to find out what is lost."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.seen: dict[str, set[str]] = {"episodes": set(), "updates": set(), "versions": set()}

    def look(self) -> dict[str, set[str]]:
        """What exists now; an update counts as long as the outbox or the coordinator has it."""
        now: dict[str, set[str]] = {"episodes": set(), "updates": set(), "versions": set()}
        for station in self._world.layout.stations:
            folder = station.state
            now["episodes"] |= {f"{station.plan.name}/{name}" for name in _folders(folder / "episodes")}
            now["updates"] |= _folders(folder / "outbox")
        coordinator = self._world.layout.coordinator / "state"
        now["updates"] |= _folders(coordinator / "updates")
        now["versions"] |= _folders(coordinator / "versions")
        for kind, names in now.items():
            self.seen[kind] |= names
        return now

    def lost(self) -> dict[str, list[str]]:
        """What was seen once and is nowhere now."""
        now = self.look()
        return {kind: sorted(self.seen[kind] - now[kind]) for kind in now}


def _folders(parent: Path) -> set[str]:
    if not parent.is_dir():
        return set()
    return {path.name for path in parent.iterdir() if path.is_dir() and not path.name.startswith(IN_PROGRESS)}


def soak(world: World, report: Path) -> bool:
    """The story: as the demo's, with a killer at work during training."""
    ledger = Ledger(world)
    with world.screen.phase("enrol", "Everything is brought up"):
        enrol.enrol(world)
    with world.screen.phase("record", "Demonstrations"):
        record.before_and_record(world)
    ledger.look()
    with world.screen.phase("kill", "One process of every kind is killed"):
        kills = _kill_all(world, ledger)
    with world.screen.phase("train", "The rounds go on to their end"):
        train.train(world, show_interruption=False)
    with world.screen.phase("run", "The arms try"):
        train.push(world)
        record.rollouts(world, "after")
    figures = _figures(world, ledger, kills)
    write_atomic(report, json.dumps(figures, indent=1) + "\n")
    whole = figures["lost_total"] == 0 and not figures["half_written"]
    return figures["all_killed"] and whole and figures["torque_off_max_s"] <= TORQUE_S


def _kill_all(world: World, ledger: Ledger) -> list[Kill]:
    watching = threading.Event()

    def watch() -> None:
        while not watching.wait(0.2):
            ledger.look()

    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(watch)
        try:
            return [kill(world, ledger, world.taught()[0], kind) for kind in ORDER]
        finally:
            watching.set()
            job.result()


def _figures(world: World, ledger: Ledger, kills: list[Kill]) -> dict[str, Any]:
    lost = ledger.lost()
    return {
        "all_killed": {each.kind for each in kills} == set(ORDER),
        "interrupted_update": next(each.update for each in kills if each.kind == "trainer"),
        "half_written": {each.name: half_written(each) for each in world.stations if half_written(each)},
        "back_s": {each.kind: each.back_s for each in kills},
        "torque_off_s": {each.kind: each.torque_off_s for each in kills if each.torque_off_s is not None},
        "torque_off_max_s": max(each.torque_off_s or 0.0 for each in kills),
        "lost": lost,
        "lost_total": sum(len(names) for names in lost.values()),
        "seen": {kind: len(names) for kind, names in ledger.seen.items()},
        "rounds": max(version["version"] for version in world.notes["versions"]),
        "wall_s": round(world.screen.seconds, 1),
        "phases_s": dict(world.screen.phases),
    }


def main() -> int:
    """Run and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("demo-run"))
    parser.add_argument("--report", type=Path, default=Path("demo-report-soak.json"))
    parser.add_argument("--base", type=Path, default=BASE)
    options = parser.parse_args()
    plan = replace(SMALL, base=options.base.absolute(), before=0, after=1, rounds=12, limit_s=1500.0)
    return story.run(plan, options.folder, options.report, told=soak, name="soak-demo")


if __name__ == "__main__":
    sys.exit(main())
