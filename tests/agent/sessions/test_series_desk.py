"""The owner of a series with a real desk, store, index and versions; arm and policy are plain objects."""

import asyncio
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.activity import Activity
from agent.arm import ABANDONED
from agent.sessions.series import OPERATOR_GONE, Act, Phase
from agent.sessions.series_desk import BASE
from agent.sessions.session_messages import ATTENDED_S
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from tests.agent.arm_bench import TASK, run, timed_out
from tests.agent.series_bench import Studio, accepted


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    return Studio(tmp_path)


def test_a_series_starts_by_keys_labels_durably_and_gives_the_arm_back(studio: Studio) -> None:
    async def steps() -> None:
        studio.remarks = ["camera front is scaled"]
        await studio.start(2)
        told = await studio.told()
        assert (told.phase, told.version, told.notice) == (Phase.READY, "version 7", "camera front is scaled")
        assert studio.checked == [[("version 7", studio.inbox.folder(None))]]
        assert studio.started == [], "nothing moves before a key"
        assert studio.bench.desk.claim is not None
        assert studio.bench.desk.claim.activity is Activity.ROLLOUT
        await studio.press(Act.START, Act.STOP, Act.SUCCESS)
        assert studio.bench.desk.claim is not None, "the arm stays ours between two rollouts"
        assert studio.desk.status() == {
            "task": TASK,
            "phase": "ready",
            "done": 1,
            "wanted": 2,
            "attended": True,
        }
        await studio.press(Act.START, Act.FAILURE)
        told = await studio.told()
        assert (told.phase, [r.success for r in told.results]) == (Phase.DONE, [True, False])
        assert [record["success"] for record in studio.records().values()].count(True) == 1
        assert [wanted["start_pose"] for wanted in studio.started] == [None, [1.0, 2, 3, 4, 5, 6]]
        assert studio.bench.desk.claim is None
        assert studio.desk.status() is None

    run(steps)


def test_without_an_operator_a_rollout_is_stopped_and_none_starts(studio: Studio) -> None:
    async def steps() -> None:
        await studio.start(2)
        await studio.press(Act.START)
        await studio.tick(ATTENDED_S)
        told = await studio.told()
        assert (told.phase, told.reason) == (Phase.LABELLING, OPERATOR_GONE)
        assert [record["reason"] for record in studio.records().values()] == [OPERATOR_GONE]
        await studio.tick(100)
        await studio.desk.look()
        assert len(studio.started) == 1, "watching is no attendance"
        await studio.press(Act.REDO, Act.START)
        assert (await studio.told()).phase is Phase.RUNNING
        assert studio.bench.config.arm is not None
        await studio.tick(ATTENDED_S)
        await studio.tick(ABANDONED * studio.bench.config.arm.rest_s)
        assert (await studio.told()).phase is Phase.DONE
        assert studio.bench.desk.claim is None

    run(steps)


def test_a_start_that_had_to_wait_moves_nothing_when_nobody_is_there_any_more(studio: Studio) -> None:
    async def steps() -> None:
        await studio.start(1)
        studio.desk.act(Act.START)
        studio.now += ATTENDED_S
        await studio.settle()
        told = await studio.told()
        assert (told.phase, studio.started) == (Phase.READY, [])
        assert "nothing was started" in told.notice

    run(steps)


def test_of_a_comparison_nothing_tells_the_version_before_it_is_over(studio: Studio) -> None:
    async def steps() -> None:
        await studio.start(2, against="previous", evaluation=True, seed=5)
        assert studio.bench.desk.claim is not None
        assert studio.bench.desk.claim.activity is Activity.EVALUATE
        seen: list[str] = []
        for label in (Act.SUCCESS, Act.FAILURE, Act.SUCCESS, Act.SUCCESS):
            await studio.press(Act.START)
            rollout = (await studio.told()).rollout
            assert rollout is not None
            seen.append(json.dumps(studio.bench.desk.rollouts.result(rollout)))
            seen.append(json.dumps(await studio.desk.look()))
            await studio.press(Act.STOP)
            seen.append(json.dumps(studio.bench.desk.rollouts.result(rollout)))
            seen.append(json.dumps(await studio.desk.look()))
            seen.append(json.dumps(studio.versions.status()["running"]))
            if len(seen) < 20:
                await studio.press(label)
        for text in seen:
            answer = json.loads(text)
            shown = (answer or {}).get("series", answer)
            assert shown is None or shown.get("version") is None
            assert "digest-of-" not in text
        last = json.loads(seen[18])["series"]
        assert all(result["version"] is None for result in last["results"])
        assert (last["seed"], last["versions"]) == (None, ["version 7", "version 6"])
        await studio.press(Act.SUCCESS)
        told = await studio.told()
        assert told.phase is Phase.DONE
        assert sorted(str(result.version) for result in told.results) == [
            "version 6",
            "version 6",
            "version 7",
            "version 7",
        ]
        assert told.seed == 5
        by_place = {record["place"]["place"]: record for record in studio.records().values()}
        ran = [by_place[n]["version"] for n in range(4)]
        assert [f"version {version}" for version in ran] == [result.version for result in told.results]
        assert studio.policy.swaps[0] == ran[0]
        assert not any(record["blinded"] for record in by_place.values())
        assert studio.versions.status()["blinded"] is False

    run(steps)


def test_why_a_version_is_refused_stays_secret_in_a_comparison_and_is_said_otherwise(studio: Studio) -> None:
    async def steps() -> None:
        studio.policy.refuses = "version 7 is refused: other tensors"
        await studio.start(1, against="previous")
        notice = (await studio.told()).notice
        assert "the agent's journal says why" in notice
        assert not any(digit in notice for digit in "67")
        await studio.press(Act.START)
        assert studio.started == []
        await studio.press(Act.END)
        await studio.start(1)
        assert "version 7 is refused" in (await studio.told()).notice
        studio.policy.refuses = ""
        await studio.press(Act.START)
        assert (await studio.told()).phase is Phase.RUNNING, "the start tries again"

    run(steps)


def test_a_rollout_that_executed_other_tensors_does_not_count(studio: Studio) -> None:
    async def steps() -> None:
        await studio.start(1)
        await studio.press(Act.START)
        studio.end("time_up", digest=None)
        await studio.settle()
        told = await studio.told()
        assert (told.phase, told.discarded, told.results) == (Phase.READY, 1, [])
        assert "another version" in told.notice
        assert [record["discarded"] for record in studio.records().values()] == [True]

    run(steps)


def test_the_death_of_the_arm_worker_ends_the_rollout_and_the_next_start_takes_the_arm_again(
    studio: Studio,
) -> None:
    async def steps() -> None:
        await studio.start(1)
        await studio.press(Act.START)
        await studio.bench.desk.on_death("was killed by SIGKILL")
        await studio.settle()
        told = await studio.told()
        assert (told.phase, told.reason) == (Phase.LABELLING, "the arm worker was killed by SIGKILL")
        assert studio.bench.desk.claim is None
        await studio.press(Act.REDO, Act.START)
        assert (await studio.told()).phase is Phase.RUNNING
        assert studio.bench.desk.claim is not None

    run(steps)


def test_a_worker_that_does_not_stop_the_rollout_is_made_to_hold(studio: Studio) -> None:
    async def steps() -> None:
        await studio.start(1)
        await studio.press(Act.START)
        studio.bench.worker.answers["rollout_stop"] = ArmfleetError("the worker did not answer")
        await studio.press(Act.STOP)
        assert "hold" in studio.bench.worker.asked

    run(steps)


def test_a_start_whose_answer_is_lost_may_have_begun_and_is_stopped(studio: Studio) -> None:
    async def steps() -> None:
        await studio.start(1)
        studio.bench.worker.answers["rollout_start"] = timed_out("rollout_start")
        await studio.press(Act.START)
        assert "hold" in studio.bench.worker.asked
        assert ((await studio.told()).phase, studio.bench.desk.rollout) == (Phase.READY, None)

    run(steps)


def test_abort_lowers_the_arm(studio: Studio) -> None:
    async def steps() -> None:
        await studio.start(1)
        await studio.press(Act.START, Act.ABORT)
        asked = [op for op in studio.bench.worker.asked if op in ("rollout_stop", "lower")]
        assert asked == ["rollout_stop", "lower"]
        assert (await studio.told()).phase is Phase.LABELLING

    run(steps)


@pytest.mark.parametrize("op", ["lower", "swap"])
def test_keys_that_come_while_something_takes_long_are_not_forgotten(studio: Studio, op: str) -> None:
    async def steps() -> None:
        await studio.start(2)
        await studio.press(Act.START, Act.STOP)
        go = asyncio.Event()
        worker = studio.bench.worker if op == "lower" else studio.policy
        ask = worker.request

        async def slow(asked: str, timeout_s: float = 10.0, **fields: Any) -> dict[str, Any]:
            if asked == op:
                await go.wait()
            return await ask(asked, timeout_s, **fields)

        worker.request = slow  # type: ignore[method-assign, assignment]
        if op == "lower":
            studio.desk.act(Act.ABORT)
        else:
            studio.versions.policy_restarted()
            studio.desk.act(Act.SUCCESS)
        for _ in range(5):
            await asyncio.sleep(0)
        studio.desk.act(Act.END)
        go.set()
        await studio.settle()
        assert (await studio.told()).phase is Phase.DONE

    run(steps)


def refusals(studio: Studio) -> list[tuple[dict[str, Any], str, Callable[[], None]]]:
    def same() -> None:
        studio.inbox.slots["candidate"] = accepted(7)

    def nothing() -> None:
        pass

    return [
        ({"version": "candidate"}, "there is no candidate version", nothing),
        ({"version": "candidate", "against": "promoted"}, "are the same here: version 7", same),
    ]


def test_what_can_not_be_is_refused_before_the_arm_is_taken(studio: Studio, tmp_path: Path) -> None:
    async def steps() -> None:
        for fields, words, prepare in refusals(studio):
            prepare()
            with pytest.raises(ArmfleetError, match=words):
                await studio.start(1, **fields)
            assert studio.bench.desk.claim is None

        def misfit(config: Any, versions: Any) -> list[str]:
            raise ArmfleetError("it wants the cameras top, agent.toml has front", code=ExitCode.POLICY_MISFIT)

        studio.desk._check = misfit
        with pytest.raises(ArmfleetError, match="it wants the cameras top"):
            await studio.start(1)
        assert studio.bench.worker.asked == []
        studio.desk._check = studio.check
        await studio.start(1)
        with pytest.raises(ArmfleetError, match="a series of rollouts is running"):
            await studio.start(1)
        with pytest.raises(ArmfleetError, match="the arm is in use"):
            await studio.bench.desk.session_start(TASK)

    run(steps)


def test_before_a_fleet_is_joined_there_is_the_base_alone(tmp_path: Path) -> None:
    studio = Studio(tmp_path, fleet=False)

    async def steps() -> None:
        with pytest.raises(ArmfleetError, match="has joined no fleet"):
            await studio.start(1, against="previous")
        await studio.start(1)
        assert (await studio.told()).version == BASE
        await studio.press(Act.START, Act.SUCCESS)
        assert (await studio.told()).phase is Phase.DONE

    run(steps)


@pytest.mark.parametrize(("act", "phase"), [(Act.STOP, Phase.READY), (Act.END, Phase.DONE)])
def test_a_start_that_is_taken_back_while_the_policy_is_changed_moves_nothing(
    studio: Studio, act: Act, phase: Phase
) -> None:
    async def steps() -> None:
        await studio.start(1)
        go, ask = asyncio.Event(), studio.policy.request

        async def slow(op: str, timeout_s: float, **fields: Any) -> dict[str, Any]:
            await go.wait()
            return await ask(op, timeout_s, **fields)

        studio.policy.request = slow  # type: ignore[method-assign]
        studio.versions.policy_restarted()
        studio.desk.act(Act.START)
        await asyncio.sleep(0)
        studio.desk.act(act)
        go.set()
        await studio.settle()
        told = await studio.told()
        assert (told.phase, studio.started) == (phase, [])
        assert "nothing moved" in told.notice

    run(steps)


@pytest.mark.parametrize("against", [None, "previous"])
def test_the_operator_is_told_what_was_wrong_with_the_policy_unless_it_names_the_version(
    studio: Studio, against: str | None
) -> None:
    async def steps() -> None:
        await studio.start(1, against=against)
        await studio.press(Act.START)
        studio.end("bad_actions", why="version 7 gave actions that are not finite numbers")
        await studio.settle()
        told = await studio.told()
        assert (told.phase, told.reason) == (Phase.LABELLING, "bad_actions")
        assert ("version 7" in told.notice) is (against is None)

    run(steps)


def test_a_blinded_series_waits_for_a_swap_before_each_rollout_also_for_the_same_version(
    studio: Studio,
) -> None:
    async def steps() -> None:
        await studio.start(3, against="previous", seed=0)
        for _ in range(6):
            await studio.press(Act.START, Act.FAILURE)
        ran = [wanted["version"] for wanted in studio.started]
        assert studio.policy.swaps == ran
        assert any(one == next_one for one, next_one in itertools.pairwise(ran)), "choose another seed"

    run(steps)


def test_what_a_series_compares_stays_on_the_disk_whatever_comes_meanwhile(studio: Studio) -> None:
    async def steps() -> None:
        await studio.start(1, against="previous")
        studio.inbox.slots["promoted"], studio.inbox.previous = accepted(9), accepted(8)
        assert {"digest-of-7", "digest-of-6"} <= set(studio.versions.in_use)
        await studio.press(Act.END)
        assert len(studio.versions.in_use) == 1, "what runs"

    run(steps)


def test_an_arm_that_was_told_to_hold_on_its_way_down_is_not_said_to_be_let_go(studio: Studio) -> None:
    async def steps() -> None:
        await studio.start(1)
        studio.bench.worker.answers["lower"] = {"torque": True}
        await studio.press(Act.ABORT)
        assert "and holds" in (await studio.told()).notice

    run(steps)
