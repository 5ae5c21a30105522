"""The series' state machine: what keys do, and that no sequence of them moves the arm unseen or counts a
rollout without its label."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.evaluation.pairs import Result, decision, draw_order, pairs_of
from agent.sessions import series
from agent.sessions.series import OPERATOR_GONE, Act, Do, Order, Phase, Plan, Step

TASK = "push the red cube to the left"


@dataclass
class Owner:
    """Carries out what the plan orders, with an arm that is a name and a store that is a dict."""

    plan: Plan
    now: float = 0.0
    running: str | None = None
    led: bool = False
    stopped_for: list[str] = field(default_factory=list)
    labels: dict[str, bool | None] = field(default_factory=dict)
    discarded: set[str] = field(default_factory=set)
    pending: list[Order] = field(default_factory=list)
    lowered: int = 0

    def take(self, step: Step) -> None:
        self.plan = step.plan
        self.pending += step.orders

    def begin(self) -> None:
        self.take(series.begin(self.plan, self.now))
        self.work_off()

    def press(self, *acts: Act) -> None:
        for act in acts:
            self.take(series.press(self.plan, act, self.now))
            self.work_off()

    def tick(self, seconds: float = 0.5, attended: bool = True, abandoned: bool = False) -> None:
        self.now += seconds
        self.take(series.tick(self.plan, self.now, attended, abandoned))

    def runs_out(self) -> None:
        """The rollout that runs ends by itself."""
        if self.running is not None:
            self.running = None
            self.take(series.over(self.plan, "time_up", self.now))

    def work_off(self) -> None:
        while self.pending:
            self.work()

    def work(self, well: bool = True) -> None:
        """Carry out the oldest order; stops wait for nothing."""
        if not self.pending:
            return
        stops = [order for order in self.pending if order.do is Do.STOP]
        order = stops[0] if stops else self.pending[0]
        self.pending.remove(order)
        why = "" if well else "it failed"
        if order.do is Do.PREPARE:
            self.take(series.prepared(self.plan, why, self.now))
        elif order.do is Do.START:
            assert self.running is None, "two rollouts at once"
            if well:
                self.running, self.led = f"r{len(self.labels) + 1}", False
                self.labels[self.running] = None
                self.take(series.started(self.plan, self.running, self.now))
            else:
                self.take(series.not_started(self.plan, why, self.now))
        elif order.do is Do.STOP:
            self.stopped_for.append(order.reason)
            if self.running is not None:
                self.running = None
                self.take(series.over(self.plan, order.reason, self.now))
        elif order.do in (Do.TAKE_OVER, Do.HAND_BACK):
            if well and order.rollout == self.running:
                self.led = order.do is Do.TAKE_OVER
            self.take(series.changed_hands(self.plan, order.rollout, why, self.now))
        elif order.do is Do.LOWER:
            self.lowered += 1
            self.take(series.lowered(self.plan, why))
        elif order.do is Do.LABEL and well:
            assert order.rollout not in self.discarded
            self.labels[order.rollout] = order.success
            self.take(series.labelled(self.plan, order.success, self.now))
        elif order.do is Do.LABEL:
            self.take(series.not_labelled(self.plan, why, self.now))
        elif order.do is Do.DISCARD and well:
            self.labels[order.rollout] = None
            self.discarded.add(order.rollout)
            self.take(series.discarded(self.plan, self.now))
        elif order.do is Do.DISCARD:
            self.take(series.not_discarded(self.plan, why, self.now))
        elif order.do is Do.END:
            self.take(series.ended(self.plan, self.plan.notice, self.now))


def owner(rollouts: int = 3, paired: bool = False) -> Owner:
    order = draw_order(rollouts, seed=0) if paired else (0,) * rollouts
    made = Owner(Plan(TASK, order, paired))
    made.begin()
    return made


def test_a_series_labels_each_rollout_before_the_next_and_ends_after_the_last() -> None:
    made = owner(2)
    assert made.plan.phase is Phase.READY
    made.press(Act.START)
    assert made.plan.phase is Phase.RUNNING
    made.runs_out()
    assert (made.plan.phase, made.plan.reason) == (Phase.LABELLING, "time_up")
    made.press(Act.START)
    assert made.running is None
    assert "first the label" in made.plan.notice
    made.press(Act.SUCCESS, Act.START, Act.FAILURE)
    assert made.stopped_for == ["operator"], "a label given while it runs stops it"
    assert made.plan.phase is Phase.DONE
    assert [result.success for result in made.plan.results] == [True, False]


def test_redo_takes_the_last_attempt_out_of_the_count_whenever_it_comes() -> None:
    made = owner(2)
    made.press(Act.START, Act.REDO)
    assert (made.discarded, made.plan.phase, made.plan.discarded) == ({"r1"}, Phase.READY, 1)
    made.press(Act.START, Act.STOP, Act.REDO)
    assert made.discarded == {"r1", "r2"}
    made.press(Act.START, Act.SUCCESS)
    assert (made.plan.phase, made.plan.place) == (Phase.READY, 1)
    made.press(Act.REDO)
    assert (made.plan.place, made.plan.results) == (0, ())
    made.press(Act.REDO)
    assert made.plan.notice == "there is no rollout to do again"


def test_a_wrong_label_is_put_right_until_the_next_rollout_begins() -> None:
    made = owner(2)
    made.press(Act.START, Act.SUCCESS, Act.FAILURE)
    assert made.plan.results == (Result("r1", 0, False),)
    assert made.plan.place == 1


def test_abort_holds_first_and_then_brings_the_arm_down() -> None:
    made = owner()
    made.press(Act.START, Act.ABORT)
    assert (made.stopped_for, made.lowered) == (["abort"], 1)
    assert made.plan.phase is Phase.LABELLING
    assert "lowered" in made.plan.notice
    made.press(Act.SUCCESS, Act.ABORT)
    assert (made.plan.phase, made.lowered) == (Phase.READY, 2), "also of an arm that holds"


def test_keys_that_come_while_it_starts_stop_it_before_it_gets_anywhere() -> None:
    for act, reason in ((Act.STOP, "operator"), (Act.ABORT, "abort"), (Act.END, "operator")):
        made = owner()
        made.take(series.press(made.plan, Act.START, 0))
        made.take(series.press(made.plan, act, 0))
        made.work_off()
        assert made.running is None
        assert made.stopped_for == [reason]
        assert made.plan.phase is Phase.LABELLING


def test_end_stops_the_arm_asks_for_the_label_and_ends() -> None:
    made = owner()
    made.press(Act.START, Act.END)
    assert (made.stopped_for, made.plan.phase) == (["operator"], Phase.LABELLING)
    made.press(Act.SUCCESS)
    assert (made.plan.phase, len(made.plan.results)) == (Phase.DONE, 1)
    other = owner()
    other.press(Act.START, Act.END, Act.END)
    assert other.plan.phase is Phase.DONE
    assert other.labels == {"r1": None}, "without a label it counts for nothing"


def test_a_person_takes_over_and_hands_back_and_it_stays_the_rollout_that_runs() -> None:
    made = owner()
    made.press(Act.TAKE_OVER)
    assert made.plan.notice == "no rollout is running"
    made.press(Act.START, Act.TAKE_OVER)
    assert (made.led, made.plan.led, made.plan.phase) == (True, True, Phase.RUNNING)
    made.press(Act.TAKE_OVER)
    assert made.plan.notice == "you have taken over already"
    made.press(Act.HAND_BACK)
    assert (made.led, made.plan.led, made.running) == (False, False, "r1")
    made.press(Act.HAND_BACK)
    assert made.plan.notice == "the policy acts already"
    made.press(Act.TAKE_OVER, Act.STOP)
    assert (made.stopped_for, made.plan.led) == (["operator"], False)
    made.press(Act.FAILURE, Act.START)
    assert not made.plan.led, "the next one is the policy's"


@pytest.mark.parametrize("act", [Act.TAKE_OVER, Act.HAND_BACK])
def test_a_hand_that_can_not_be_changed_stops_the_arm(act: Act) -> None:
    made = owner()
    made.press(Act.START, *([Act.TAKE_OVER] if act is Act.HAND_BACK else []))
    made.take(series.press(made.plan, act, 0))
    made.work(well=False)
    made.work_off()
    assert (made.plan.phase, made.running, made.plan.notice) == (Phase.LABELLING, None, "it failed")


def test_a_takeover_that_comes_to_nothing_since_the_rollout_is_over_does_no_harm() -> None:
    made = owner()
    made.press(Act.START)
    made.take(series.press(made.plan, Act.TAKE_OVER, 0))
    made.runs_out()
    made.work(well=False)
    assert (made.plan.phase, made.plan.notice) == (Phase.LABELLING, "")


def test_a_takeover_needs_the_operator_as_the_policy_does() -> None:
    made = owner()
    made.press(Act.START, Act.TAKE_OVER)
    made.tick(attended=False)
    made.work_off()
    assert made.stopped_for == [OPERATOR_GONE]


@pytest.mark.parametrize("plan", [Plan(TASK, (0, 1), paired=True), Plan(TASK, (0,), evaluation=True)])
def test_nobody_takes_over_in_an_evaluation(plan: Plan) -> None:
    made = Owner(plan)
    made.begin()
    made.press(Act.START, Act.TAKE_OVER)
    assert (made.led, made.plan.led, made.plan.phase) == (False, False, Phase.RUNNING)
    assert "nobody takes over in an evaluation" in made.plan.notice


def test_without_an_operator_the_arm_stops_and_nothing_starts() -> None:
    made = owner()
    made.press(Act.START)
    made.tick(attended=False)
    made.work_off()
    assert made.stopped_for == [OPERATOR_GONE]
    for _ in range(100):
        made.tick(attended=False)
        made.work_off()
    assert (made.plan.phase, made.running) == (Phase.LABELLING, None)
    made.tick(attended=False, abandoned=True)
    made.work_off()
    assert made.plan.phase is Phase.DONE


def test_what_fails_waits_for_the_operator() -> None:
    made = owner()
    made.take(series.press(made.plan, Act.START, 0))
    made.work(well=False)
    assert (made.plan.phase, made.plan.notice) == (Phase.READY, "it failed")
    made.press(Act.START, Act.STOP)
    made.take(series.press(made.plan, Act.SUCCESS, 0))
    made.work(well=False)
    assert (made.plan.phase, made.plan.label) == (Phase.LABELLING, None)
    made.take(series.press(made.plan, Act.REDO, 0))
    made.work(well=False)
    assert made.plan.phase is Phase.LABELLING
    made.take(series.lost(made.plan, "nothing is left", 0))
    made.work_off()
    assert (made.plan.phase, made.plan.lost, made.plan.notice) == (Phase.READY, 1, "nothing is left")


def test_a_comparison_ends_when_it_is_decided() -> None:
    made = owner(60, paired=True)
    while made.plan.phase is not Phase.DONE:
        better = made.plan.order[made.plan.place] == 0
        made.press(Act.START, Act.SUCCESS if better else Act.FAILURE)
    assert decision(TASK, made.plan.results).state == "better"
    assert len(made.plan.results) < 60
    assert len(made.plan.results) % 2 == 0


@given(pairs=st.integers(1, 50), seed=st.integers(0, 2**31 - 1))
def test_each_pair_has_both_versions_and_the_lots_can_be_drawn_again(pairs: int, seed: int) -> None:
    order = draw_order(pairs, seed)
    assert all({order[2 * n], order[2 * n + 1]} == {0, 1} for n in range(pairs))
    assert order == draw_order(pairs, seed)


def test_the_order_is_drawn_fairly() -> None:
    firsts = [draw_order(1, seed)[0] for seed in range(2000)]
    assert sum(firsts) / len(firsts) == pytest.approx(0.5, abs=0.05)


def test_pairs_are_read_whatever_ran_first_and_half_a_pair_counts_for_nothing() -> None:
    labels = [(0, True), (1, False), (1, True), (0, False), (0, True)]
    results = [Result(str(n), version, success) for n, (version, success) in enumerate(labels)]
    assert [(pair.candidate, pair.promoted) for pair in pairs_of(TASK, results)] == [(1, 0), (0, 1)]


STEPS = st.lists(
    st.one_of(
        st.sampled_from(list(Act)),
        st.tuples(st.just("work"), st.booleans()),
        st.just(("runs out", True)),
        st.tuples(st.just("tick"), st.booleans()),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(steps=STEPS, rollouts=st.integers(1, 4), paired=st.booleans())
def test_no_sequence_of_keys_and_failures_breaks_what_a_series_promises(
    steps: list, rollouts: int, paired: bool
) -> None:
    made = Owner(Plan(TASK, draw_order(rollouts, 1) if paired else (0,) * rollouts, paired))
    made.take(series.begin(made.plan, 0.0))
    for step in steps:
        if isinstance(step, Act):
            before = made.running
            made.take(series.press(made.plan, step, made.now))
            assert made.running is before, "a key alone moves nothing"
        elif step[0] == "work":
            made.work(step[1])
        elif step[0] == "runs out" and made.plan.phase in (Phase.RUNNING, Phase.STOPPING):
            made.runs_out()
        elif step[0] == "tick":
            made.tick(attended=step[1])
        counted = [result.rollout for result in made.plan.results]
        assert len(set(counted)) == len(counted) <= len(made.plan.order)
        assert not set(counted) & made.discarded
        assert all(made.labels[r.rollout] == r.success for r in made.plan.results)
        assert [r.version for r in made.plan.results] == list(made.plan.order[: len(counted)])
        assert not (paired and made.led), "a comparison is the versions' own"
        assert made.plan.phase is Phase.RUNNING or not made.plan.led or made.plan.phase is Phase.STOPPING
        if made.running is not None:
            assert made.plan.phase in (Phase.RUNNING, Phase.STOPPING)
            others = set(made.labels) - made.discarded - {made.running}
            assert all(made.labels[other] is not None for other in others), "each had its label before"
    made.press(Act.END)
    for _ in range(5):
        made.work_off()
        made.press(Act.END)
    assert made.plan.phase is Phase.DONE, "it can always be ended"
    assert made.running is None
