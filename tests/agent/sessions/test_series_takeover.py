"""Taking over in a series: what is asked of the arm, and what the rollout then counts for."""

from pathlib import Path

import pytest

from agent.sessions.series import Act, Phase
from shared.errors import ArmfleetError
from tests.agent.arm_bench import run
from tests.agent.series_bench import Studio


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    return Studio(tmp_path)


def test_a_person_takes_over_hands_back_and_the_rollout_is_no_success(studio: Studio) -> None:
    async def steps() -> None:
        await studio.start(1)
        await studio.press(Act.START, Act.TAKE_OVER)
        assert (await studio.told()).led
        studio.bench.desk.on_event("segment_saved", {"episode_id": "000001", "frames": 126})
        await studio.press(Act.HAND_BACK)
        told = await studio.told()
        assert (told.phase, told.led, told.episodes) == (Phase.RUNNING, False, ("000001",))
        assert told.segment == "episode 000001 is kept: 4.2 s"
        asked = [op for op in studio.bench.worker.asked if op.startswith("rollout_")]
        assert asked == ["rollout_start", "rollout_take_over", "rollout_hand_back"]
        await studio.press(Act.SUCCESS)
        told = await studio.told()
        assert told.phase is Phase.LABELLING
        assert "a person took over" in told.notice
        await studio.press(Act.FAILURE)
        assert (await studio.told()).phase is Phase.DONE
        (record,) = studio.records().values()
        assert (record["success"], record["interventions"]) == (False, 1)

    run(steps)


def test_a_takeover_that_is_refused_stops_the_arm_and_says_why(studio: Studio) -> None:
    async def steps() -> None:
        await studio.start(1)
        await studio.press(Act.START)
        studio.bench.worker.answers["rollout_take_over"] = ArmfleetError("the leader does not answer")
        await studio.press(Act.TAKE_OVER)
        told = await studio.told()
        assert (told.phase, told.notice) == (Phase.LABELLING, "the leader does not answer.")

    run(steps)


def test_in_an_evaluation_the_arm_worker_is_not_even_asked(studio: Studio) -> None:
    async def steps() -> None:
        await studio.start(1, evaluation=True)
        await studio.press(Act.START, Act.TAKE_OVER)
        assert (await studio.told()).measures
        assert "rollout_take_over" not in studio.bench.worker.asked

    run(steps)
