"""Chapters 2 and 3: the arms try before they were taught anything, then a person demonstrates."""

from functools import partial
from typing import Any, Literal

from loguru import logger

from cli.demo.plan import TaskPlan
from cli.demo.screen import Bar
from cli.demo.station import Station
from cli.demo.world import World
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode

READY_S = 400.0
"""Longest start of a station's workers: cold imports of torch take 15 s, and all stations start at once."""
GATE_S = 120.0
"""Longest wait for one more verdict: the gate runs at nice 19 and reads up to 40 episodes one by one."""
SPARE_TRIES = 10
"""Demonstrations that may go wrong at a station before the demo gives up."""


def rollouts(world: World, when: Literal["before", "after"]) -> None:
    """All tasks on all arms at the same time."""
    plan = world.plan
    count = plan.before if when == "before" else plan.after
    bars = {
        each.name: world.screen.bar(f"arm {each.name} tries", count * len(plan.tasks))
        for each in world.stations
    }
    world.at_all_stations(lambda station: attempt(world, station, when, count, bars[station.name]))


def attempt(world: World, station: Station, when: Literal["before", "after"], count: int, bar: Bar) -> None:
    """`count` rollouts of each task on one arm."""
    for task in world.plan.tasks:
        done = 0
        for index in range(count):
            success = station.rollout(
                task, world.plan.rollout_seed(station.name, index), world.plan.rollout_s
            )
            world.tally.add(task.key, station.name, when, success)
            done += success
            bar.advance(f"{task.text}: {done}/{index + 1}")


def before_and_record(world: World) -> None:
    """Each station: rollouts of the untrained policy, then its demonstrations; none waits for another."""
    plan = world.plan
    trying = {
        each.name: world.screen.bar(f"arm {each.name} tries", plan.before * len(plan.tasks))
        for each in world.stations
        if plan.before
    }
    recording = {
        each.name: world.screen.bar(f"arm {each.name} is taught", plan.demonstrations)
        for each in world.taught()
    }

    def day(station: Station) -> None:
        station.wait_ready(READY_S)
        if plan.before:
            attempt(world, station, "before", plan.before, trying[station.name])
        if station.layout.plan.task:
            record(world, station, recording[station.name])

    world.at_all_stations(day)


def record(world: World, station: Station, bar: Bar) -> None:
    """A session of demonstrations at one station.

    Raises:
        ArmfleetError: DEMO_FAILED: too many demonstrations went wrong, or the gate kept too many out.
    """
    task, wanted = station.layout.plan.task, world.plan.demonstrations
    assert task is not None
    station.start_session(task)
    try:
        kept = 0
        for index in range(wanted + SPARE_TRIES):
            if kept == wanted:
                break
            if demonstrate(station, task, world.plan.demonstration_seed(station.name, index)):
                kept += 1
                bar.advance(task.text)
    finally:
        station.stop_session()
    if kept < wanted:
        raise ArmfleetError(
            f"only {kept} of {wanted} demonstrations at {station.name} succeeded",
            do=f"read the logs of {station.name} in {world.layout.logs}",
            code=ExitCode.DEMO_FAILED,
        )
    check_gate(station, wanted)


def demonstrate(station: Station, task: TaskPlan, seed: int) -> bool:
    """One demonstration; False if it went wrong. A person begins a session again that a fault ended."""
    try:
        return station.demonstrate(task, seed) is not None
    except ArmfleetError as error:
        logger.warning("workstation {}: a demonstration was lost: {}", station.name, error)
    if not station.in_session():
        station.start_session(task)
    return False


def check_gate(station: Station, wanted: int) -> None:
    """Wait for the verdicts on all episodes; some may be quarantined, most must be admitted.

    However long it takes in all: the demo only gives up when no further verdict comes for GATE_S.

    Raises:
        ArmfleetError: DEMO_FAILED, with the reasons.
    """
    episodes = station.until("the list of episodes", GATE_S, lambda: _episodes(station))
    while waiting := _unjudged(episodes):
        look = partial(_episodes, station, waiting)
        episodes = station.until(f"the gate's next verdict ({waiting} wait)", GATE_S, look, every=0.5)
    admitted = [each for each in episodes if each["verdict"] == "admitted"]
    if len(admitted) < 0.8 * wanted:
        reasons = sorted({str(reason) for each in episodes for reason in each.get("reasons", [])})
        raise ArmfleetError(
            f"the gate of {station.name} admitted {len(admitted)} of {len(episodes)}: {'; '.join(reasons)}",
            kept="the quarantined episodes, with their reasons",
            code=ExitCode.DEMO_FAILED,
        )


def _episodes(station: Station, fewer_than: int | None = None) -> list[dict[str, Any]]:
    """The station's episodes; none while `fewer_than` or more of them wait for the gate."""
    episodes = station.agent.get("/episodes")["episodes"]
    return episodes if fewer_than is None or _unjudged(episodes) < fewer_than else []


def _unjudged(episodes: list[dict[str, Any]]) -> int:
    return sum(each["verdict"] == "unjudged" for each in episodes)
