"""What a servo says about itself besides its position: registers 60 to 70 of the STS3215, in one read.

Torch-free; pure.
"""

from dataclasses import dataclass

ADDRESS, LENGTH = 60, 11
"""Load 60-61, voltage 62, temperature 63, status 65, current 69-70 (Feetech, memory table of the STS
series; in LeRobot: `lerobot.motors.feetech.tables.STS_SMS_SERIES_CONTROL_TABLE`)."""
CURRENT_UNIT_A = 0.0065  # unit of register 69, same table
LOAD_SIGN, CURRENT_SIGN = 1 << 10, 1 << 15

VOLTAGE, SENSOR, HEAT, CURRENT, OVERLOAD = 1, 2, 4, 8, 32
"""Bits of the status register and of the error byte in every reply
(`scservo_sdk.protocol_packet_handler`)."""
NAMES = {VOLTAGE: "voltage", SENSOR: "angle sensor", HEAT: "heat", CURRENT: "current", OVERLOAD: "overload"}


@dataclass(frozen=True)
class Health:
    """One servo at one moment.

    Attributes:
        load: Permille of the full torque, signed: the duty with which the motor is driven.
        voltage: Supply, volt.
        temperature: Degrees C.
        current: Ampere, unsigned.
        errors: Bits; see NAMES.
    """

    load: int
    voltage: float
    temperature: int
    current: float
    errors: int

    def to_dict(self) -> dict[str, object]:
        """JSON-ready; errors as words."""
        return {
            "load": self.load,
            "voltage": self.voltage,
            "temperature": self.temperature,
            "current": self.current,
            "errors": describe(self.errors),
        }


def decode(data: bytes, error: int) -> Health:
    """LENGTH bytes from ADDRESS, and the error byte of the reply that brought them."""
    load = data[0] | data[1] << 8
    current = data[9] | data[10] << 8
    magnitude = load & (LOAD_SIGN - 1)
    return Health(
        load=-magnitude if load & LOAD_SIGN else magnitude,
        voltage=data[2] / 10,
        temperature=data[3],
        current=round((current & (CURRENT_SIGN - 1)) * CURRENT_UNIT_A, 3),
        errors=error | data[5],
    )


def describe(errors: int) -> list[str]:
    """The bits in words."""
    return [name for bit, name in NAMES.items() if errors & bit]
