"""What stations measured of a version: one vote each, kept over a restart, shown beside the rest."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.evaluation.station_measures import StationMean, Told, means_over_stations
from coordinator.registry.registry import Registry
from coordinator.registry.versions import Evaluation
from coordinator.status import Reporter
from shared.tasks import metric_name

PUSH, PULL = "push the yellow cube to the left", "pull the blue cube back"
VALUES = st.floats(0, 10)


def metrics(**tasks: tuple[float, float]) -> dict[str, float]:
    """As a header says them; keys are `push` and `pull`."""
    sentences = {"push": PUSH, "pull": PULL}
    return {
        metric_name(prefix, sentences[task]): value
        for task, pair in tasks.items()
        for prefix, value in zip(("start_loss_", "start_mse_"), pair, strict=True)
    }


def test_a_station_has_one_vote_its_newest() -> None:
    told = [
        Told("a", metrics(push=(9.0, 9.0)), [PUSH]),
        Told("b", metrics(push=(3.0, 5.0), pull=(4.0, 6.0)), []),
        Told("a", metrics(push=(1.0, 2.0)), []),
        Told("a", {"gradient_norm": 1.0}, []),
    ]
    assert means_over_stations(told) == [
        StationMean(PULL, 4.0, 6.0, 1),
        StationMean(PUSH, 2.0, 3.5, 2),
    ]


@given(st.lists(st.tuples(st.sampled_from("abc"), VALUES, VALUES)))
@settings(deadline=None)
def test_a_mean_lies_among_the_newest_votes(votes) -> None:
    told = [Told(node, metrics(pull=(loss, mse)), [PULL]) for node, loss, mse in votes]
    newest = {node: (loss, mse) for node, loss, mse in votes}
    means = means_over_stations(told)
    assert [mean.stations for mean in means] == ([len(newest)] if newest else [])
    for mean in means:
        assert min(v[0] for v in newest.values()) <= mean.loss * (1 + 1e-9) + 1e-9
        assert max(v[1] for v in newest.values()) >= mean.action_mse * (1 - 1e-9) - 1e-9


def test_a_task_that_lacks_one_number_is_left_out() -> None:
    assert means_over_stations([Told("a", {"start_loss_pull": 1.0, "start_loss": 1.0}, [])]) == []


@pytest.fixture
def shown(fleet, make_update):
    """The versions of a fleet whose stations told of version 0, as the coordinator shows them after a
    restart."""

    def show(settings=None):
        registry = Registry(fleet.state)
        report = Reporter(settings or fleet, None, registry, None, None, None, None, None)
        versions = report.versions()
        registry.close()
        return versions

    registry = Registry(fleet.state)
    registry.accept(*make_update("arm-a", metrics=metrics(push=(1.0, 2.0)), losses={PUSH: 1.0}))
    registry.accept(*make_update("arm-b", metrics=metrics(push=(3.0, 4.0))))
    registry.refuse(make_update("arm-c", metrics=metrics(push=(100.0, 100.0)))[0], "it does not fit")
    evaluation = Evaluation(
        known={"push_left_red": [1, 1, 1, 0], "pull_blue": [1, 0, 1, 1]},
        unseen={"push_left_blue": [1, 1, 0, 0], "push_left_green": [1, 1, 1, 1]},
        seeds=[1, 2, 3, 4],
        seconds=1.0,
        finished=datetime(2026, 1, 1, tzinfo=UTC),
    )
    registry.record_evaluation(0, evaluation)
    registry.close()
    return show


def test_the_coordinator_shows_what_accepted_updates_told(shown) -> None:
    (version,) = shown()
    assert version["at_stations"] == [{"task": PUSH, "loss": 2.0, "action_mse": 3.0, "stations": 2}]


def test_success_in_simulation_has_its_interval_and_says_what_is_new(fleet, shown) -> None:
    recipe = fleet.recipe.model_copy(update={"never_train": ("Push the blue cube to the left.",)})
    evaluation = shown(fleet.model_copy(update={"recipe": recipe}))[0]["evaluation"]
    low, high = evaluation["known"]["push_left_red"]["wilson"]
    assert 0.30 < low < 0.75 < high < 0.96
    kinds = {task: counts["kind"] for task, counts in evaluation["unseen"].items()}
    assert kinds == {"push_left_blue": "unseen combination", "push_left_green": "unseen"}
    assert evaluation["generalisation"]["score"] == pytest.approx(1.0)


def test_a_task_that_stations_may_train_on_does_not_count_as_unseen(shown) -> None:
    """The fleet's recipe keeps nothing from training."""
    evaluation = shown()[0]["evaluation"]
    assert evaluation["unseen"]["push_left_blue"]["kind"] == "may train"
    assert evaluation["generalisation"]["score"] == pytest.approx(4 / 3), "of push_left_green alone"
