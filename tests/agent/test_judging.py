"""The gate's queue; a stand-in for the gate's process notes what it was asked, and breaks on "bad"."""

import asyncio
from pathlib import Path

from agent.judging import RETRY_S, Judging, main
from shared.exit_codes import ExitCode

GATE = """
import sys, pathlib
note = pathlib.Path(sys.argv[1])
for episode in sys.argv[2:]:
    if episode == "bad":
        sys.exit(7)
    with note.open("a") as file:
        file.write(episode + "\\n")
"""


def judge(tmp_path: Path, *episodes: str) -> tuple[list[str], list[str], Judging]:
    """Run the queue until it is empty: (judged by the process, reported, the queue)."""
    note, reported = tmp_path / "note", []
    note.touch()

    async def go() -> Judging:
        judging = Judging(("-c", GATE, str(note)), reported.append)
        for episode in episodes:
            judging.add(episode)
        task = asyncio.create_task(judging.run())
        async with asyncio.timeout(60):
            while judging.waiting:
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return judging

    judging = asyncio.run(go())
    return note.read_text().split(), reported, judging


def test_waiting_episodes_share_one_process(tmp_path):
    judged, reported, judging = judge(tmp_path, "1", "2", "3")
    assert judged == reported == ["1", "2", "3"]
    assert judging.fault == ""


def test_an_episode_that_breaks_the_gate_does_not_hold_up_the_others(tmp_path):
    judged, reported, judging = judge(tmp_path, "1", "bad", "3")
    assert set(judged) == {"1", "3"}
    assert reported == ["1", "bad", "3"]
    assert judging.fault == ""  # the last one was fine; the log has the cause


def test_a_lasting_fault_is_kept_for_the_status(tmp_path):
    judged, _, judging = judge(tmp_path, "bad")
    assert judged == []
    assert "code 7" in judging.fault


def test_a_gate_that_can_not_start_keeps_its_episodes_and_goes_on(tmp_path, monkeypatch):
    start, failures = asyncio.create_subprocess_exec, ["no memory"]

    async def fails_once(*argv, **options):
        if failures:
            raise OSError(failures.pop())
        return await start(*argv, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", fails_once)
    monkeypatch.setattr("agent.judging.RETRY_S", 0.0)
    judged, reported, judging = judge(tmp_path, "1", "2")
    assert judged == reported == ["1", "2"]
    assert judging.fault == ""


def test_a_verdict_that_can_not_be_noted_does_not_end_the_gate(tmp_path, monkeypatch):
    pauses, noted = [], []

    async def pause(seconds):
        pauses.append((seconds, judging.fault, judging.waiting))

    def note(episode):
        noted.append(episode)
        if len(noted) == 1:
            raise RuntimeError("database is locked")

    async def go():
        judging.add("1")
        task = asyncio.create_task(judging.run())
        async with asyncio.timeout(60):
            while len(noted) < 2:
                await real_sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    real_sleep = asyncio.sleep
    monkeypatch.setattr("agent.judging.asyncio.sleep", pause)
    (tmp_path / "note").touch()
    judging = Judging(("-c", GATE, str(tmp_path / "note")), note)
    asyncio.run(go())
    [(seconds, fault, waiting)] = pauses
    assert seconds == RETRY_S
    assert "database is locked" in fault
    assert waiting == 1


def test_an_episode_that_was_deleted_before_its_turn_is_no_fault_of_the_gate(tmp_path, monkeypatch):
    monkeypatch.setattr("shared.logging.setup_logging", lambda name: None)
    config = tmp_path / "agent.toml"
    config.write_text(
        f'[node]\nname = "a"\nstate_dir = "{tmp_path}"\nsocket = "{tmp_path}/s"\n[policy]\nbase = "x"\n'
    )
    (tmp_path / "episodes" / "000002").mkdir(parents=True)
    assert main(config, ["000001"]) == 0
    assert main(config, ["000001", "000002"]) == ExitCode.EPISODE_DAMAGED, "there, and unreadable"
