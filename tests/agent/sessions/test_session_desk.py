"""The owner of a session with a real desk, store and index; the arm worker is a plain object."""

import asyncio
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent.episodes.desk import EpisodeDesk
from agent.sessions.session import Act, Phase
from agent.sessions.session_desk import SessionDesk
from agent.sessions.session_messages import ATTENDED_S, Answer, StartRecording
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from tests.agent.arm_bench import TASK, Bench, run, save, timed_out


class Studio:
    """A bench whose worker leaves an episode's folder when it saves, and the session's owner on it."""

    def __init__(self, tmp_path: Path) -> None:
        self.bench = bench = Bench(tmp_path)
        self.now = 1000.0
        self.recorded = ""
        self.account: dict[str, Any] = {}
        self.interrupted: list[str] = []
        ask = bench.worker.request

        async def request(op: str, timeout_s: float = 10.0, **fields: Any) -> dict[str, Any]:
            answer = await ask(op, timeout_s, **fields)
            if op == "status":
                return self.account
            if op == "record_start":
                self.recorded = fields["episode_id"]
                self.max_s = fields["max_s"]
            if op == "record_stop" and fields["keep"]:
                save(bench, self.recorded)
            return answer

        bench.worker.request = request  # type: ignore[method-assign]
        self.episodes = EpisodeDesk(
            bench.config, bench.index.refresh_episode, bench.judged.append, self._interrupt
        )
        judging = SimpleNamespace(waiting=0, fault="")
        self.desk = SessionDesk(
            bench.config,
            bench.desk,
            bench.worker,  # type: ignore[arg-type]
            bench.index,
            judging,  # type: ignore[arg-type]
            self.episodes.change,
            clock=lambda: self.now,
        )

    async def _interrupt(self, reason: str) -> bool:
        self.interrupted.append(reason)
        return False

    async def start(self, episodes: int = 2, **fields: Any) -> None:
        await self.desk.start(StartRecording(task=TASK, episodes=episodes, reset_s=10, **fields))

    async def press(self, *acts: Act) -> None:
        for act in acts:
            self.desk.act(act)
            await self.settle()

    async def settle(self) -> None:
        while self.desk._tasks:
            await asyncio.gather(*self.desk._tasks)

    async def tick(self, seconds: float, attended: bool = True) -> None:
        self.now += seconds
        if attended:
            await self.look(keys=True)
        self.desk.tick()
        await self.settle()

    async def look(self, keys: bool = False) -> Answer:
        return Answer.model_validate(await self.desk.look(keys))

    async def phase(self) -> Phase:
        session = (await self.look()).session
        assert session is not None
        return session.phase


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    return Studio(tmp_path)


def test_a_session_records_labels_and_gives_the_arm_back(studio: Studio) -> None:
    async def steps() -> None:
        await studio.start(2)
        await studio.press(Act.START, Act.FAILURE, Act.STOP)
        assert await studio.phase() is Phase.RESETTING
        assert studio.desk.status() == {
            "task": TASK,
            "phase": "resetting",
            "kept": 1,
            "wanted": 2,
            "attended": True,
        }
        await studio.tick(11)
        assert await studio.phase() is Phase.RECORDING
        await studio.press(Act.STOP)
        answer = await studio.look()
        assert answer.session is not None
        assert (answer.session.phase, answer.session.kept) == (Phase.DONE, ["000001", "000002"])
        assert [episode.label for episode in answer.episodes] == ["failure", None]
        assert studio.bench.judged == ["000001", "000002"]
        assert studio.bench.desk.claim is None
        assert "teleop_stop" in studio.bench.worker.asked
        assert studio.desk.status() is None

    run(steps)


def test_a_lost_terminal_starts_nothing_and_costs_nothing(studio: Studio) -> None:
    async def steps() -> None:
        await studio.start(3)
        await studio.press(Act.START)
        studio.account = {"recording": {"episode_id": "000001", "frames": 3600, "full": True}}
        studio.bench.desk._heartbeat.account = studio.account
        await studio.tick(120 + ATTENDED_S, attended=False)
        assert await studio.phase() is Phase.RESETTING
        assert studio.bench.judged == ["000001"]
        await studio.tick(11, attended=False)
        await studio.tick(500, attended=False)
        assert await studio.phase() is Phase.READY
        assert studio.bench.worker.asked.count("record_start") == 1
        await studio.press(Act.START)
        assert await studio.phase() is Phase.RECORDING

    run(steps)


def test_watching_is_no_attendance(studio: Studio) -> None:
    async def steps() -> None:
        await studio.start(3)
        await studio.press(Act.START, Act.STOP)
        studio.now += ATTENDED_S
        await studio.look()
        await studio.tick(11, attended=False)
        assert await studio.phase() is Phase.READY

    run(steps)


def test_a_fault_interrupts_and_a_key_lets_the_follower_follow_again(studio: Studio) -> None:
    bench = studio.bench
    error = ArmfleetError(
        "the camera front stopped", do="check its cable", code=ExitCode.CAMERA_LOST
    ).to_dict()

    async def steps() -> None:
        await studio.start(2)
        await studio.press(Act.START, Act.STOP, Act.START)
        bench.desk.on_event("fault", {"error": error})
        bench.desk.on_event("episode_lost", {"episode_id": "000002", "reason": "fault", "error": error})
        bench.desk.on_event("activity_ended", {"activity": "teleoperation", "reason": "fault"})
        await studio.tick(0.5)
        session = (await studio.look()).session
        assert session is not None
        assert (session.phase, session.lost, session.kept) == (Phase.INTERRUPTED, 1, ["000001"])
        assert session.notice == "the camera front stopped. Do: check its cable."
        bench.worker.answers["teleop_start"] = ArmfleetError("the camera front stopped")
        await studio.press(Act.START)
        assert await studio.phase() is Phase.INTERRUPTED
        bench.desk.on_event("fault_cleared", {})
        bench.worker.answers["teleop_start"] = {}
        await studio.press(Act.START)
        assert await studio.phase() is Phase.READY
        assert bench.worker.asked.count("record_start") == 2, "it follows, and records nothing yet"
        await studio.press(Act.START, Act.STOP)
        assert await studio.phase() is Phase.DONE

    run(steps)


@pytest.mark.parametrize("came", [True, False])
def test_an_answer_that_is_lost_while_saving_counts_what_the_store_has(studio: Studio, came: bool) -> None:
    async def steps() -> None:
        await studio.start(1)
        await studio.press(Act.START)
        if came:
            save(studio.bench, "000001")
        studio.bench.worker.answers["record_stop"] = timed_out("record_stop")
        await studio.press(Act.STOP)
        session = (await studio.look()).session
        assert session is not None
        if came:
            assert (session.phase, session.kept, session.lost) == (Phase.DONE, ["000001"], 0)
        else:
            assert (session.phase, session.kept, session.lost) == (Phase.RESETTING, [], 1)
            assert "did not answer" in session.notice

    run(steps)


def test_an_episode_taken_back_lies_in_the_trash_and_training_is_told(studio: Studio) -> None:
    async def steps() -> None:
        await studio.start(2)
        await studio.press(Act.START, Act.STOP, Act.DISCARD)
        answer = await studio.look()
        assert answer.session is not None
        assert (answer.session.kept, answer.session.discarded, answer.episodes) == ([], 1, [])
        assert list((studio.bench.config.episodes_dir / ".trash").glob("*000001*"))
        await studio.press(Act.START, Act.STOP, Act.START, Act.STOP)
        answer = await studio.look()
        assert answer.session is not None
        assert answer.session.kept == ["000002", "000003"], "the trash keeps its number"

    run(steps)


def test_an_episode_that_vanished_can_neither_be_taken_back_nor_labelled_and_the_session_goes_on(
    studio: Studio,
) -> None:
    async def steps() -> None:
        await studio.start(2)
        await studio.press(Act.START, Act.STOP)
        shutil.rmtree(studio.bench.config.episodes_dir / "000001")
        for act in (Act.SUCCESS, Act.DISCARD):
            await studio.press(act)
            session = (await studio.look()).session
            assert session is not None
            assert "there is no episode 000001" in session.notice
            assert session.phase is Phase.RESETTING

    run(steps)


def test_a_session_is_never_replaced_by_another_and_a_refused_one_leaves_none(studio: Studio) -> None:
    async def steps() -> None:
        studio.bench.worker.answers["teleop_start"] = ArmfleetError("leader and follower differ too much")
        with pytest.raises(ArmfleetError, match="differ too much"):
            await studio.start()
        assert (await studio.look()).session is None
        with pytest.raises(ArmfleetError, match="no session is running"):
            studio.desk.act(Act.START)
        studio.bench.worker.answers["teleop_start"] = {}
        await studio.start()
        with pytest.raises(ArmfleetError, match=f"a session is running: {TASK}"):
            await studio.start()
        await studio.press(Act.END)
        await studio.start()

    run(steps)


def test_a_full_disk_keeps_the_session_and_says_so(tmp_path: Path) -> None:
    studio = Studio(tmp_path)
    studio.bench.worker.answers["record_start"] = ArmfleetError("only 3 MB are free", code=ExitCode.DISK_FULL)

    async def steps() -> None:
        await studio.start()
        await studio.press(Act.START)
        session = (await studio.look()).session
        assert session is not None
        assert (session.phase, session.notice) == (Phase.READY, "only 3 MB are free.")

    run(steps)


def test_an_episode_ended_through_the_plain_route_still_counts(studio: Studio) -> None:
    async def steps() -> None:
        await studio.start(2)
        await studio.press(Act.START)
        await studio.bench.desk.episode_stop(keep=True)
        await studio.tick(0.5)
        await studio.press(Act.START)
        await studio.bench.desk.episode_stop(keep=False)
        await studio.tick(0.5)
        session = (await studio.look()).session
        assert session is not None
        assert (session.kept, session.lost, session.phase) == (["000001"], 1, Phase.RESETTING)

    run(steps)


def test_the_chosen_length_can_only_shorten_what_the_configuration_allows(studio: Studio) -> None:
    async def steps() -> None:
        for chosen, used in ((20.0, 20.0), (500.0, 120.0), (None, 120.0)):
            await studio.start(1, max_s=chosen)
            await studio.press(Act.START)
            session = (await studio.look()).session
            assert session is not None
            assert (studio.max_s, session.limit_s) == (used, used)
            await studio.press(Act.STOP)

    run(steps)


def test_room_is_told_from_the_pictures_size_and_then_from_real_episodes(studio: Studio) -> None:
    async def steps() -> None:
        before = (await studio.look()).space
        assert (before.measured, before.bytes_per_s) == (False, 96 * 96 * 30 * 0.05)
        await studio.start()
        await studio.press(Act.START, Act.STOP)
        folder = studio.bench.config.episodes_dir / "000001"
        after = (await studio.look()).space
        assert after.measured
        assert after.bytes_per_s == pytest.approx((folder / "armfleet.json").stat().st_size / (50 / 30))

    run(steps)


def test_the_view_has_what_the_arm_worker_last_said_while_it_does_not_answer(studio: Studio) -> None:
    async def steps() -> None:
        studio.bench.desk._heartbeat.account = {
            "period_ms": 33.3,
            "pose": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
            "health": {
                "joints": {"gripper": {"temperature": 61, "load": -20, "voltage": 5.1}},
                "warnings": ["hot"],
            },
            "cameras": {"front": {"connected": True, "age_s": 0.02, "rate_hz": 30.0}},
        }
        studio.bench.worker.answers["status"] = timed_out("status")
        arm = (await studio.look()).arm
        assert (arm.period_ms, arm.voltage, arm.warnings) == (33.3, 5.1, ["hot"])
        assert (arm.joints[5].position, arm.joints[5].temperature, arm.joints[0].temperature) == (
            6.0,
            61,
            None,
        )
        assert (arm.cameras[0].name, arm.cameras[0].rate_hz) == ("front", 30.0)

    run(steps)
