"""When an arm must be stopped for its own good. Pure: health and times in, findings out.

| cause | warning | stop | the arm then |
|---|---|---|---|
| overheating | 60 C for 1 s | 65 C for 0.5 s, or the heat bit | is held, lowered, let go |
| overload | 80 % load for 1 s | 80 % load for 1.8 s, or the bit | is held, lowered, let go |
| overload of the gripper | its bit | its bit for 5 s | is held, lowered, let go |
| overcurrent | | the bit | is held, lowered, let go |
| undervoltage | < 90 % for 2 s | < 80 % for 0.5 s | is held, lowered, let go |
| wrong supply | | < 70 %, > 115 %, or the voltage bit, for 0.3 s | is held, let go |
| angle sensor | | the bit | is held, let go: the way down is not known |

Above a limit for the time given means: in each sample of that time. A joint is sampled five times a
second, the bits come with each position. A finding stands until its cause has clearly gone.

Sources: STS3215 data sheet (C001: 4 to 7.4 V, C018: 4 to 14 V; use up to 60 degrees C) and memory table
of the STS series, factory values: maximum temperature (13) 70, limits of the voltage (14, 15) 8.0 and 4.0
V, overload torque (36) 80 % for the protection time (35) of 2.0 s, after which the servo gives way by
itself and the arm falls. A measured servo reached 60 degrees after 50 minutes of uninterrupted motion and
71 after 110 (SO-ARM100 issue 134), and then did not protect itself. Where there is a value
to go by, the stop comes before the servo's own protection, so that the arm is lowered and does not fall.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum, IntEnum

from agent.robot.health import CURRENT, HEAT, OVERLOAD, SENSOR, VOLTAGE, Health
from agent.robot.joints import GRIPPER, label
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode

WARM_C, HOT_C, COOL_C = 60, 65, 55
FULL_LOAD, LOAD_GONE = 800, 500
SAGGING, SAGGED, TOO_LOW, TOO_HIGH = 0.9, 0.8, 0.7, 1.15
"""Shares of the nominal supply."""
BIT_S = 0.05
"""Two readings in a row: a damaged reply passes its checksum once in 256 times."""
GRIPPER_OVERLOAD_S = 5.0
"""Holding things is the gripper's work, and LeRobot gives it a quarter of the other joints' overload
torque: its bit says that it grips more weakly now."""
GAP_S = 3.0
"""Samples further apart than this are no uninterrupted time."""


class Level(IntEnum):
    """How bad it is."""

    WARN = 1
    STOP = 2


class Cause(Enum):
    """What is wrong, in the words of the table."""

    HEAT = "overheating"
    OVERLOAD = "overload"
    CURRENT = "overcurrent"
    SAG = "undervoltage"
    SUPPLY = "wrong supply"
    SENSOR = "angle sensor"


LOWERED = frozenset({Cause.HEAT, Cause.OVERLOAD, Cause.CURRENT, Cause.SAG})
"""Causes at which the arm is lowered before it is let go."""

CODES = {
    Cause.HEAT: ExitCode.SERVO_HOT,
    Cause.SAG: ExitCode.SUPPLY_VOLTAGE,
    Cause.SUPPLY: ExitCode.SUPPLY_VOLTAGE,
}
OTHER_CODE = ExitCode.SERVO_PROTECTION
UNSAFE_CODES = frozenset({*CODES.values(), OTHER_CODE})
"""All that an `UnsafeArm` can have."""


@dataclass(frozen=True)
class Finding:
    """One joint, one cause.

    Attributes:
        level, cause: Of the rule that found it.
        joint: 0..5.
        health: When it was found, or last seen.
        supply_v: Nominal supply, None where it does not matter.
    """

    level: Level
    cause: Cause
    joint: int
    health: Health
    supply_v: float | None

    @property
    def lowers(self) -> bool:
        """The arm is lowered before it is let go."""
        return self.cause in LOWERED

    def error(self, role: str) -> "UnsafeArm":
        """What the operator is told."""
        what, do = _sentence(self, f"{label(self.joint)} of the {role}")
        return UnsafeArm(what, do, self)


class UnsafeArm(ArmfleetError):
    """The arm must not be used now; `finding` says why."""

    def __init__(self, what: str, do: str, finding: Finding) -> None:
        code = CODES.get(finding.cause, OTHER_CODE)
        super().__init__(what, kept="all saved episodes", do=do, code=code)
        self.finding = finding


type Test = Callable[[int, Health], bool]


@dataclass(frozen=True)
class Rule:
    """`when` held for `seconds` makes a finding, which stands until `until`."""

    level: Level
    cause: Cause
    seconds: float
    when: Test
    until: Test | None = None

    def gone(self, joint: int, health: Health) -> bool:
        """A finding of this rule no longer stands."""
        return self.until(joint, health) if self.until else not self.when(joint, health)


def rules(supply_v: float | None) -> tuple[Rule, ...]:
    """The table above for an arm with a nominal supply (volt); None leaves the supply to the servos' own
    bits."""
    stop, warn = Level.STOP, Level.WARN

    def bit(mask: int) -> Test:
        return lambda joint, health: bool(health.errors & mask)

    def hotter(limit: int) -> Test:
        return lambda joint, health: health.temperature >= limit

    def cool(joint: int, health: Health) -> bool:
        return health.temperature < COOL_C and not health.errors & HEAT

    def pushes(joint: int, health: Health) -> bool:
        return abs(health.load) >= FULL_LOAD

    def rests(joint: int, health: Health) -> bool:
        return abs(health.load) < LOAD_GONE

    def joint_overload(joint: int, health: Health) -> bool:
        return joint != GRIPPER and bool(health.errors & OVERLOAD)

    def gripper_overload(joint: int, health: Health) -> bool:
        return joint == GRIPPER and bool(health.errors & OVERLOAD)

    found = [
        Rule(
            warn,
            Cause.HEAT,
            1.0,
            lambda _, h: h.temperature >= WARM_C,
            lambda _, h: h.temperature < WARM_C - 2,
        ),
        Rule(
            stop,
            Cause.HEAT,
            0.5,
            lambda _, h: h.temperature >= HOT_C,
            lambda _, h: h.temperature < COOL_C and not h.errors & HEAT,
        ),
        Rule(stop, Cause.HEAT, BIT_S, bit(HEAT), lambda _, h: h.temperature < COOL_C and not h.errors & HEAT),
        Rule(warn, Cause.OVERLOAD, 1.0, pushes, rests),
        Rule(stop, Cause.OVERLOAD, 1.8, pushes, rests),
        Rule(stop, Cause.OVERLOAD, BIT_S, joint_overload),
        Rule(warn, Cause.OVERLOAD, BIT_S, gripper_overload),
        Rule(stop, Cause.OVERLOAD, GRIPPER_OVERLOAD_S, gripper_overload),
        Rule(stop, Cause.CURRENT, BIT_S, bit(CURRENT)),
        Rule(stop, Cause.SENSOR, BIT_S, bit(SENSOR)),
    ]
    supply = [Rule(stop, Cause.SUPPLY, 0.3, bit(VOLTAGE))] if supply_v is None else _supply_rules(supply_v)
    return tuple(found + supply)


def _supply_rules(nominal: float) -> list[Rule]:
    def between(low: float, high: float) -> Test:
        return lambda joint, health: low * nominal <= health.voltage < high * nominal

    def recovered(joint: int, health: Health) -> bool:
        return health.voltage >= SAGGING * nominal

    def refused(joint: int, health: Health) -> bool:
        """By the servo, though it is what the configuration wants; low voltages have rules of their own."""
        return bool(health.errors & VOLTAGE) and health.voltage >= SAGGED * nominal

    return [
        Rule(Level.WARN, Cause.SAG, 2.0, between(0, SAGGING), recovered),
        Rule(Level.STOP, Cause.SAG, 0.5, between(TOO_LOW, SAGGED), recovered),
        Rule(Level.STOP, Cause.SUPPLY, 0.3, between(0, TOO_LOW)),
        Rule(Level.STOP, Cause.SUPPLY, 0.3, lambda _, h: h.voltage > TOO_HIGH * nominal),
        Rule(Level.STOP, Cause.SUPPLY, 0.3, refused),
    ]


class Guard:
    """Applies the rules to one arm over time.

    Args:
        supply_v: As for `rules`.
    """

    def __init__(self, supply_v: float | None) -> None:
        self._supply_v = supply_v
        self._rules = rules(supply_v)
        self._since: dict[tuple[int, int], float] = {}  # (rule, joint) -> when its condition began
        self._standing: dict[tuple[int, int], Finding] = {}
        self._last: dict[int, tuple[float, Health]] = {}

    def see(self, joint: int, health: Health, now: float) -> None:
        """One sample of joint 0..5 at `now`, seconds of a monotonic clock."""
        seen, _ = self._last.get(joint, (now, health))
        gap = now - seen > GAP_S
        self._last[joint] = (now, health)
        for index, rule in enumerate(self._rules):
            key = (index, joint)
            if key in self._standing:
                if rule.gone(joint, health):
                    del self._standing[key]
                else:
                    self._standing[key] = replace(self._standing[key], health=health)
                continue
            if not rule.when(joint, health):
                self._since.pop(key, None)
                continue
            if gap:
                self._since.pop(key, None)
            if now - self._since.setdefault(key, now) >= rule.seconds:
                self._standing[key] = Finding(rule.level, rule.cause, joint, health, self._supply_v)

    def see_errors(self, errors: Sequence[int], now: float) -> None:
        """The error bytes that came with the positions, in the order of JOINTS.

        A voltage bit is left to the samples, which tell the voltage that belongs to it.
        """
        for joint, error in enumerate(errors):
            _, health = self._last.get(joint, (now, None))
            if health is None:
                continue
            bits = error & ~VOLTAGE | health.errors & VOLTAGE
            if bits or health.errors:
                self.see(joint, replace(health, errors=bits), now)

    def findings(self, level: Level) -> list[Finding]:
        """What stands at this level and at no worse one, one per joint and cause."""
        worse = {(f.joint, f.cause) for f in self._standing.values() if f.level > level}
        standing = [f for f in self._standing.values() if f.level is level]
        found = {(f.joint, f.cause): f for f in standing if (f.joint, f.cause) not in worse}
        return [found[key] for key in sorted(found, key=lambda key: (list(Cause).index(key[1]), key[0]))]

    @property
    def stop(self) -> Finding | None:
        """The finding for which the arm must stop; a wrong supply first, then by joint."""
        found = self.findings(Level.STOP)
        urgent = [finding for finding in found if not finding.lowers]
        return next(iter(urgent + found), None)


def unfit(healths: Iterable[Health], supply_v: float | None) -> Finding | None:
    """Why an arm must not even be switched on, from one sample of each joint; loads don't count, it is
    limp."""
    found = [
        Finding(rule.level, rule.cause, joint, health, supply_v)
        for joint, health in enumerate(healths)
        for rule in rules(supply_v)
        if rule.level is Level.STOP and rule.when(joint, replace(health, load=0))
    ]
    return next(iter([f for f in found if not f.lowers] + found), None)


def _sentence(finding: Finding, who: str) -> tuple[str, str]:
    """(what, do)."""
    health, nominal = finding.health, finding.supply_v
    block = "free what blocks the joint"
    match finding.cause:
        case Cause.HEAT if finding.level is Level.WARN:
            what = f"{who} is warm: {health.temperature} degrees C (the arm is stopped at {HOT_C})"
            do = "let it rest a while; look for what the joint pushes against"
        case Cause.SAG if finding.level is Level.WARN:
            what = f"the voltage at {who} is low: {health.voltage:.1f} V (nominal {nominal:g} V)"
            do = "use a supply with more current (5 A or more) and check its plug"
        case Cause.HEAT:
            what = f"{who} is too hot: {health.temperature} degrees C (limit {HOT_C})"
            do = f"let it cool below {COOL_C} degrees, then go on; look for what the joint pushes against"
        case Cause.OVERLOAD if health.errors & OVERLOAD:
            what = f"{who} is in overload: the servo's protection has tripped"
            do = f"{block}, then take the arm's power off and on"
        case Cause.OVERLOAD:
            longer = "" if finding.level is Level.WARN else " for too long"
            what = f"{who} pushes with {abs(health.load) / 10:.0f} % of its force{longer}"
            do = block if finding.level is Level.WARN else f"{block}, then go on"
        case Cause.CURRENT:
            what = f"{who} draws too much current"
            do = f"{block}, then take the arm's power off and on"
        case Cause.SENSOR:
            what = f"{who} reports a fault of its angle sensor"
            do = "take the arm's power off and on; if it stays, change the servo"
        case Cause.SAG:
            what = f"the voltage at {who} broke down to {health.voltage:.1f} V (nominal {nominal:g} V)"
            do = "use a supply with more current (5 A or more) and check its plug"
        case Cause.SUPPLY:
            wanted = f"[arm] supply_v says {nominal:g} V" if nominal else "the servo's own limit says no"
            what = f"the supply gives {health.voltage:.1f} V at {who}, but {wanted}"
            do = "take the power off; use the supply that belongs to the arm, or set supply_v to the arm's"
    return what, do
