"""The federation's normalisation: when it is frozen, and what never changes afterwards."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.config import CoordinatorConfig
from coordinator.registry.registry import Registry
from coordinator.registry.statistics import StatisticsPool, counted, open_pool
from coordinator.rounds import Rounds, recompute, verify
from shared.adapters import digest
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.normalisation import MIN_FRAMES, MOST_FRAMES, Moments, Statistics, measured, pooled
from shared.policy import source
from tests.coordinator.conftest import BASE


def report(seed):
    rng = np.random.default_rng(seed)
    return measured(rng.normal(seed, 20, (100 + seed, 6)), rng.normal(-seed, 20, (100 + seed, 6)))


class Silent:
    """A publisher that signs nothing."""

    def publish(self, offers):
        return False


@pytest.fixture
def registry(fleet):
    opened = Registry(fleet.state)
    yield opened
    opened.close()


@pytest.fixture
def pooling(fleet, tmp_path):
    """The fleet's configuration with pooled statistics of two stations, over a base that allows it."""
    base = tmp_path / "base"
    base.mkdir()
    for name in (source.CONFIG, source.WEIGHTS):
        (base / name).write_text("{}")
    step = {"config": {"norm_map": {"STATE": "MEAN_STD", "ACTION": "MEAN_STD"}}}
    for name, kind in zip(source.PROCESSORS, source.NORMALISERS, strict=True):
        (base / f"{name}.json").write_text(json.dumps({"steps": [{"registry_name": kind, **step}]}))
    changes = {"policy": {"base": str(base)}, "normalisation": {"source": "pooled", "stations": 2}}
    return CoordinatorConfig.model_validate({**fleet.model_dump(), **changes})


def test_it_waits_for_as_many_stations_as_were_asked_for(tmp_path):
    pool = StatisticsPool(tmp_path, BASE, 3)
    assert pool.sentence == "waiting for normalisation statistics of 3 more stations"
    for _ in range(5):
        pool.report("arm-a", report(1))
    pool.report("arm-b", report(2))
    assert pool.frozen is None
    assert pool.sentence == "waiting for normalisation statistics of 1 more station"
    pool.report("arm-c", report(3))
    assert pool.frozen.stations == {"arm-a": 101, "arm-b": 102, "arm-c": 103}
    assert pool.frozen.statistics == pooled([report(1), report(2), report(3)])


def test_the_order_in_which_stations_report_does_not_matter(tmp_path):
    frozen = []
    for order in ((1, 2), (2, 1)):
        pool = StatisticsPool(tmp_path / str(order[0]), BASE, 2)
        for number in order:
            pool.report(f"arm-{number}", report(number))
        frozen.append(pool.frozen.statistics.digest)
    assert frozen[0] == frozen[1]


def test_the_last_report_of_a_station_counts(tmp_path):
    pool = StatisticsPool(tmp_path, BASE, 2)
    for number in (1, 2):
        pool.report("arm-a", report(number))
    pool.report("arm-b", report(3))
    assert pool.frozen.statistics == pooled([report(2), report(3)])


def test_what_is_frozen_survives_a_restart_and_never_changes(tmp_path):
    pool = StatisticsPool(tmp_path, BASE, 1)
    pool.report("arm-a", report(1))
    again = StatisticsPool(tmp_path, BASE, 5)
    assert (again.frozen, again.missing) == (pool.frozen, 0)
    again.report("arm-b", report(2))
    assert StatisticsPool(tmp_path, BASE, 5).frozen == pool.frozen


def test_another_base_starts_anew(tmp_path):
    StatisticsPool(tmp_path, BASE, 1).report("arm-a", report(1))
    other = StatisticsPool(tmp_path, "f" * 64, 1)
    assert other.frozen is None
    other.report("arm-b", report(2))
    assert StatisticsPool(tmp_path, BASE, 1).frozen.stations == {"arm-a": 101}


def test_a_report_that_could_not_be_written_is_asked_for_again(tmp_path):
    pool = StatisticsPool(tmp_path, BASE, 1)
    (tmp_path / "normalisation").write_text("in the way")
    with pytest.raises(OSError, match="exists"):
        pool.report("arm-a", report(1))
    assert (pool.frozen, pool.missing) == (None, 1)


def test_a_damaged_file_is_not_taken_for_none(tmp_path):
    StatisticsPool(tmp_path, BASE, 1).report("arm-a", report(1))
    next((tmp_path / "normalisation").iterdir()).write_text("{")
    with pytest.raises(ArmfleetError) as caught:
        StatisticsPool(tmp_path, BASE, 1)
    assert caught.value.code is ExitCode.REGISTRY_DAMAGED


def test_frozen_statistics_become_a_version_once_and_all_later_ones_have_them(
    pooling, registry, tensors, make_update
):
    pool = open_pool(pooling, registry, BASE)
    rounds = Rounds(pooling, registry, Silent(), pool=pool)
    assert rounds.run_if_due() is None
    for number in (1, 2):
        pool.report(f"arm-{number}", report(number))
    assert rounds.run_if_due() == registry.first() == 1
    assert rounds.run_if_due() is None
    made, _ = registry.versions.adapter(1)
    assert digest(made) == digest(tensors)
    for seed, node in enumerate(("arm-a", "arm-b")):
        registry.accept(*make_update(node, 1, seed=seed))
    assert rounds.run_if_due() == 2
    assert registry.first() == 1
    manifests = [registry.versions.manifest(number) for number in range(3)]
    assert [each.normalisation for each in manifests] == [None, *[pool.frozen.statistics] * 2]
    assert [each.parent for each in manifests] == [None, None, 1]
    assert verify(registry, 2)
    with pytest.raises(ArmfleetError, match="was not made from updates"):
        recompute(registry, 1)


def test_a_kill_between_freezing_and_the_version_is_made_good(pooling, registry):
    StatisticsPool(pooling.state, BASE, 1).report("arm-a", report(1))
    pool = open_pool(pooling, registry, BASE)
    assert Rounds(pooling, registry, Silent(), pool=pool).run_if_due() == 1
    assert registry.versions.manifest(1).normalisation == report(1)


def test_no_round_mixes_the_base_s_normalisation_with_the_fleet_s(pooling, registry, make_update):
    """Updates that waited when the operator changed to `pooled` make no round, though they are enough."""
    for seed, node in enumerate(("arm-a", "arm-b")):
        registry.accept(*make_update(node, 0, seed=seed))
    pool = open_pool(pooling, registry, BASE)
    rounds = Rounds(pooling, registry, Silent(), pool=pool)
    assert rounds.run_if_due() is None
    assert rounds.outlook() == "waiting for normalisation statistics of 2 more stations"
    for number in (1, 2):
        pool.report(f"arm-{number}", report(number))
    assert rounds.run_if_due() == 1
    assert (rounds.run_if_due(), registry.waiting()) == (None, [])
    aside = [row.refused for row in registry.index.set_aside()]
    assert len(aside) == 2
    assert all("from version 0, whose normalisation is the base's own" in why for why in aside)
    made = [make_update(node, 1, seed=seed) for seed, node in enumerate(("arm-a", "arm-b"))]
    for update in made:
        registry.accept(*update)
    assert rounds.run_if_due() == 2
    parts = registry.versions.manifest(2).contributions
    assert {part.update_id for part in parts} == {header.id for header, _ in made}
    assert verify(registry, 2)


def claimed(frames, mean=0.0, deviation=20.0):
    moments = Moments(count=frames, mean=(mean,) * 6, m2=(frames * deviation**2,) * 6)
    return Statistics(state=moments, action=moments)


@pytest.mark.parametrize("lie", [10**9, 10**9 - 20_000])
def test_no_station_can_claim_the_pool_or_stop_it(tmp_path, lie):
    pool = StatisticsPool(tmp_path, BASE, 3)
    for station, told in (("arm-a", claimed(5000)), ("liar", claimed(lie, 900.0)), ("arm-b", claimed(5000))):
        pool.report(station, told)
    assert pool.frozen.statistics.state.count == pool.frozen.statistics.action.count == 20_000
    assert pool.frozen.statistics.state.mean == (450.0,) * 6
    assert pool.frozen.stations == {"arm-a": 5000, "arm-b": 5000, "liar": lie}
    assert f"20000 frames (of {lie + 10_000} reported) of arm-a" in pool.sentence


reports = st.builds(claimed, st.integers(MIN_FRAMES, MOST_FRAMES), st.floats(-999, 999), st.floats(0, 40))


@settings(deadline=None)
@given(st.lists(reports, min_size=1, max_size=6))
def test_whatever_is_believed_can_be_pooled_and_of_three_none_is_most_of_it(told):
    believed = [each for each in told if each.state.believable]
    if believed:
        parts = counted(believed)
        pool = pooled(parts)
        assert pool.state.believable or max(np.abs(pool.state.mean)) > 990, "up to rounding"
        if len(parts) > 2:
            assert 2 * max(part.state.count for part in parts) <= pool.state.count
        for part, whole in zip(parts, believed, strict=True):
            np.testing.assert_allclose(part.state.std, whole.state.std, rtol=1e-5)


def test_statistics_that_no_values_have_are_not_counted(tmp_path):
    pool = StatisticsPool(tmp_path, BASE, 1)
    with pytest.raises(ArmfleetError, match="arm-a reported statistics that no recordings have"):
        pool.report("arm-a", claimed(100, deviation=3e6))
    assert (pool.frozen, pool.missing) == (None, 1)
    pool.report("arm-a", report(1))
    assert pool.frozen.statistics == report(1)


def test_the_source_cannot_change_once_versions_were_made_with_one(fleet, pooling, registry, make_update):
    assert open_pool(fleet, registry, BASE) is None
    for seed, node in enumerate(("arm-a", "arm-b")):
        registry.accept(*make_update(node, 0, seed=seed))
    assert Rounds(fleet, registry, Silent()).run_if_due() == 1
    with pytest.raises(ArmfleetError, match="version 1 was trained with the base's own"):
        open_pool(pooling, registry, BASE)
    registry.begin_anew(report(1))
    with pytest.raises(ArmfleetError, match="version 2 has pooled statistics"):
        open_pool(fleet, registry, BASE)


def test_a_base_that_normalises_otherwise_is_refused_before_anything_is_pooled(pooling, registry, tmp_path):
    file = tmp_path / "base/policy_postprocessor.json"
    file.write_text(file.read_text().replace('"ACTION": "MEAN_STD"', '"ACTION": "QUANTILES"'))
    with pytest.raises(ArmfleetError, match="normalises by MEAN_STD, QUANTILES"):
        open_pool(pooling, registry, BASE)


def test_pooling_needs_a_number_of_stations(config):
    with pytest.raises(ValueError, match="how many must have reported"):
        CoordinatorConfig.model_validate({**config.model_dump(), "normalisation": {"source": "pooled"}})
