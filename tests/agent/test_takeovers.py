"""Taking over as the agent asks for it and hears of it: what reaches the gate, and what an end waits for."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from agent.evaluation.rollouts import SeriesPlace
from shared.errors import ArmfleetError
from tests.agent.arm_bench import TASK, Bench, run, save


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def taking_over(bench: Bench) -> str:
    """A rollout of a series in which somebody has taken over; the segment's id."""
    await bench.desk.series_start(TASK, evaluation=False)
    place = SeriesPlace(series="s", place=0, seed=None, paired=False)
    await bench.desk.series_rollout(None, None, place)
    await bench.desk.takeovers.take_over()
    assert bench.worker.asked[-1] == "rollout_take_over"
    assert bench.desk.takeovers._recording is not None
    return bench.desk.takeovers._recording


def test_a_segment_reaches_the_gate_when_it_is_saved(bench: Bench) -> None:
    async def steps() -> None:
        episode = await taking_over(bench)
        await bench.desk.takeovers.hand_back()
        save(bench, episode)
        bench.desk.on_event("segment_saved", {"episode_id": episode, "frames": 126})
        assert bench.judged == [episode]
        assert bench.desk.takeovers.said == "episode 000001 is kept: 4.2 s"
        assert bench.desk.takeovers.kept == (episode,)
        await bench.desk.takeovers.take_over()
        bench.desk.on_event("segment_dropped", {"episode_id": "000002", "why": "it lasted 0.30 s"})
        assert "it lasted 0.30 s" in bench.desk.takeovers.said
        assert bench.judged == [episode]

    run(steps)


def test_nobody_takes_over_what_does_not_run_nor_with_a_full_disk(tmp_path: Path) -> None:
    bench = Bench(tmp_path, min_free_mb=10**9)

    async def steps() -> None:
        for call in (bench.desk.takeovers.take_over, bench.desk.takeovers.hand_back):
            with pytest.raises(ArmfleetError, match="no rollout is running"):
                await call()
        with pytest.raises(ArmfleetError, match="MB are free"):
            await taking_over(bench)
        assert "rollout_take_over" not in bench.worker.asked
        await bench.desk.finish()  # waits for nothing

    run(steps)


def test_death_while_a_person_drives_loses_the_segment_and_counts_the_takeover(bench: Bench) -> None:
    async def steps() -> None:
        await taking_over(bench)
        rollout = bench.desk.rollout
        assert rollout is not None
        await bench.desk.on_death("was killed by SIGKILL")
        record = bench.desk.rollouts.record(rollout)
        assert record is not None
        assert record.interventions == 1
        assert bench.desk.takeovers.said == "what was recorded is lost: the arm worker was killed by SIGKILL"
        await bench.desk.finish()  # waits for nothing

    run(steps)


def test_the_agent_does_not_end_while_a_segment_is_being_saved(bench: Bench) -> None:
    async def steps() -> None:
        episode = await taking_over(bench)
        await bench.desk.rollout_stop()
        ending = asyncio.create_task(bench.desk.finish())
        for _ in range(5):
            await asyncio.sleep(0)
        assert not ending.done()
        save(bench, episode)
        bench.desk.on_event("segment_saved", {"episode_id": episode, "frames": 126})
        await ending

    run(steps)


def test_a_rollout_that_is_stopped_before_the_takeover_was_answered_leaves_nothing_to_wait_for(
    bench: Bench,
) -> None:
    async def steps() -> None:
        ask = bench.worker.request

        async def late(op: str, timeout_s: float = 10.0, **fields: Any) -> dict[str, Any]:
            if op == "rollout_take_over":
                await bench.desk.rollout_stop()
                raise ArmfleetError("the rollout ended before the arm could be taken over")
            return await ask(op, timeout_s, **fields)

        bench.worker.request = late  # type: ignore[method-assign]
        with pytest.raises(ArmfleetError, match="ended before"):
            await taking_over(bench)
        await asyncio.wait_for(bench.desk.finish(), 5)

    run(steps)
