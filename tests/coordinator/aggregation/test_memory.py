"""Which updates of absent stations a round counts once more."""

from hypothesis import given
from hypothesis import strategies as st

from coordinator.aggregation.memory import remembered
from shared.adapters import Contribution


def part(node, number):
    return Contribution(update_id=f"{node}-{number}", node=node, weight=0.5, staleness=0)


RECENT = [[part("a", 3), part("c", 9)], [part("b", 2), part("b", 1), part("a", 2)], [part("b", 0)]]


def test_of_an_absent_station_the_newest_version_that_has_any_counts_with_all_its_updates():
    assert remembered(RECENT, {"a"}) == ["b-1", "b-2", "c-9"]


def test_of_stations_that_are_present_nothing_is_remembered():
    assert remembered(RECENT, {"a", "b", "c"}) == []
    assert remembered([], set()) == []


@given(
    st.lists(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 99)), max_size=5), max_size=6),
    st.sets(st.sampled_from("abcd")),
)
def test_each_absent_station_is_remembered_by_one_version_alone(drawn, present):
    recent = [[part(node, f"{place}-{n}") for node, n in version] for place, version in enumerate(drawn)]
    found = remembered(recent, present)
    assert found == sorted(found)
    names = {(update_id.split("-")[0], update_id.split("-")[1]) for update_id in found}
    nodes = [node for node, _ in names]
    assert sorted(nodes) == sorted({p.node for version in recent for p in version} - present)
    for node, place in names:
        assert not any(p.node == node for version in recent[: int(place)] for p in version)
