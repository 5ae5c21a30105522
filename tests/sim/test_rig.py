"""Physics, buses and person together, in the test's own time."""

from collections.abc import Callable

import numpy as np
import pytest

from shared.errors import ArmfleetError
from sim.faults import BusFaults
from sim.joints import JointMap
from sim.packets import Instruction, Packet
from sim.registers import Register
from sim.rig import TICK_S, Rig
from sim.tasks import Task, draw_scene

TICKS_PER_CONTROL = 4  # 30 Hz


class Bench:
    """A rig with a clock, and a bus master that teleoperates it as LeRobot's loop does."""

    def __init__(self) -> None:
        self.rig, self.now, self.ticks = Rig(), 0.0, 0

    def run(self, seconds: float, each_control: Callable[[], None] | None = None) -> None:
        for _ in range(round(seconds / TICK_S)):
            if each_control and self.ticks % TICKS_PER_CONTROL == 0:
                each_control()
            self.rig.tick(self.now)
            self.now += TICK_S
            self.ticks += 1

    def write(self, register: Register, value: int, length: int = 1) -> None:
        data = bytes([register]) + value.to_bytes(length, "little")
        self.rig.follower.handle(Packet(0xFE, Instruction.WRITE, data))

    def teleoperate(self) -> None:
        for joint in range(6):
            goal = self.rig.leader.registers(joint).word(Register.PRESENT_POSITION)
            data = bytes([Register.GOAL_POSITION]) + goal.to_bytes(2, "little")
            self.rig.follower.handle(Packet(joint + 1, Instruction.WRITE, data))

    def start(self, seed: int, task: Task) -> np.ndarray:
        """Scene set, leader and follower at its start pose, cubes on the table."""
        pose = self.rig.set_scene(draw_scene(seed, task))
        self.write(Register.TORQUE_ENABLE, 1)
        self.rig.move_leader(pose, 1.0)
        self.run(2.0, self.teleoperate)
        return pose


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_hand_moves_limp_joints_of_the_follower_and_lets_go(bench: Bench) -> None:
    bench.run(0.1)
    pose = np.array([40.0, -20, 30, 10, 50, 80])
    bench.rig.move_follower(pose, 0.5)
    bench.run(0.8)
    told = [bench.rig.follower.registers(joint).word(Register.PRESENT_POSITION) for joint in range(6)]
    units = JointMap().counts_to_units(np.array(told))
    np.testing.assert_allclose(units, pose, atol=0.1)
    np.testing.assert_allclose(bench.rig.positions()[0], pose, atol=2.0)
    bench.rig.let_go_of_follower()
    bench.run(1.0)
    assert abs(bench.rig.positions()[0] - pose).max() > 5, "it falls"


def test_a_powered_follower_is_stronger_than_the_hand(bench: Bench) -> None:
    bench.run(0.1)
    bench.rig.move_follower(np.array([40.0, -20, 30, 10, 50, 80]), 0.5)
    bench.write(Register.TORQUE_ENABLE, 1)
    bench.run(1.5)
    goals = np.array([command.goal_counts for command in bench.rig.follower.commands()])
    np.testing.assert_allclose(bench.rig.positions()[0], JointMap().counts_to_units(goals), atol=2.0)


def test_the_follower_trails_the_leader_and_arrives(bench: Bench) -> None:
    pose = bench.start(3, Task("hover", "red"))
    follower, leader = bench.rig.positions()
    np.testing.assert_allclose(leader, pose, atol=0.1)
    np.testing.assert_allclose(follower, pose, atol=1.5)


def test_without_torque_the_arm_falls_and_dead_servos_are_limp(bench: Bench) -> None:
    bench.start(3, Task("hover", "red"))
    before, _ = bench.rig.positions()
    bench.rig.follower.set_faults(BusFaults(dead=frozenset({2, 3})))
    bench.run(1.0)
    after, _ = bench.rig.positions()
    assert np.abs(after - before)[1:3].max() > 5
    assert np.abs(after - before)[0] < 2


@pytest.mark.parametrize("seed", range(4))
def test_a_teleoperated_demonstration_pushes_the_cube(bench: Bench, seed: int) -> None:
    bench.start(seed, Task("push_left", "green"))
    seconds = bench.rig.demonstrate(seed)
    assert bench.rig.demonstration()[0]
    bench.run(seconds + 0.5, bench.teleoperate)
    outcome = bench.rig.outcome()
    assert outcome.placed
    assert outcome.success
    assert not bench.rig.demonstration()[0]


def test_cubes_are_placed_only_when_the_arm_is_out_of_their_way(bench: Bench) -> None:
    task = Task("push_left", "red")
    bench.start(0, task)
    seconds = bench.rig.demonstrate(0)
    bench.run(seconds + 0.5, bench.teleoperate)  # the fingertip is down at the cube now
    pose = bench.rig.set_scene(draw_scene(1, task))
    bench.run(0.5, bench.teleoperate)
    assert not bench.rig.outcome().placed
    with pytest.raises(ArmfleetError, match="no cubes"):
        bench.rig.demonstrate(1)
    bench.rig.move_leader(pose, 1.0)
    bench.run(1.5, bench.teleoperate)
    assert bench.rig.outcome().placed


def test_a_demonstration_goes_where_the_cube_is_now(bench: Bench) -> None:
    """A second try after a first one that moved the cube works from the cube's new place."""
    task = Task("touch", "blue")
    pose = bench.start(5, task)
    bench.run(bench.rig.demonstrate(1) + 0.5, bench.teleoperate)
    bench.rig.move_leader(pose, 1.0)
    bench.run(1.5, bench.teleoperate)
    bench.run(bench.rig.demonstrate(2) + 0.5, bench.teleoperate)
    assert bench.rig.outcome().success


def test_a_powered_leader_goes_to_its_goal_and_the_hand_gives_in(bench: Bench) -> None:
    bus = bench.rig.leader
    bus.handle(Packet(1, Instruction.WRITE, bytes([Register.GOAL_POSITION]) + (2500).to_bytes(2, "little")))
    bus.handle(Packet(1, Instruction.WRITE, bytes([Register.TORQUE_ENABLE, 1])))
    others = [bus.registers(joint).word(Register.PRESENT_POSITION) for joint in range(1, 6)]
    bench.run(1.0)
    assert bus.registers(0).word(Register.PRESENT_POSITION) == 2500
    bus.handle(Packet(1, Instruction.WRITE, bytes([Register.TORQUE_ENABLE, 0])))
    bench.run(1.0)
    assert bus.registers(0).word(Register.PRESENT_POSITION) == 2500
    assert others == [bus.registers(joint).word(Register.PRESENT_POSITION) for joint in range(1, 6)]


def test_a_demonstration_before_any_scene_is_refused(bench: Bench) -> None:
    bench.run(0.1)
    with pytest.raises(ArmfleetError, match="no cubes"):
        bench.rig.demonstrate(0)
