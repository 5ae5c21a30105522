"""`armfleet rollout` and `armfleet evaluate`: the keys and the picture of a series that lives in the agent.

The arm moves only while this command runs: it says five times a second that somebody is there, and when it
falls silent the agent makes the arm hold.
"""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console

from agent.sessions.series import Act, Phase
from agent.sessions.series_messages import SeriesAnswer, SeriesTold, StartSeries
from cli.attending import ENDS, LOST_TERMINAL, STARTS, Detached, Finger, Line, signals
from cli.keys import Keys
from cli.picture import Picture
from cli.rollout_picture import series_on
from cli.rollout_summary import as_json as summary_as_json
from cli.rollout_summary import exit_code, show
from shared.errors import ArmfleetError
from shared.uds import UdsClient

START_S = 60.0
"""Longest wait for the arm: an update that is being trained gives way first."""
ACTS = {"a": Act.ABORT, "s": Act.SUCCESS, "f": Act.FAILURE, "r": Act.REDO}


def wanted(task: str | None, watch: bool, **fields: Any) -> StartSeries | None:
    """The series that is asked for; None for the one that runs.

    Raises:
        ArmfleetError: a new series can't be only watched, or a field is not accepted.
    """
    if task is None:
        return None
    if watch:
        raise ArmfleetError("--watch looks at the series that runs", do="leave --task or --watch out")
    try:
        return StartSeries(task=task, **fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise ArmfleetError(f"{'.'.join(map(str, first['loc'])) or 'the request'}: {first['msg']}") from error


def run(socket: Path, new: StartSeries | None, watch: bool, as_json: bool) -> int:
    """Start a series, or go on with the one that runs; the exit status.

    Args:
        socket: The agent's.
        new: The new series; None for the one that runs.
        watch: Without keys.
        as_json: Only the summary goes to standard output, as one JSON object.

    Raises:
        ArmfleetError: there is no agent or no series, the arm can't be taken, or the policy does not fit.
    """
    console = Console(stderr=as_json)
    client = UdsClient(socket)
    try:
        first = _begin(client, new)
        return _attend(console, Line(client, "/series", SeriesAnswer, keys=not watch), first, as_json)
    finally:
        client.close()


def _begin(client: UdsClient, new: StartSeries | None) -> SeriesAnswer:
    if new is not None:
        told = client.post("/series/start", new.model_dump(mode="json"), timeout_s=START_S)
        return SeriesAnswer.model_validate(told)
    answer = SeriesAnswer.model_validate(client.get("/series"))
    if answer.series is None:
        raise ArmfleetError("no series is running", do='start one: armfleet rollout --task "…" --rollouts 20')
    return answer


def _attend(console: Console, line: Line[SeriesAnswer], first: SeriesAnswer, as_json: bool) -> int:
    try:
        with signals(), Keys() as keys, series_on(console, line.keys) as picture:
            series = Conversation(line, keys, picture).run(first)
    except (Detached, KeyboardInterrupt):
        if not line.keys:
            return 0
        said = "The arm is made to hold. The series waits in the agent: `armfleet rollout` goes on with it."
        console.print(said, markup=False)
        return LOST_TERMINAL
    if as_json:
        print(json.dumps(summary_as_json(series)))
    else:
        show(console, series)
    return exit_code(series)


class Conversation:
    """Keys in, pictures out, until the series is over.

    Args:
        line: To the agent.
        keys: What the person presses.
        picture: What the person sees.
    """

    def __init__(self, line: Line[SeriesAnswer], keys: Keys, picture: Picture[SeriesAnswer]) -> None:
        self._line, self._keys, self._picture = line, keys, picture
        self._finger = Finger(keys)

    def run(self, answer: SeriesAnswer) -> SeriesTold:
        """The series, done.

        Raises:
            Detached: no keys will come any more, or a watcher leaves.
            ArmfleetError: the agent is away for long, or has begun anew.
        """
        while True:
            self._picture.show(answer, self._line.away)
            series = _series(answer)
            if series.phase is Phase.DONE:
                return series
            key = self._finger.key()
            if self._line.keys:
                self._act(key, series)
            elif key in ENDS:
                raise Detached
            answer = _ask(self._line, answer)

    def _act(self, key: str | None, series: SeriesTold) -> None:
        """By what the person saw: a key that comes late never means the opposite."""
        if self._keys.ended:
            raise Detached
        act = act_of(key, series.phase, series.led)
        if act is not None:
            self._line.press(act.value)


def act_of(key: str | None, phase: Phase, led: bool = False) -> Act | None:
    """What a key asks for; None if nothing. `led`: a person has taken over."""
    if key is None:
        return None
    if key in STARTS:
        return Act.STOP if phase in (Phase.RUNNING, Phase.STARTING) else Act.START
    key = key.lower()
    if key == "t":
        return Act.HAND_BACK if led else Act.TAKE_OVER
    return Act.END if key in ENDS else ACTS.get(key)


def _ask(line: Line[SeriesAnswer], last: SeriesAnswer) -> SeriesAnswer:
    answer, before = line.ask(last), _series(last)
    if answer.series is None or answer.series.id != before.id:
        raise ArmfleetError(
            "the agent began anew, and the series is over",
            kept="every rollout that ran, with its label; the arm holds or is limp",
            do="see `armfleet rollouts list`, and start another series",
        )
    return answer


def _series(answer: SeriesAnswer) -> SeriesTold:
    assert answer.series is not None
    return answer.series
