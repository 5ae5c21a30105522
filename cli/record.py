"""`armfleet record`: the keys and the picture of a session that lives in the agent.

Nothing is kept here: a terminal that is closed, or killed, takes nothing with it, and `armfleet record` in
another one goes on.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console

from agent.sessions.session import Act, Phase
from agent.sessions.session_messages import Answer, SessionTold, StartRecording
from cli.attending import (
    ENDS,
    LOST_TERMINAL,
    POLL_S,
    STARTS,
    Detached,
    Finger,
    Line,
    read_key,
    signals,
)
from cli.keys import Keys
from cli.picture import Picture
from cli.recording_picture import session_on
from cli.recording_summary import as_json as summary_as_json
from cli.recording_summary import exit_code, show
from shared.errors import ArmfleetError
from shared.uds import UdsClient

FOLLOW_S = 40.0
"""Longest wait for the follower to come to the leader; the agent gives up after 30 s."""
JUDGED_S = 180.0
"""Longest wait at the end for the gate, which has judged most episodes by then."""
ACTS = {"d": Act.DISCARD, "s": Act.SUCCESS, "f": Act.FAILURE, "p": Act.PAUSE}


def wanted(
    task: str | None, episodes: int, reset_s: float, length_s: float | None, watch: bool
) -> StartRecording | None:
    """The session that is asked for; None for the one that runs.

    Raises:
        ArmfleetError: a new session can't be only watched, or the task is none.
    """
    if task is None:
        return None
    if not task.strip():
        raise ArmfleetError("an episode needs a task", do='say what is to be done: --task "…"')
    if watch:
        raise ArmfleetError("--watch looks at the session that runs", do="leave --task or --watch out")
    try:
        return StartRecording(task=task, episodes=episodes, reset_s=reset_s, max_s=length_s)
    except ValidationError as error:
        first = error.errors()[0]
        raise ArmfleetError(f"{first['loc'][0]}: {first['msg']}") from error


def run(socket: Path, new: StartRecording | None, watch: bool, as_json: bool) -> int:
    """Start a session, or go on with the one that runs; the exit status.

    Args:
        socket: The agent's.
        new: The new session; None for the one that runs.
        watch: Without keys.
        as_json: Only the summary goes to standard output, as one JSON object.

    Raises:
        ArmfleetError: there is no agent or no session, or the arm can't be taken.
    """
    console = Console(stderr=as_json)
    client = UdsClient(socket)
    try:
        first = _begin(console, client, new)
        return _attend(console, Line(client, "/recording", Answer, keys=not watch), first, as_json)
    finally:
        client.close()


def _begin(console: Console, client: UdsClient, new: StartRecording | None) -> Answer:
    if new is not None:
        with console.status("the follower comes to the leader: keep it still …"):
            told = client.post("/recording/start", new.model_dump(), timeout_s=FOLLOW_S)
        return Answer.model_validate(told)
    answer = Answer.model_validate(client.get("/recording"))
    if answer.session is None:
        raise ArmfleetError("no session is running", do='start one: armfleet record --task "…" --episodes 20')
    return answer


def _attend(console: Console, line: Line[Answer], first: Answer, as_json: bool) -> int:
    try:
        with signals(), Keys() as keys:
            with session_on(console, line.keys) as picture:
                answer = Conversation(line, keys, picture).run(first)
            answer = await_verdicts(console, line, keys, answer)
    except (Detached, KeyboardInterrupt):
        console.print("The session goes on in the agent: `armfleet record` goes on with it.", markup=False)
        return 0 if not line.keys else LOST_TERMINAL
    session = _session(answer)
    if as_json:
        print(json.dumps(summary_as_json(answer, session)))
    else:
        show(console, answer, session)
    return exit_code(session)


def ask(line: Line[Answer], last: Answer) -> Answer:
    """The newest answer, of the same session.

    Raises:
        ArmfleetError: the agent is away for long, or has begun anew without the session.
    """
    answer, before = line.ask(last), _session(last)
    if answer.session is None or answer.session.id != before.id:
        raise ArmfleetError(
            "the agent began anew, and the session is over",
            kept=f"the episodes {', '.join(before.kept)}" if before.kept else "",
            do=f"record the other {before.wanted - len(before.kept)} in a new session",
        )
    return answer


class Conversation:
    """Keys in, pictures out, until the session is over.

    Args:
        line: To the agent.
        keys: What the person presses.
        picture: What the person sees.
        clock: Monotonic, seconds.
    """

    def __init__(
        self,
        line: Line[Answer],
        keys: Keys,
        picture: Picture[Answer],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._line, self._keys, self._picture = line, keys, picture
        self._finger = Finger(keys, clock)

    def run(self, answer: Answer) -> Answer:
        """The last answer, of a session that is done.

        Raises:
            Detached: no keys will come any more, or a watcher leaves.
            ArmfleetError: as `ask`.
        """
        while True:
            self._picture.show(answer, self._line.away)
            if _session(answer).phase is Phase.DONE:
                return answer
            key = self._finger.key()
            if self._line.keys:
                self._act(key, _session(answer).phase)
            elif key in ENDS:
                raise Detached
            answer = ask(self._line, answer)

    def _act(self, key: str | None, phase: Phase) -> None:
        """By the phase that the person saw: a key that comes late never means the opposite."""
        if self._keys.ended:
            raise Detached
        act = act_of(key, phase)
        if act is not None:
            self._line.press(act.value)


def act_of(key: str | None, phase: Phase) -> Act | None:
    """What a key asks for; None if nothing."""
    if key is None:
        return None
    if key in STARTS:
        return Act.STOP if phase is Phase.RECORDING else Act.START
    key = key.lower()
    return Act.END if key in ENDS else ACTS.get(key)


def await_verdicts(console: Console, line: Line[Answer], keys: Keys, answer: Answer) -> Answer:
    """Until the gate has judged all that is kept, for JUDGED_S at most, or until a key that ends it."""
    deadline = time.monotonic() + JUDGED_S
    with console.status("") as status:
        while (waiting := _waiting(answer)) and time.monotonic() < deadline:
            number = len(answer.episodes)
            status.update(f"the gate has judged {number - waiting} of {number} (q does not wait)")
            if keys.ended:
                time.sleep(POLL_S)
            elif read_key(keys, POLL_S) in ENDS:
                break
            answer = ask(line, answer)
    return answer


def _waiting(answer: Answer) -> int:
    """Kept episodes without a verdict that may still come."""
    return 0 if answer.gate.fault else sum(episode.verdict == "unjudged" for episode in answer.episodes)


def _session(answer: Answer) -> SessionTold:
    assert answer.session is not None
    return answer.session
