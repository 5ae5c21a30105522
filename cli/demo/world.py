"""What the chapters of the demo share."""

import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from cli.demo.layout import Layout
from cli.demo.plan import Plan
from cli.demo.screen import Screen
from cli.demo.station import Station, Stopped
from cli.demo.supervisor import Supervisor
from cli.demo.tally import Tally
from shared.uds import UdsClient


@dataclass
class World:
    """One demo: its numbers, its folder, its processes, and what was found out."""

    plan: Plan
    layout: Layout
    screen: Screen
    supervisor: Supervisor
    stop: threading.Event = field(default_factory=threading.Event)
    tally: Tally = field(default_factory=Tally)
    notes: dict[str, Any] = field(default_factory=dict)
    """Measured on the way: the interruption, the versions."""

    def __post_init__(self) -> None:
        self.stations = [Station(each, self.stop) for each in self.layout.stations]
        self.coordinator = UdsClient(self.layout.coordinator_socket, timeout_s=30.0)

    def station(self, name: str) -> Station:
        """A workstation by name."""
        return next(each for each in self.stations if each.name == name)

    def taught(self) -> list[Station]:
        """The workstations that are taught a task."""
        return [each for each in self.stations if each.layout.plan.task]

    def at_all_stations(self, work: Callable[[Station], None]) -> None:
        """Do `work` at all workstations at the same time; the first failure ends the others and is raised."""
        with ThreadPoolExecutor(len(self.stations), thread_name_prefix="station") as pool:
            jobs = [pool.submit(work, each) for each in self.stations]
            try:
                wait(jobs, return_when=FIRST_EXCEPTION)
            except BaseException:
                self.stop.set()  # Ctrl-C: the threads unwind at their next look
                raise
            if any(job.done() and job.exception() for job in jobs):
                self.stop.set()
        failures = [error for job in jobs if (error := job.exception())]
        for error in sorted(failures, key=lambda each: isinstance(each, Stopped)):
            raise error
