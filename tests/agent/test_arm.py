"""What operators may ask of the arm, with a worker that is a plain object: refusals, hangs, death."""

import asyncio
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from agent.activity import Activity
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from tests.agent.arm_bench import TASK, Bench, run, save, timed_out


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_training_gives_way_before_the_arm_is_asked_to_move(bench: Bench) -> None:
    async def steps() -> None:
        bench.worker.answers["teleop_start"] = ArmfleetError("leader and follower differ by 40 degrees")
        with pytest.raises(ArmfleetError, match="40 degrees"):
            await bench.desk.session_start(TASK)
        assert bench.preempted == ["the operator asked for record"]
        assert bench.desk.claim is None, "a refused session leaves the arm free"

    run(steps)


def test_a_claim_does_not_outlive_a_trainer_that_could_not_be_stopped(bench: Bench) -> None:
    async def fail(reason: str) -> None:
        raise PermissionError("kill")

    async def steps() -> None:
        bench.desk._preempt = fail
        for take in (bench.desk.session_start(TASK), bench.desk.series_start(TASK, evaluation=False)):
            with pytest.raises(PermissionError):
                await take
            assert bench.desk.claim is None

    run(steps)


def test_an_arm_that_was_made_to_hold_on_its_way_down_stays_stiff(bench: Bench) -> None:
    async def steps() -> None:
        await bench.desk.session_start(TASK)
        bench.worker.answers["lower"] = {"torque": True}
        await bench.desk.hold()
        await bench.desk.lower()
        assert bench.desk._at_rest, "nobody lets it go"

    run(steps)


def test_full_disk_refuses_the_episode_and_keeps_the_session(tmp_path: Path) -> None:
    bench = Bench(tmp_path, min_free_mb=10**9)

    async def steps() -> None:
        await bench.desk.session_start(TASK)
        with pytest.raises(ArmfleetError, match="MB are free") as caught:
            await bench.desk.episode_start(TASK)
        assert caught.value.code is ExitCode.DISK_FULL
        assert "record_start" not in bench.worker.asked
        assert bench.desk.claim is not None

    run(steps)


def test_episode_without_a_session_and_a_session_within_one_are_refused(bench: Bench) -> None:
    async def steps() -> None:
        with pytest.raises(ArmfleetError, match="no session is running"):
            await bench.desk.episode_start(TASK)
        await bench.desk.session_start(TASK)
        await bench.desk.episode_start(TASK)
        for call in (bench.desk.session_stop, lambda: bench.desk.episode_start(TASK)):
            with pytest.raises(ArmfleetError, match="000001 is being recorded"):
                await call()

    run(steps)


def test_episode_that_is_not_kept_never_reaches_the_gate(bench: Bench) -> None:
    async def steps() -> None:
        await bench.desk.session_start(TASK)
        await bench.desk.episode_start(TASK)
        bench.worker.answers["record_stop"] = {"kept": False}
        await bench.desk.episode_stop(keep=False)
        assert bench.judged == []
        assert bench.desk.episode is None

    run(steps)


def test_camera_lost_while_recording_ends_the_session_with_its_reason(bench: Bench) -> None:
    async def steps() -> None:
        await bench.desk.session_start(TASK)
        await bench.desk.episode_start(TASK)
        error = ArmfleetError("the camera front stopped", code=ExitCode.CAMERA_LOST).to_dict()
        bench.desk.on_event("episode_lost", {"episode_id": "000001", "reason": "fault", "error": error})
        bench.desk.on_event(
            "activity_ended", {"activity": "teleoperation", "reason": "fault", "error": error}
        )
        bench.desk.on_event("fault", {"error": error})
        assert (bench.desk.claim, bench.desk.episode) == (None, None)
        assert "camera front stopped" in bench.desk.status()["fault"]
        bench.desk.on_event("fault_cleared", {})
        assert bench.desk.status()["fault"] == ""

    run(steps)


def test_death_during_a_rollout_releases_first_and_keeps_what_is_known(bench: Bench) -> None:
    async def steps() -> None:
        started = await bench.desk.rollout_start(TASK, None, None, evaluation=True)
        assert bench.desk.claim is not None
        assert bench.desk.claim.activity is Activity.EVALUATE
        await bench.desk.on_death("was killed by SIGKILL")
        assert bench.released == ["/dev/f"]
        found = bench.desk.rollouts.result(started["rollout"])
        assert (found["state"], found["reason"], found["version"]) == (
            "done",
            "the arm worker was killed by SIGKILL",
            3,
        )
        assert bench.desk.claim is None

    run(steps)


def test_torque_that_could_not_be_switched_off_is_shown(bench: Bench) -> None:
    bench.release_error = ArmfleetError("the port failed", do="take its power off")

    async def steps() -> None:
        await bench.desk.on_death("was killed by SIGKILL")
        assert "take its power off" in bench.desk.torque_fault
        bench.release_error = None
        await bench.desk.on_death("was killed by SIGKILL")
        assert bench.desk.torque_fault == ""

    run(steps)


def test_release_works_without_a_worker(bench: Bench) -> None:
    bench.worker.answers["release"] = ArmfleetError("the arm worker is failed")

    async def steps() -> None:
        assert (await bench.desk.release())["by"] == "the agent"
        assert bench.released == ["/dev/f"]

    run(steps)


def test_worker_that_hangs_on_release_is_killed(bench: Bench) -> None:
    process = subprocess.Popen(["sleep", "60"])
    bench.worker.pid = process.pid  # type: ignore[assignment]
    bench.worker.answers["release"] = timed_out("release")

    async def steps() -> None:
        assert "was killed" in (await bench.desk.release())["by"]

    run(steps)
    assert process.wait(timeout=5) == -9


def test_rollout_of_another_id_is_not_the_end_of_this_one(bench: Bench) -> None:
    async def steps() -> None:
        await bench.desk.rollout_start(TASK, None, 5.0, evaluation=False)
        bench.desk.on_event("rollout_done", {"rollout_id": "another"})
        assert bench.desk.rollout is not None
        with pytest.raises(ArmfleetError, match="still running"):
            bench.desk.rollouts.label(bench.desk.rollout, True)
        with pytest.raises(ArmfleetError, match="there is no rollout"):
            bench.desk.rollouts.result("../../etc/passwd")

    run(steps)


def test_use_of_the_arm_starts_the_idle_time_anew(bench: Bench) -> None:
    async def steps() -> None:
        bench.desk.last_used = time.monotonic() - 1000
        await bench.desk.hold()
        assert bench.desk.status()["unused_s"] < 5

    run(steps)


def test_an_arm_that_nobody_uses_is_let_go_once_unless_it_was_asked_to_hold(bench: Bench) -> None:
    async def steps() -> None:
        desk, asked = bench.desk, bench.worker.asked
        await desk.rest()
        assert asked == [], "an arm that was never used is limp already"
        await desk.session_start(TASK)
        desk.last_used -= 2_000
        await desk.rest()
        assert "release" not in asked, "a session may pause"
        await desk.session_stop()
        await desk.rest()
        assert "release" not in asked, "not before rest_s"
        desk.last_used -= 10_000
        await desk.rest()
        await desk.rest()
        assert asked.count("release") == 1
        assert time.monotonic() - desk.last_used > 9_000, "resting is no use: training goes on"
        await desk.session_start(TASK)
        await desk.session_stop()
        await desk.hold()
        desk.last_used -= 10_000
        await desk.rest()
        assert asked.count("release") == 1, "the operator asked for hold"

    run(steps)


def test_refused_hold_neither_kills_the_worker_nor_counts_as_done(bench: Bench) -> None:
    process = subprocess.Popen(["sleep", "60"])
    bench.worker.pid = process.pid  # type: ignore[assignment]
    bench.worker.answers["hold"] = ArmfleetError("the gripper reports a fault")

    async def steps() -> None:
        with pytest.raises(ArmfleetError, match="gripper reports"):
            await bench.desk.hold()

    try:
        run(steps)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait(5)


def test_hold_that_killed_the_worker_does_not_claim_that_the_arm_holds(bench: Bench) -> None:
    process = subprocess.Popen(["sleep", "60"])
    bench.worker.pid = process.pid  # type: ignore[assignment]
    bench.worker.answers["hold"] = timed_out("hold")

    async def steps() -> None:
        assert (await bench.desk.hold())["done"] == "release"

    run(steps)
    assert process.wait(timeout=5) == -9


def test_a_session_that_its_operator_left_does_not_hold_the_arm_for_ever(bench: Bench) -> None:
    async def steps() -> None:
        await bench.desk.session_start(TASK)
        bench.desk.last_used -= 10 * bench.config.arm.rest_s + 1  # type: ignore[union-attr]
        await bench.desk.rest()
        assert bench.worker.asked[-1] == "release"
        bench.desk.on_event("activity_ended", {"activity": "teleoperation", "reason": "release"})
        assert bench.desk.claim is None

    run(steps)


@pytest.mark.parametrize(("code", "times"), [(ExitCode.CAMERA_LOST, 1), (ExitCode.BUS_LOST, 0)])
def test_a_lost_camera_does_not_keep_torque_on(bench: Bench, code: ExitCode, times: int) -> None:
    async def steps() -> None:
        await bench.desk.session_start(TASK)
        await bench.desk.session_stop()
        bench.desk.on_event("fault", {"error": ArmfleetError("it is lost", code=code).to_dict()})
        bench.desk.last_used -= 10_000
        await bench.desk.rest()
        assert bench.worker.asked.count("release") == times

    run(steps)


def test_a_refused_rest_is_tried_again_later_and_not_in_each_tick(bench: Bench) -> None:
    bench.worker.pid = 1  # type: ignore[assignment]
    bench.worker.answers["release"] = ArmfleetError("the gripper reports a fault")

    async def steps() -> None:
        await bench.desk.session_start(TASK)
        await bench.desk.session_stop()
        bench.desk.last_used -= 10_000
        await bench.desk.rest()
        await bench.desk.rest()
        assert bench.worker.asked.count("release") == 1

    run(steps)


def test_an_episode_saved_before_its_answer_was_lost_reaches_the_gate(bench: Bench) -> None:
    async def steps() -> None:
        await bench.desk.session_start(TASK)
        await bench.desk.episode_start(TASK)
        save(bench, "000001")
        bench.worker.answers["record_stop"] = timed_out("record_stop")
        with pytest.raises(ArmfleetError, match="did not answer"):
            await bench.desk.episode_stop(keep=True)
        assert bench.judged == ["000001"]
        await bench.desk.on_death("was killed by SIGKILL")
        assert bench.judged == ["000001"], "once"

    run(steps)


def test_an_episode_saved_just_before_the_worker_died_reaches_the_gate(bench: Bench) -> None:
    async def steps() -> None:
        save(bench, "000001")
        await bench.desk.on_death("was killed by SIGKILL")
        assert bench.judged == ["000001"]

    run(steps)


def test_an_episode_saved_long_after_the_time_out_reaches_the_gate(bench: Bench) -> None:
    async def steps() -> None:
        save(bench, "000001")
        await bench.desk.rest()
        assert bench.judged == ["000001"]

    run(steps)


def test_the_policy_may_not_change_while_a_rollout_stops_the_trainer(bench: Bench) -> None:
    seen: list[bool] = []

    async def preempt(reason: str) -> None:
        seen.append(bench.desk.rolling_out)

    async def steps() -> None:
        bench.desk._preempt = preempt
        await bench.desk.rollout_start(TASK, None, None, evaluation=False)
        assert seen == [True]

    run(steps)


def test_a_policy_lost_while_the_trainer_was_stopped_refuses_the_rollout(bench: Bench) -> None:
    def check() -> None:
        if bench.preempted:
            raise ArmfleetError("the policy worker is failed")

    async def steps() -> None:
        bench.desk._rollout_allowed = check
        with pytest.raises(ArmfleetError, match="policy worker is failed"):
            await bench.desk.rollout_start(TASK, None, None, evaluation=False)
        assert (bench.desk.claim, bench.desk.rollout) == (None, None)
        assert "rollout_start" not in bench.worker.asked

    run(steps)


def test_the_agent_does_not_end_while_an_episode_is_being_saved(bench: Bench) -> None:
    async def steps() -> None:
        saved = asyncio.Event()

        async def request(op: str, timeout_s: float = 10.0, **fields: Any) -> dict[str, Any]:
            if op == "record_stop":
                await saved.wait()
                save(bench, "000001")
            return {}

        bench.worker.request = request  # type: ignore[method-assign]
        await bench.desk.session_start(TASK)
        await bench.desk.episode_start(TASK)
        stop = asyncio.create_task(bench.desk.episode_stop(keep=True))
        await asyncio.sleep(0)
        end = asyncio.create_task(bench.desk.finish())
        for _ in range(5):
            await asyncio.sleep(0)
        assert not end.done()
        saved.set()
        async with asyncio.timeout(10):
            await end
            await stop
        assert bench.judged == ["000001"]

    run(steps)
