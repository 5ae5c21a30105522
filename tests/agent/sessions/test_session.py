"""The session's state machine: what keys do, and that no sequence of them loses an episode or counts one
twice."""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.sessions import session
from agent.sessions.session import Act, Do, Order, Phase, Plan, Step

TASK = "push the red cube to the left"
RESET_S = 10.0


@dataclass
class Owner:
    """Carries out what the plan orders, on a disk that is a set of ids; `broken` says what fails."""

    plan: Plan
    now: float = 0.0
    disk: set[str] = field(default_factory=set)
    trash: set[str] = field(default_factory=set)
    labels: dict[str, str] = field(default_factory=dict)
    pending: list[Order] = field(default_factory=list)
    following: bool = True
    recording: str | None = None
    count: int = 0

    def take(self, step: Step) -> None:
        self.plan = step.plan
        self.pending += step.orders

    def press(self, act: Act) -> None:
        self.take(session.press(self.plan, act, self.now))

    def tick(self, seconds: float, attended: bool = True, full: bool = False) -> None:
        self.now += seconds
        if self.plan.phase in session.BUSY or self.plan.phase is Phase.DONE:
            return
        if not self.following and self.plan.phase is not Phase.INTERRUPTED:
            self.take(session.interrupted(self.plan, "a cable", self.now))
        else:
            self.take(session.tick(self.plan, self.now, attended, full))

    def interrupt(self) -> None:
        self.following, self.recording = False, None
        self.tick(0)

    def work(self, well: bool = True) -> None:
        """Carry out the oldest order."""
        if not self.pending:
            return
        order, plan, now = self.pending.pop(0), self.plan, self.now
        if order.do is Do.LABEL:
            assert order.episode in self.disk | self.trash
            assert order.label is not None
            self.labels[order.episode] = order.label
        elif order.do is Do.RECORD:
            assert self.recording is None, "two episodes at once"
            if well and self.following:
                self.count += 1
                self.recording = f"{self.count:06d}"
                self.take(session.started(plan, self.recording, now))
            else:
                self.take(session.not_started(plan, "no room", now))
        elif order.do in (Do.SAVE, Do.DROP):
            saved, self.recording = self.recording, None
            if order.do is Do.DROP:
                self.take(session.dropped(plan, now))
            elif well and saved is not None:
                self.disk.add(saved)
                self.take(session.saved(plan, now))
            else:
                self.take(session.not_saved(plan, "the disk is full", now))
        elif order.do is Do.TAKE_BACK:
            if well:
                self.disk.remove(order.episode)
                self.trash.add(order.episode)
                self.take(session.taken_back(plan, order.episode, now))
            else:
                self.take(session.not_taken_back(plan, "locked", now))
        elif order.do is Do.FOLLOW:
            self.following = well
            result = session.followed(plan, now) if well else session.not_followed(plan, "a cable", now)
            self.take(result)
        elif order.do is Do.END:
            self.take(session.ended(plan, "", now))

    def settle(self) -> None:
        while self.pending:
            self.work()

    def record_one(self) -> None:
        self.press(Act.START)
        self.settle()
        self.press(Act.STOP)
        self.settle()


def owner(wanted: int = 3, **fields: object) -> Owner:
    return Owner(Plan(TASK, wanted, RESET_S, **fields))  # type: ignore[arg-type]


EVENT = st.one_of(
    st.sampled_from(list(Act)),
    st.just("work"),
    st.just("fail"),
    st.just("interrupt"),
    st.just("full"),
    st.tuples(st.sampled_from([0.1, 4.0, 11.0]), st.booleans()),
)


def play(at: Owner, event: object) -> None:
    if isinstance(event, Act):
        at.press(event)
    elif event in ("work", "fail"):
        at.work(well=event == "work")
    elif event == "interrupt":
        at.interrupt()
    elif event == "full":
        at.tick(0.1, full=True)
    elif isinstance(event, tuple):
        at.tick(*event)


@settings(max_examples=300, deadline=None)
@given(wanted=st.integers(1, 3), events=st.lists(EVENT, max_size=60))
def test_no_sequence_of_keys_and_mishaps_loses_a_kept_episode_or_counts_one_twice(wanted, events):
    at = owner(wanted)
    for event in events:
        before = at.plan.kept
        play(at, event)
        assert set(at.plan.kept) == at.disk, "what is on disk is what counts"
        assert len(at.plan.kept) == len(set(at.plan.kept)) <= wanted
        assert set(before) - set(at.plan.kept) <= at.trash, "only the key that discards takes one back"
        assert (at.plan.phase in session.BUSY) == any(order.do is not Do.LABEL for order in at.pending)
        if at.plan.phase is Phase.DONE:
            assert at.recording is None
    # And from wherever that led, whoever goes on gets exactly what was wanted.
    at.settle()
    for _ in range(2 * wanted + 4):
        at.tick(0)
        at.settle()
        if at.plan.phase is not Phase.DONE and at.plan.phase is not Phase.RECORDING:
            at.press(Act.START)
            at.settle()
        if at.plan.phase is Phase.RECORDING:
            at.press(Act.STOP)
            at.settle()
    assert at.plan.phase is Phase.DONE
    ended_early = Act.END in events
    assert ended_early or len(at.plan.kept) == wanted


def test_the_next_episode_starts_by_itself_after_the_reset_and_the_last_one_ends_the_session():
    at = owner(wanted=2)
    at.record_one()
    assert at.plan.phase is Phase.RESETTING
    assert at.plan.left_s(at.now) == RESET_S
    at.tick(RESET_S - 0.1)
    assert at.plan.phase is Phase.RESETTING
    at.tick(0.2)
    assert at.plan.phase is Phase.STARTING
    at.settle()
    at.press(Act.STOP)
    at.settle()
    assert at.plan.phase is Phase.DONE
    assert at.plan.complete


def test_nothing_starts_by_itself_where_no_terminal_with_keys_was_seen():
    at = owner()
    at.record_one()
    at.tick(RESET_S + 1, attended=False)
    assert at.plan.phase is Phase.READY
    at.tick(100)
    assert (at.plan.phase, at.pending) == (Phase.READY, [])


def test_an_episode_that_nobody_ended_is_kept_and_waits_for_a_person():
    at = owner()
    at.press(Act.START)
    at.settle()
    at.tick(120, full=True)
    assert at.plan.phase is Phase.SAVING
    at.settle()
    assert at.plan.kept == ("000001",)
    at.tick(RESET_S + 1)
    assert at.plan.phase is Phase.READY
    at.record_one()
    at.tick(RESET_S + 1)
    assert at.plan.phase is Phase.STARTING, "somebody was there again"


def test_an_episode_of_a_chosen_length_ends_as_planned_and_the_next_one_follows():
    at = owner(length_s=20.0)
    at.press(Act.START)
    at.settle()
    at.tick(20, full=True)
    at.settle()
    at.tick(RESET_S + 1)
    assert at.plan.phase is Phase.STARTING


def test_a_mark_given_while_recording_is_written_with_the_episode_and_the_last_one_can_be_marked_later():
    at = owner()
    at.press(Act.START)
    at.settle()
    at.press(Act.FAILURE)
    at.press(Act.SUCCESS)
    at.press(Act.STOP)
    at.settle()
    assert at.labels == {"000001": "success"}
    at.press(Act.FAILURE)
    at.settle()
    assert at.labels == {"000001": "failure"}
    at.press(Act.START)
    at.settle()
    at.press(Act.STOP)
    at.settle()
    assert "000002" not in at.labels, "a mark is for one episode"


def test_discarding_takes_the_episode_just_kept_to_the_trash_and_never_an_older_one():
    at = owner()
    at.record_one()
    at.record_one()
    at.press(Act.DISCARD)
    at.settle()
    assert (at.plan.kept, at.plan.discarded) == (("000001",), 1)
    at.press(Act.DISCARD)
    at.settle()
    assert at.plan.kept == ("000001",)
    assert at.plan.notice == "there is no episode to discard"


def test_ending_asks_while_recording_and_only_a_second_time_throws_the_episode_away():
    at = owner()
    at.press(Act.START)
    at.settle()
    at.press(Act.END)
    assert at.plan.phase is Phase.RECORDING
    assert "again" in at.plan.notice
    at.press(Act.SUCCESS)  # any other key takes the question back
    at.press(Act.END)
    assert at.plan.phase is Phase.RECORDING
    at.tick(session.ASK_S + 1)
    assert at.plan.notice == ""
    at.press(Act.END)
    assert at.plan.phase is Phase.RECORDING, "it was asked too long ago"
    at.press(Act.END)
    at.settle()
    assert (at.plan.phase, at.plan.kept, at.plan.discarded) == (Phase.DONE, (), 1)


def test_pause_stops_the_clock_of_the_reset_and_may_be_asked_for_while_recording():
    at = owner()
    at.press(Act.START)
    at.settle()
    at.press(Act.PAUSE)
    assert at.plan.phase is Phase.RECORDING
    at.press(Act.STOP)
    at.settle()
    assert at.plan.phase is Phase.PAUSED
    at.tick(1000)
    assert at.plan.phase is Phase.PAUSED
    at.press(Act.PAUSE)
    assert at.plan.left_s(at.now) == RESET_S


def test_after_an_interruption_the_follower_follows_again_before_anything_is_recorded():
    at = owner()
    at.press(Act.START)
    at.settle()
    at.interrupt()
    assert (at.plan.phase, at.plan.lost, at.plan.notice) == (Phase.INTERRUPTED, 1, "a cable")
    at.press(Act.START)
    at.work(well=False)
    assert at.plan.phase is Phase.INTERRUPTED
    at.press(Act.START)
    at.settle()
    assert (at.plan.phase, at.recording) == (Phase.READY, None)
