"""What can go wrong with a virtual arm or camera, as plain values.

A fault description is the whole truth about its bus: what it does not name is healthy. So an empty one heals
everything, and two faults are combined by naming both.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from sim.registers import FIRMWARE, MODEL_STS3215

BusName = Literal["follower", "leader"]
CameraFault = Literal["none", "silent", "frozen", "stuck", "black"]
"""`frozen` sends the same picture with new time stamps, `stuck` the same message, its stamp included."""


class _Fault(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BusFaults(_Fault):
    """State of one bus and its six servos. Servos are named by their ids, 1..6."""

    unplugged: bool = False
    """The USB adapter is gone: port closed, link removed. The servos keep their power, torque and goals."""
    silent: bool = False
    """Nobody answers; commands are still obeyed (a broken receive line)."""
    dead: frozenset[int] = frozenset()
    """Servos without power: they neither answer nor obey, and are limp."""
    corrupt: float = Field(default=0.0, ge=0, le=1)
    """Probability that a reply has a wrong checksum."""
    lost: float = Field(default=0.0, ge=0, le=1)
    """Probability that a reply is missing."""
    delay_s: float = Field(default=0.0, ge=0, le=5)
    """Time before every reply."""
    stalls: float = Field(default=0.0, ge=0, le=1)
    """Probability that the line stalls before it passes a reply on (a busy USB hub); nothing is lost."""
    stall_s: float = Field(default=0.08, ge=0, le=5)
    """How long it then stalls."""
    models: dict[int, int] = {}
    """Model numbers other than 777."""
    firmware: dict[int, tuple[int, int]] = {}
    """Firmware versions other than 3.10."""
    voltage: float = 5.0
    """Supply of all servos, volt. Outside 4.0-`voltage_limit` every reply carries the voltage error bit."""
    voltage_limit: float = 8.0
    """The servos' own upper limit (register 14), volt: 8 in the 7.4 V model, 14 in the 12 V one."""
    temperature: dict[int, float] = {}
    """Case temperatures other than 30 degrees C. Above 70 the servo gives way and says so in every reply."""
    overload: frozenset[int] = frozenset()
    """Servos whose overload protection has tripped: they give way and say so in every reply."""
    errors: dict[int, int] = {}
    """Further error bits (`sim.registers.ErrorBit`): 2 the angle sensor, 8 overcurrent."""
    load: dict[int, int] = {}
    """Loads to report instead of the measured ones, permille of the full torque."""

    def identity(self, servo_id: int) -> tuple[int, tuple[int, int]]:
        """Model number and firmware the servo claims."""
        return self.models.get(servo_id, MODEL_STS3215), self.firmware.get(servo_id, FIRMWARE)


class FaultRequest(BusFaults):
    """A fault description with the bus it is for: the body of `POST /fault`."""

    bus: BusName = "follower"


class CameraFaultRequest(_Fault):
    """Body of `POST /camera-fault`."""

    camera: str = "front"
    fault: CameraFault = "none"
