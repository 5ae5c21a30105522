"""What stations report is kept: a repeated report, a lost one, a restart, a damaged file."""

import pytest

from coordinator.registry.field import FieldStore
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.messages import FieldResult


def result(version, task, labels, **counts):
    return FieldResult(version=version, task=task, labels=labels, **counts)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "field"


def test_the_last_report_of_a_station_counts_and_outlives_the_process(folder):
    store = FieldStore(folder)
    store.report("a", [result(1, "push", "11"), result(0, "push", "1")])
    store.report("b", [result(1, "push", "0", interventions=2, unsafe=1)])
    store.report("a", [result(1, "push", "110")])
    for opened in (store, FieldStore(folder)):
        assert opened.of_version(1) == {
            "a": [result(1, "push", "110")],
            "b": [result(1, "push", "0", interventions=2, unsafe=1)],
        }
        assert opened.of_version(0) == {"a": [result(0, "push", "1")]}, "what is not asked for any more stays"
        assert opened.of_version(2) == {}


def test_a_report_that_comes_again_is_no_news_and_costs_no_write(folder):
    store = FieldStore(folder)
    store.report("a", [result(1, "push", "11")])
    (folder / "a.json").unlink()
    store.report("a", [result(1, "push", "11")])
    store.report("a", [])
    assert store.changes == 1
    assert not (folder / "a.json").exists()


def test_tasks_stay_in_the_order_in_which_they_were_heard_of(folder):
    store = FieldStore(folder)
    store.report("a", [result(1, "push", "1")])
    store.report("a", [result(1, "pull", "1"), result(1, "away", "1"), result(1, "push", "10")])
    assert [told.task for told in FieldStore(folder).of_version(1)["a"]] == ["push", "pull", "away"]


def test_a_label_that_was_corrected_is_corrected_here_too(folder):
    store = FieldStore(folder)
    store.report("a", [result(1, "push", "11")])
    store.report("a", [result(1, "push", "10")])
    assert store.of_version(1)["a"][0].labels == "10"


def test_what_a_killed_process_left_half_written_is_removed_and_damage_is_named(folder):
    FieldStore(folder).report("a", [result(1, "push", "1")])
    (folder / ".inprogress-b.json").write_text("{")
    store = FieldStore(folder)
    assert store.removed == [".inprogress-b.json"]
    assert list(store.of_version(1)) == ["a"]
    (folder / "a.json").write_text("{")
    with pytest.raises(ArmfleetError, match="can't be read") as caught:
        FieldStore(folder)
    assert caught.value.code == ExitCode.REGISTRY_DAMAGED
