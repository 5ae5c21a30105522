"""The simulated clock: nothing is lost, nothing counts twice, time does not go back."""

import math
from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks.learning.arms import ARMS, SYNC, UNEQUAL
from benchmarks.learning.clock import NEVER_S, Course, Delivered, Round, course
from benchmarks.learning.plan import CHECK_IN_S, FIRST_SCENE, STEP_S, Arm, Asked, Shown, Station, Window
from coordinator.config import AggregationSection
from shared.recipe import Recipe

TASK = Asked(verb="pull", color="red")
SHOWN = (Shown(verb="pull", color="red", demonstrations=1, source=0),)
STEPS = 4

windows = st.builds(
    lambda period, share: Window(period_s=period, open_s=period * share),
    st.floats(50, 300),
    st.floats(0.2, 1),
)


@st.composite
def arms(draw, leaving=True):
    stations = tuple(
        Station(
            name=f"s{place}",
            shown=SHOWN,
            speed=draw(st.sampled_from([1.0, 2.5, 8.0])),
            window=draw(st.none() | windows),
            joins_at=draw(st.sampled_from([0.0, 33.0, 400.0])),
            leaves_at=draw(st.sampled_from([math.inf, 300.0])) if leaving else math.inf,
        )
        for place in range(draw(st.integers(1, 6)))
    )
    size = draw(st.integers(1, len(stations)))
    robust = size >= 3 and draw(st.booleans())
    return Arm(
        name="arm",
        mode="async",
        stations=stations,
        recipe=Recipe(steps=STEPS),
        aggregation=AggregationSection(
            buffer_size=size,
            max_wait_s=draw(st.sampled_from([30.0, 400.0, NEVER_S])),
            norm_limit=2.0 if robust else math.inf,
        ),
        steps=STEPS * draw(st.integers(0, 20)),
        tasks=(TASK,),
    )


def deliveries(found: Course) -> dict[str, Delivered]:
    return {event.update_id: event for event in found.events if isinstance(event, Delivered)}


def rounds(found: Course) -> list[Round]:
    return [event for event in found.events if isinstance(event, Round)]


@given(arms())
@settings(max_examples=30, deadline=None)
def test_each_delivered_update_is_in_one_round_or_left(arm):
    found = course(arm)
    counted = Counter(update for event in rounds(found) for update in event.update_ids)
    assert counted + Counter(found.left) == Counter(deliveries(found).keys())
    assert len(deliveries(found)) * STEPS <= arm.steps
    needed = arm.aggregation.rule().stations_needed
    for event in rounds(found):
        assert len({update.rpartition("-")[0] for update in event.update_ids}) >= needed


@given(arms())
@settings(max_examples=30, deadline=None)
def test_time_does_not_go_back_and_causes_come_first(arm):
    found, newest, seen = course(arm), 0, set()
    known_at = {0: 0.0}
    free_at: dict[str, float] = {}
    number: Counter[str] = Counter()
    assert [event.at for event in found.events] == sorted(event.at for event in found.events)
    plans = {station.name: station for station in arm.stations}
    for event in found.events:
        if isinstance(event, Round):
            assert event.version == newest + 1
            assert set(event.update_ids) <= seen
            newest, known_at[event.version] = event.version, event.at
            free_at |= {update.rpartition("-")[0]: event.at for update in event.update_ids}
            continue
        plan = plans[event.station]
        assert event.number == number[event.station]
        assert max(plan.joins_at, known_at[event.base_version], free_at.get(event.station, 0)) <= event.begun
        assert plan.end_of_update(event.begun, STEPS) <= event.at < plan.leaves_at
        number[event.station] += 1
        seen.add(event.update_id)


@given(arms(leaving=False))
@settings(max_examples=30, deadline=None)
def test_all_steps_are_trained_when_rounds_can_go_on(arm):
    patient = arm.aggregation.max_wait_s < NEVER_S and arm.aggregation.rule().stations_needed == 1
    found = course(arm)
    if patient:
        assert len(deliveries(found)) * STEPS == arm.steps
        assert not found.left


@given(
    st.integers(1, 6), st.sampled_from([1.0, 3.0, 8.0]), st.integers(1, 12), st.sampled_from([1e4, NEVER_S])
)
@settings(max_examples=20, deadline=None)
def test_equal_stations_and_k_of_all_are_synchronous_rounds(count, speed, number, max_wait_s):
    arm = Arm(
        name="arm",
        mode="async",
        stations=tuple(Station(name=f"s{place}", shown=SHOWN, speed=speed) for place in range(count)),
        recipe=Recipe(steps=STEPS),
        aggregation=AggregationSection(buffer_size=count, max_wait_s=max_wait_s),
        steps=STEPS * count * number,
        tasks=(TASK,),
    )
    found = course(arm)
    bases = {update.update_id: update.base_version for update in deliveries(found).values()}
    in_check_ins = math.ceil(STEPS * STEP_S / speed / CHECK_IN_S) * CHECK_IN_S
    for event in rounds(found):
        assert [update.rpartition("-")[0] for update in event.update_ids] == [f"s{i}" for i in range(count)]
        assert {bases[update] for update in event.update_ids} == {event.version - 1}
        # the next round's training begins a check-in after this round
        assert event.at == event.version * in_check_ins + (event.version - 1) * CHECK_IN_S
    assert found.versions == number


@given(windows, st.floats(0, 5000), st.floats(0.1, 5000))
@example(Window(period_s=97.45604210026984, open_s=19.49120842005397), 0.0, 97.45604210026984)
def test_work_is_done_inside_the_window(window, start, work_s):
    def open_until(time):
        whole, rest = divmod(time, window.period_s)
        return whole * window.open_s + min(rest, window.open_s)

    end = window.end_of_work(start, work_s)
    assert open_until(end) - open_until(start) == pytest.approx(work_s, abs=1e-6)
    assert math.fmod(end, window.period_s) <= window.open_s + 1e-6


def test_staleness_arises_by_itself():
    fast, slow = (Station(name=name, shown=SHOWN, speed=speed) for name, speed in (("f", 8.0), ("s", 1.0)))
    arm = Arm(
        name="arm",
        mode="async",
        stations=(fast, slow),
        recipe=Recipe(steps=STEPS),
        aggregation=AggregationSection(buffer_size=1),
        steps=STEPS * 30,
        tasks=(TASK,),
    )
    found = course(arm)
    made_of = {update: event.version for event in rounds(found) for update in event.update_ids}
    stale = {e.station: made_of[e.update_id] - 1 - e.base_version for e in deliveries(found).values()}
    assert stale["f"] <= 1 < stale["s"]


def test_a_station_that_leaves_keeps_synchronous_rounds_waiting():
    leaving = UNEQUAL[4]
    arm = SYNC.model_copy(update={"stations": (*SYNC.stations[:4], leaving)})
    found = course(arm)
    assert 0 < found.versions < course(SYNC).versions
    assert len(found.left) == 4


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
def test_the_arms_are_of_equal_steps_and_no_update_is_left(arm):
    found = course(arm)
    # A rule that needs three stations leaves the very last update where it came alone.
    assert len(found.left) < (2 if arm.name == "async-poisoned-stays" else 1)
    assert len(deliveries(found)) * arm.recipe.steps == arm.steps
    assert arm.steps in (0, 480, 816, 2400, 2408, 3264)
    leaving = [station.leaves_at for station in arm.stations if station.leaves_at < math.inf]
    assert all(at < found.events[-1].at for at in leaving)


def test_no_scene_of_a_demonstration_is_one_of_the_evaluation():
    latest = Shown(verb="pull", color="red", demonstrations=1000, source=99)
    assert latest.first_scene(seed=19) + 10_000 <= FIRST_SCENE


def test_arms_have_names_of_their_own():
    assert len({arm.name for arm in ARMS}) == len(ARMS)
