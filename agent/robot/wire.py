"""Single transactions with the servos behind an open LeRobot bus, which don't stumble over a servo's
error bits.

LeRobot's own `ping`, `write` and `disable_torque` treat a servo in overload as one that is not there, and
leave out those that come after it.
"""

import termios
import time
from contextlib import suppress

import scservo_sdk
import serial
from lerobot.robots.so_follower import SO101Follower
from lerobot.teleoperators.so_leader import SO101Leader

from agent.robot.health import Health
from agent.robot.joints import JOINTS
from agent.robot.reader import TaggedSyncRead

type Device = SO101Follower | SO101Leader

PORT_ERRORS = (OSError, termios.error, serial.SerialException)
"""What pyserial raises when the adapter is gone. LeRobot's ConnectionError is an OSError as well: catch it
first."""
TRIES = 3
LATE_REPLY_S = 0.15
"""Wait for a reply after its time-out (50 ms in LeRobot): one that a stall of up to 200 ms has delayed
need not be waited for twice."""
POLL_S = 0.002
PROBE_S = 0.05
TORQUE_ENABLE = 40  # register, memory table of the STS series


def reader(device: Device) -> TaggedSyncRead:
    """The reader that `agent.robot.driver` gave the device's bus."""
    found = device.bus.sync_reader
    assert isinstance(found, TaggedSyncRead)
    return found


def ping(device: Device, joint: str) -> int | None:
    """The servo's model number, or None if it does not answer."""
    servo = JOINTS.index(joint) + 1
    for _ in range(TRIES):
        reader(device).flush()
        try:
            model, result, _ = device.bus.packet_handler.ping(device.bus.port_handler, servo)
        except IndexError:  # a reply that is too short: a late one to an earlier request
            continue
        if result == scservo_sdk.COMM_SUCCESS:
            return int(model)
    return None


def health_of_all(device: Device) -> list[Health] | None:
    """Health of the six joints in their order, or None if one does not tell."""
    healths = []
    for joint in range(len(JOINTS)):
        tries = (reader(device).probe(joint, PROBE_S) for _ in range(TRIES))
        health = next((health for health in tries if health is not None), None)
        if health is None:
            return None
        healths.append(health)
    return healths


def torque_off(device: Device) -> None:
    """One packet to all servos; none answers, so that one which can't does not keep the others waiting."""
    handler = device.bus.port_handler
    handler.is_using = False
    device.bus.packet_handler.write1ByteTxOnly(handler, scservo_sdk.BROADCAST_ID, TORQUE_ENABLE, 0)


def await_late_reply(device: Device) -> None:
    """Until something arrives, or LATE_REPLY_S has passed: then it is lost."""
    handler = device.bus.port_handler
    deadline = time.monotonic() + LATE_REPLY_S
    while handler.is_open and not handler.ser.in_waiting and time.monotonic() < deadline:
        time.sleep(POLL_S)


def close(device: Device) -> None:
    """Close the port; never fails."""
    handler = device.bus.port_handler
    if handler.is_open:
        with suppress(*PORT_ERRORS):
            handler.closePort()
    # If closing failed the driver would call the port open for ever, and try to use it when collected.
    handler.is_open = False
