"""What a terminal shows of a series of rollouts: its picture, and the end."""

import io

import pytest
from rich.console import Console

from agent.sessions.series import Phase
from agent.sessions.series_messages import ResultTold, RolloutTold, SeriesAnswer, SeriesTold
from agent.sessions.session_messages import arm_told
from cli.rollout_summary import as_json, exit_code, words
from cli.rollout_view import Screen, trouble_lines


def told(phase: Phase, labels: str = "", paired: bool = True, **fields: object) -> SeriesTold:
    """`labels`: of the rollouts in order, 1 success; of a pair, the first ran "version 7"."""
    names = ["version 7", "version 6"] if paired else ["version 7"]
    shown = phase is Phase.DONE or not paired
    results = [
        ResultTold(rollout=str(n), success=label == "1", version=names[n % len(names)] if shown else None)
        for n, label in enumerate(labels)
    ]
    values = {
        "id": "1",
        "task": "push the red cube " * 8,
        "phase": phase,
        "versions": names,
        "paired": paired,
        "wanted": 40,
        "number": len(labels) + 1,
        "version": names[0] if shown else None,
        "results": results,
        "discarded": 1,
        "lost": 1,
        "rollout": "r",
        "reason": "time_up",
        "label": None,
        "elapsed_s": 7.0,
        "limit_s": 20.0,
        "ending": True,
        "notice": "",
        "seed": None,
        **fields,
    }
    return SeriesTold.model_validate(values)


def answer(series: SeriesTold) -> SeriesAnswer:
    joints = {name: {"temperature": 61, "load": 100, "voltage": 5.0} for name in ("gripper", "elbow_flex")}
    account = {
        "cameras": {"front": {}, "wrist": {}},
        "pose": [0.0, 80, 0, 0, 0, 50],
        "limits": [[-81.0, 81.0]] * 6,
        "health": {"joints": joints, "warnings": ["joint 6 (gripper) is warm"]},
    }
    rollout = RolloutTold(phase="running", chunks=9, starved=2, latency_ms=45.2, chunk_age_s=0.31, queue=1)
    return SeriesAnswer(node="a", series=series, arm=arm_told(("ready", ""), account, []), rollout=rollout)


def drawn(series: SeriesTold, away: str = "") -> list[str]:
    console = Console(width=80, height=24, record=True, force_terminal=True, file=io.StringIO())
    console.print(Screen(answer(series), keys=True, away=away))
    return console.export_text().splitlines()


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("notice", ["", "the policy could not be made ready for the next rollout. " * 20])
def test_the_picture_fits_a_small_terminal_with_its_keys_whatever_there_is_to_say(phase, notice) -> None:
    lines = drawn(told(phase, "10" * 9, notice=notice), away="the agent has not answered for 3 s")
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert "SPACE" in lines[-1]
    assert "end" in lines[-1]
    for words_ in (
        "the agent has not answered",
        "6 gripper",
        "45 ms",
        "310 ms",
        "rollout 19 of 40: pair 10, first",
    ):
        assert any(words_ in line for line in lines), words_
    assert bool(notice) == any("could not be made ready" in line for line in lines)


def test_a_first_chunk_that_is_held_back_is_said_in_words_that_stay_the_same() -> None:
    said = []
    for ticks in (0, 1, 2):
        seen = answer(told(Phase.RUNNING, ""))
        assert seen.rollout is not None
        rollout = seen.rollout.model_copy(update={"bounded": ticks})
        shown = trouble_lines(seen.model_copy(update={"rollout": rollout}), "")
        said.append([line.plain for line in shown if "first chunk" in line.plain])
    assert said == [[], *[["the first chunk is held to what the version was trained on"]] * 2]


def test_the_picture_of_a_comparison_names_both_versions_and_never_which_one_runs() -> None:
    for phase in Phase:
        if phase is not Phase.DONE:
            text = "\n".join(drawn(told(phase, "1")))
            assert "version 6 or version 7, told at the end" in text
            assert text.count("version 7") == 1
    assert "version 7" in "\n".join(drawn(told(Phase.READY, "1", paired=False)))


def test_the_end_says_what_the_pairs_show_and_what_they_can_not_tell() -> None:
    better = told(Phase.DONE, "10" * 12)
    said = words(better)
    assert said[0] == (
        "version 7 is better than version 6: of 12 pairs only version 7 succeeded in 12, only version 6 in 0."
    )
    assert "5%" in said[1]
    assert "may be anything from" in said[2]
    assert exit_code(better) == 0, "it is decided"
    early = told(Phase.DONE, "1011")
    assert words(early)[0].startswith("Not decided: version 7 may be better than version 6 or not")
    assert exit_code(early) == 130
    worse = told(Phase.DONE, "01" * 12)
    assert words(worse)[0].startswith("It was not shown that version 7 is better than version 6")
    assert as_json(better)["comparison"] == "better"
    alone = told(Phase.DONE, "110", paired=False)
    assert "armfleet evaluate --against" in words(alone)[0]
    assert as_json(alone)["versions"][0]["successes"] == 2
