"""Chapters 4 to 6: training in idle windows, rounds, evaluation, promotion, and the push to all arms."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from safetensors import safe_open

from cli.demo.layout import StationLayout
from cli.demo.station import Station
from cli.demo.world import World
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode

INTERRUPT_AFTER = 2
"""The interruption is shown when this many versions exist: training then surely goes on."""
END_S = 5.0
"""Longest wait for the trainer's end; the target is 1 s."""
TRIES = 3


def interrupt(world: World, station: Station) -> None:
    """Ask for the arm while the agent trains; measure how soon it is given, and where training goes on."""
    seconds, stopped = _interrupted(station)
    resumed = station.until("the resumption of training", 120, lambda: _further(station, stopped), every=0.02)
    world.notes["interruption"] = {
        "station": station.name,
        "seconds": round(seconds, 3),
        "stopped_at_step": stopped["step"],
        "resumed_same_update": resumed["update_id"] == stopped["update_id"],
    }
    world.screen.say(
        f"The operator of {station.name} asked for the arm: training stopped within {seconds:.2f} s at step "
        f"{stopped['step']}, and later went on from there."
    )


def _interrupted(station: Station) -> tuple[float, dict[str, Any]]:
    """(seconds until the trainer had ended, its checkpoint) of an interruption in the middle of an update.

    Asked again after a refusal, and when the update was done just before.

    Raises:
        ArmfleetError: DEMO_FAILED: the trainer did not end, or no try of TRIES hit an unfinished update.
    """
    task, last = station.layout.plan.task, "each update was done just before"
    assert task is not None
    for _ in range(TRIES):
        station.lead_to_follower()
        station.until("training", 120, lambda: in_update(station), every=0.02)
        trainer = station.status()["workers"]["trainer"]["pid"]
        with ThreadPoolExecutor(1, thread_name_prefix="watch") as pool:
            began = monotonic()
            ended = pool.submit(_ended_at, trainer)  # the answer comes later: the arms are aligned first
            try:
                station.ask_for_arm(task)
            except ArmfleetError as error:
                last = str(error)
                continue
            try:
                seconds, stopped = ended.result() - began, checkpoint(station.layout)
            finally:
                station.stop_session()
        if not stopped["delivered"]:
            return seconds, stopped
    raise ArmfleetError(
        f"workstation {station.name}: training could not be interrupted in {TRIES} tries ({last})",
        code=ExitCode.DEMO_FAILED,
    )


def _ended_at(pid: int | None) -> float:
    """The time at which a process was seen to be gone.

    Raises:
        ArmfleetError: DEMO_FAILED: it did not end.
    """
    deadline = monotonic() + END_S
    while _alive(pid):
        if monotonic() > deadline:
            raise ArmfleetError(
                f"the trainer {pid} was there {END_S:g} s after the arm was asked for",
                code=ExitCode.DEMO_FAILED,
            )
        sleep(0.005)
    return monotonic()


def checkpoint(station: StationLayout) -> dict[str, Any]:
    """What the trainer's checkpoint on disk says about itself; {"step": 0} without one."""
    for path in sorted((station.state / "training").glob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            if progress := (file.metadata() or {}).get("progress"):
                return json.loads(progress)
    return {"step": 0, "update_id": "", "delivered": False}


def in_update(station: Station) -> bool:
    """Whether the agent trains now and its checkpoint is in the middle of an update."""
    progress = checkpoint(station.layout)
    return station.status()["activity"] == "train" and progress["step"] > 0 and not progress["delivered"]


def _further(station: Station, stopped: dict[str, Any]) -> dict[str, Any] | None:
    """The checkpoint, once it has moved on: a later step of the same update, or that update delivered."""
    now = checkpoint(station.layout)
    same = now["update_id"] == stopped["update_id"]
    return now if (same and (now["step"] > stopped["step"] or now["delivered"])) or not same else None


def _alive(pid: int | None) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return pid is not None and Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False  # it is gone


def train(world: World, show_interruption: bool = True) -> None:
    """Watch the rounds until the last version is evaluated, with one interruption on the way."""
    plan = world.plan
    bar = world.screen.bar("rounds", plan.rounds)
    told: set[int] = {0}

    def reached(rounds: int) -> bool:
        """Show where the rounds are; whether version `rounds` exists, and the last one is judged."""
        status, versions = look(world)
        newest = int(status["newest"])
        bar.set(min(newest, plan.rounds), status["aggregation"]["now"])
        _tell(world, versions, told)
        ended = rounds < plan.rounds or not due(versions, plan.evaluate_every, status)
        return newest >= rounds and ended

    first = world.stations[0]
    if show_interruption:
        early = min(INTERRUPT_AFTER, plan.rounds - 1)
        first.until("the first rounds", plan.limit_s, lambda: reached(early), every=0.5)
        interrupt(world, min(world.taught(), key=lambda each: each.layout.plan.duty_cycle))
    first.until("the end of the rounds", plan.limit_s, lambda: reached(plan.rounds), every=0.5)
    world.notes["versions"] = look(world)[1]


def look(world: World) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The coordinator's status and its versions."""
    return world.coordinator.get("/status"), world.coordinator.get("/versions")["versions"]


def due(versions: list[dict[str, Any]], every: int, status: dict[str, Any]) -> bool:
    """Whether an evaluation is running or still to come."""
    waiting = any(v["state"] == "candidate" and v["version"] % every == 0 for v in versions)
    return waiting or status["evaluation"]["version"] is not None


def _tell(world: World, versions: list[dict[str, Any]], told: set[int]) -> None:
    for version in versions:
        number, evaluation = version["version"], version["evaluation"]
        if evaluation and number not in told:
            told.add(number)
            rates = {**evaluation["known"], **evaluation["unseen"]}
            words = ", ".join(f"{task} {counts['rate']:.0%}" for task, counts in rates.items())
            world.screen.say(
                f"Version {number} in simulation: {words}. It is {version['state']}: {version['why']}."
            )


def push(world: World) -> int:
    """Wait until every arm's policy executes the promoted version, proven by digest; returns its number."""
    promoted = int(world.coordinator.get("/status")["promoted"]["version"])

    def runs(station: Station) -> bool:
        running = station.agent.get("/versions")["running"]
        return running is not None and running["version"] == promoted

    for station in world.stations:
        station.until(f"version {promoted} on the arm", 120, partial(runs, station), every=0.2)
    world.screen.say(
        f"Version {promoted} executes on every arm: the digests of the live tensors are the signed ones."
    )
    return promoted


def staleness(versions: list[dict[str, Any]]) -> dict[str, int]:
    """Histogram over all contributions: staleness -> number of updates."""
    counts = Counter(part["staleness"] for version in versions for part in version["contributions"])
    return {str(key): counts[key] for key in sorted(counts)}
