"""One numbered exit code per fatal cause, grouped by component.

A number is never reused for another cause. `docs/exit-codes.md` has a paragraph on each.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit status of every armfleet process."""

    OK = 0
    UNEXPECTED = 1

    # configuration
    CONFIG_UNREADABLE = 10
    CONFIG_INVALID = 11
    ALREADY_RUNNING = 12

    # arm
    PORT_MISSING = 20
    SERVO_SILENT = 21
    SERVO_MODEL = 22
    FIRMWARE_MIX = 23
    CALIBRATION_MISMATCH = 24
    BUS_LOST = 25
    SERVO_PROTECTION = 26
    SERVO_HOT = 27
    SUPPLY_VOLTAGE = 28

    # cameras and episodes
    CAMERA_LOST = 30
    DISK_FULL = 31
    EPISODE_DAMAGED = 32

    # policy
    BASE_MISSING = 40
    BASE_MISMATCH = 41
    DEVICE_MISSING = 42
    POLICY_MISFIT = 43
    POLICY_FAILED = 44

    # exchange, as a workstation sees it
    COORDINATOR_AWAY = 50
    JOIN_REFUSED = 51
    JOIN_OTHER_COORDINATOR = 52
    NOT_ENROLLED = 53
    VERSION_REFUSED = 54

    # coordinator
    REGISTRY_DAMAGED = 60
    SUPERLINK_AWAY = 61
    RUN_REFUSED = 62
    UPDATE_REFUSED = 63

    # demo
    DEMO_FAILED = 70
