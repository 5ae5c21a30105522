"""A follower with its table, a leader with a person at it, and their two buses, advanced tick by tick.

No process, no socket, no clock: the workstation calls `tick` with the time, tests call it with any time. The
methods may be called from several threads; each takes the lock for microseconds, a render for a millisecond.
"""

import threading
from dataclasses import dataclass, replace

import numpy as np

from shared.errors import ArmfleetError
from sim.bus import ServoBus
from sim.expert import UnreachableError, plan
from sim.joints import JOINTS, JointMap
from sim.person import Person
from sim.plant import IMAGE_SIZE, Plant, start_pose
from sim.registers import Command
from sim.scene import TIMESTEP_S
from sim.servo import ServoReading
from sim.tasks import JUDGE_PERIOD_S, Judge, Scene

TICK_S = 2 * TIMESTEP_S
"""One batch of physics, 8.3 ms: four to a camera frame, and no measurement on the bus is older."""

CLEAR_M = 0.06
"""The person puts the cubes on the table when the fingertip is at least this high: twice a cube's height."""

SERVO_SPEED = 3072
"""Counts/s of a powered leader joint: 45 rpm, the STS3215's speed without load (datasheet)."""

_TICKS_PER_JUDGEMENT = round(JUDGE_PERIOD_S / TICK_S)


@dataclass(frozen=True)
class Outcome:
    """What the judge says of the present scene; not `placed` while the arm is in the way of the cubes."""

    placed: bool
    success: bool
    ever_success: bool
    seconds: float


class Rig:
    """Everything of the workstation that obeys physics.

    Attributes:
        follower, leader: The buses; safe to use from any thread.

    Args:
        height, width: Size of the rendered frames.
    """

    def __init__(self, height: int = IMAGE_SIZE, width: int = IMAGE_SIZE) -> None:
        self._lock = threading.Lock()
        self._planning = threading.Lock()  # the kinematics are shared by the process
        self._joints = JointMap()
        self._plant = Plant(height, width)
        self._planner = Plant(height, width)
        self._person = Person(self._plant.positions_units())
        self._hand: Person | None = None  # at the follower
        self._now = 0.0
        self._leader_counts = self._leader_at(self._person.pose(0.0))
        self._awaited: Scene | None = None
        self._judge: Judge | None = None
        self._ticks_judged = 0
        self._obeyed: list[int] = []
        limits = list(zip(self._joints.range_min, self._joints.range_max, strict=True))
        joints = range(len(JOINTS))
        self.follower = ServoBus([self._plant.position_counts(i) for i in joints], limits)
        self.leader = ServoBus([int(counts) for counts in self._leader_counts], limits)

    # -- time ----------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Advances everything by `TICK_S`; `now` is the caller's monotonic clock, s."""
        with self._lock:
            self._now = now
            self._drive_follower()
            self._drive_leader(now)
            if self._awaited is not None and self._plant.tip()[2] > CLEAR_M:
                self._place(self._awaited)
            if self._judge is not None:
                self._ticks_judged += 1
                if self._ticks_judged % _TICKS_PER_JUDGEMENT == 0:
                    self._judge.update(self._plant.cubes(), self._plant.tip())

    def render(self, camera: str) -> np.ndarray:
        """What the camera sees, (H, W, 3) uint8 RGB. Always call it on the same thread (OpenGL)."""
        with self._lock:
            return self._plant.render(camera)

    # -- what people do ------------------------------------------------------------------------------------

    def set_scene(self, scene: Scene) -> np.ndarray:
        """Clears the table and puts the scene's cubes on it once the arm is out of the way.

        Returns:
            The scene's start pose, (6,) units: that is out of the way.
        """
        with self._planning:
            start = start_pose(scene)
        with self._lock:
            self._plant.scene = None  # the plant takes all cubes off the table in its next step
            self._awaited, self._judge = scene, None
        return start

    def move_leader(self, pose: np.ndarray, seconds: float) -> None:
        """The person moves the leader to `pose`, (6,) units."""
        with self._lock:
            self._person.move(self._now, pose, seconds)

    def move_follower(self, pose: np.ndarray, seconds: float) -> None:
        """The person moves the follower's limp joints to `pose`, (6,) units, and holds them there; powered
        joints go on obeying the bus."""
        with self._lock:
            self._hand = self._hand or Person(self._plant.positions_units())
            self._hand.move(self._now, pose, seconds)

    def let_go_of_follower(self) -> None:
        """The person's hand leaves the follower."""
        with self._lock:
            self._hand = None

    def demonstrate(self, seed: int) -> float:
        """The person does the present scene's task on the leader, from where the leader is.

        Args:
            seed: Chooses among the ways this person would do it.

        Returns:
            How long it will take, s.

        Raises:
            ArmfleetError: No cubes are on the table, or one is out of reach.
        """
        with self._lock:
            scene, here = self._plant.scene, self._person.pose(self._now)
            cubes = self._plant.cubes()
        if scene is None:
            raise ArmfleetError(
                "there are no cubes on the table", do="set a scene and move the arm to its start pose"
            )
        present = replace(scene, positions=np.array([cubes[color][:2] for color in scene.colors]))
        with self._planning:
            self._planner.place(present)
            try:
                path = plan(self._planner, scene.task, np.random.default_rng(seed), start=here)
            except UnreachableError as error:
                raise ArmfleetError(f"the person can't do this: {error}", do="set another scene") from error
        with self._lock:
            return self._person.demonstrate(self._now, path)

    # -- what an observer sees -----------------------------------------------------------------------------

    def demonstration(self) -> tuple[bool, float]:
        """Whether a demonstration is going on, and for how long, s."""
        with self._lock:
            return self._person.demonstrating(self._now), self._person.seconds(self._now)

    def outcome(self) -> Outcome:
        """The judge's word on the present scene."""
        with self._lock:
            judge = self._judge
            if judge is None:
                return Outcome(False, False, False, 0.0)
            return Outcome(True, judge.success, judge.ever_success, judge.seconds)

    def positions(self) -> tuple[np.ndarray, np.ndarray]:
        """Follower and leader, (6,) float64 units each."""
        with self._lock:
            return self._plant.positions_units(), self._joints.counts_to_units(np.rint(self._leader_counts))

    # -- inside --------------------------------------------------------------------------------------------

    def _drive_follower(self) -> None:
        commands = self.follower.commands()
        goals = [command.goal_counts for command in commands]
        held = self._held_by_hand(commands)
        goals = [held.get(index, goal) for index, goal in enumerate(goals)]
        for index, command in enumerate(commands):
            self._plant.set_torque(index, command.torque or index in held)
        if goals != self._obeyed:
            for index, goal in enumerate(goals):
                self._plant.set_goal_counts(index, goal)
            self._obeyed = goals
        self._plant.advance(TICK_S)
        self.follower.present(
            [
                ServoReading(held[index], 0, 0, 0) if index in held else self._plant.reading(index)
                for index in range(len(JOINTS))
            ]
        )

    def _held_by_hand(self, commands: list[Command]) -> dict[int, int]:
        """Limp joints of the follower that the hand holds, and where, in counts."""
        if self._hand is None:
            return {}
        counts = self._leader_at(self._hand.pose(self._now))
        return {index: round(counts[index]) for index, command in enumerate(commands) if not command.torque}

    def _drive_leader(self, now: float) -> None:
        """Limp joints are where the hand is; powered ones go to their goals, and the hand gives in."""
        commands = self.leader.commands()
        counts = self._leader_at(self._person.pose(now))
        if any(command.torque for command in commands):
            for index, command in enumerate(commands):
                if command.torque:
                    here, step = self._leader_counts[index], SERVO_SPEED * TICK_S
                    counts[index] = here + np.clip(command.goal_counts - here, -step, step)
            self._person.hold(now, self._joints.counts_to_units(counts))
        self._leader_counts = counts
        self.leader.present([ServoReading(round(value), 0, 0, 0) for value in counts.tolist()])

    def _leader_at(self, units: np.ndarray) -> np.ndarray:
        """Nearest counts, (6,) float64: a pose that is read and held again must not creep."""
        return self._joints.radians_to_counts(self._joints.units_to_radians(units)).astype(np.float64)

    def _place(self, scene: Scene) -> None:
        self._plant.place(scene)
        self._judge, self._ticks_judged = self._plant.judge(), 0
        self._awaited = None
