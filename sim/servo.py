"""What one STS3215 servo does with a goal, in the physics' terms and in the registers'.

The controller is part of the MuJoCo model, so that both clocks (the real-time bus and the lockstep) share one
plant: the goal passes a first-order filter (the servo's own motion profile plus the bus latency), a
proportional term with the joint's damping follows it, and the torque is limited. Together they make the
follower trail its goals by about 0.1 s, as a real SO-101 does (130-170 ms, the bus cycle included).
"""

from dataclasses import dataclass

STIFFNESS = 17.8  # N m/rad; identified for LeRobot's P=16 by the authors of so101_new_calib.xml
MAX_TORQUE = 3.35  # N m; stall torque at 12 V, same source
PROFILE_TIME_S = 0.05
"""Time constant of the goal filter; with damping / stiffness = 34 ms it gives the lag above."""
HOLDING_SHARE = 0.85
"""Part of the gravity load that the 1:345 gear train's static friction carries while torque is on. The rest
shows as sag: at most 0.5 degrees, as LeRobot's I=0 setting leaves it on a real arm."""

STALL_CURRENT_A = 2.7  # datasheet, 12 V
CURRENT_UNIT_A = 0.0065  # unit of registers 28 and 69
LOAD_FULL = 1000  # register 60: permille of the maximum torque


@dataclass(frozen=True)
class ServoReading:
    """One servo's feedback: signed counts, permille of full torque, and raw current units."""

    position: int
    velocity: int
    load: int
    current: int


def load_permille(torque: float) -> int:
    """Register 60 for a torque in N m, signed."""
    return round(max(-1.0, min(1.0, torque / MAX_TORQUE)) * LOAD_FULL)


def current_raw(torque: float) -> int:
    """Register 69 for a torque in N m: motor current grows with torque."""
    return round(min(1.0, abs(torque) / MAX_TORQUE) * STALL_CURRENT_A / CURRENT_UNIT_A)
