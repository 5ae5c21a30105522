"""An emulated bus without physics: goals are reached at once, so that a test can look at single
transactions."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from shared.errors import ArmfleetError
from sim.bus import BusPort, ServoBus
from sim.faults import BusFaults
from sim.joints import JointMap
from sim.registers import Register
from sim.servo import ServoReading


class Bench:
    """One emulated arm on a pseudo-terminal, with its calibration file."""

    def __init__(self, folder: Path) -> None:
        self.joints = JointMap()
        self.calibrations = folder / "calibration"
        self.calibrations.mkdir(parents=True)
        (self.calibrations / "so100.json").write_text(self.joints.calibration_json())
        self.bus = ServoBus(self.counts(np.array([0, 0, 0, 0, 0, 50.0])).tolist())
        self.port = BusPort(self.bus, folder / "tty")
        self.port.plug()

    @property
    def path(self) -> str:
        return str(self.port.link)

    def counts(self, units: np.ndarray) -> np.ndarray:
        return self.joints.units_to_counts(units)

    def stand(self, units: list[float]) -> None:
        """Put the arm somewhere."""
        self.bus.present([ServoReading(int(count), 0, 0, 0) for count in self.counts(np.array(units))])

    def fault(self, **faults: object) -> None:
        self.port.set_faults(BusFaults(**faults))

    def torque(self) -> list[bool]:
        return [command.torque for command in self.bus.commands()]

    def goals(self) -> list[int]:
        return [command.goal_counts for command in self.bus.commands()]

    def register(self, joint: int, register: Register) -> int:
        return self.bus.registers(joint).byte(register)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.port.unplug()


def reconnected(arm):
    """A line may still be stalled from before; the daemon tries again as well."""
    deadline = time.monotonic() + 10
    while not arm.connected:
        try:
            arm.reconnect()
        except ArmfleetError:
            if time.monotonic() > deadline:
                raise
