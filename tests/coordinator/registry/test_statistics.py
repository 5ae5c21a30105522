"""The federation's normalisation: when it is frozen, and what never changes afterwards."""

import json

import numpy as np
import pytest

from coordinator.config import CoordinatorConfig
from coordinator.registry.registry import Registry
from coordinator.registry.statistics import StatisticsPool, open_pool
from coordinator.rounds import Rounds, recompute, verify
from shared.adapters import digest
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.normalisation import measured, pooled
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
