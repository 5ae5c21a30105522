"""The loan of the arm's ports: who gets it, how it ends, and that it always ends."""

import asyncio

import pytest

from agent.parking import LEASE_S, Parking
from shared.errors import ArmfleetError


class Bench:
    """A loan office with a worker that is a plain object, and a clock."""

    def __init__(self) -> None:
        self.now, self.in_use, self.told = 100.0, "", []
        self.release_error: Exception | None = None
        self.parking = Parking(self, "/dev/f", lambda: self.in_use, lambda: self.now, self.release)

    async def stop(self, reason: str, grace_s: float) -> None:
        self.told.append(f"stop: {reason}")

    def start(self, reason: str) -> None:
        self.told.append(f"start: {reason}")

    def release(self, port: str) -> None:
        self.told.append(f"release {port}")
        if self.release_error is not None:
            raise self.release_error


def run(steps) -> Bench:
    bench = Bench()
    asyncio.run(steps(bench))
    return bench


def test_the_worker_ends_before_the_ports_are_lent_and_starts_when_they_come_back():
    async def steps(bench: Bench) -> None:
        answer = await bench.parking.park("the leader is being calibrated")
        assert answer["torque"] == "off"
        assert bench.told == ["stop: its ports are lent: the leader is being calibrated", "release /dev/f"]
        await bench.parking.give_back(answer["lease"])
        assert bench.told[-1].startswith("start: ")
        with pytest.raises(ArmfleetError, match="is over"):
            await bench.parking.renew(answer["lease"])

    run(steps)


def test_an_arm_in_use_is_not_lent_nor_is_one_lent_twice():
    async def steps(bench: Bench) -> None:
        bench.in_use = "record, push the red cube"
        with pytest.raises(ArmfleetError, match="in use: record"):
            await bench.parking.park("x")
        assert bench.told == []
        bench.in_use = ""
        await bench.parking.park("first")
        with pytest.raises(ArmfleetError, match="lent already: first"):
            await bench.parking.park("second")

    run(steps)


def test_a_terminal_that_died_loses_the_loan_and_one_that_renews_keeps_it():
    async def steps(bench: Bench) -> None:
        lease = (await bench.parking.park("x"))["lease"]
        for _ in range(20):
            bench.now += LEASE_S / 4
            await bench.parking.renew(lease)
            bench.parking.tick()
        assert not any(line.startswith("start") for line in bench.told)
        bench.now += LEASE_S + 0.1
        bench.parking.tick()
        assert "nobody renewed" in bench.told[-1]
        for late in (bench.parking.renew, bench.parking.give_back):
            with pytest.raises(ArmfleetError, match="is over"):
                await late(lease)
        bench.parking.tick()
        assert sum(line.startswith("start") for line in bench.told) == 1

    run(steps)


def test_a_wrong_lease_ends_nothing():
    async def steps(bench: Bench) -> None:
        await bench.parking.park("x")
        with pytest.raises(ArmfleetError):
            await bench.parking.give_back("0" * 16)
        assert not any(line.startswith("start") for line in bench.told)

    run(steps)


def test_torque_that_may_be_on_is_told_and_hinders_nobody():
    async def steps(bench: Bench) -> None:
        bench.release_error = ArmfleetError("the arm's port is not there")
        assert "not there" in (await bench.parking.park("the leader"))["torque"]

    run(steps)
