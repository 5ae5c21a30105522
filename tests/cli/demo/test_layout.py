"""The demo's folder: every template loads in its room, and nobody else's folder is emptied."""

import json
from itertools import combinations

import pytest

from agent.config import load_agent_config
from cli.demo.layout import make_layout
from cli.demo.plan import LEFT, RIGHT, STATIONS, UNSEEN, Plan, plan
from cli.demo.tap import TapConfig
from coordinator.config import load as load_coordinator_config
from shared.config import load_config
from shared.errors import ArmfleetError
from sim.tasks import Task


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


def test_all_templates_load(folder):
    layout = make_layout(Plan(seed=3), folder)
    for station in layout.stations:
        config = load_agent_config(station.config)
        assert config.node.socket == station.socket
        assert config.training.enabled == (station.plan.task is not None)
    assert load_agent_config(layout.stations[1].config).training.duty_cycle == 0.25
    coordinator = load_coordinator_config(layout.coordinator_config)
    assert [task.verb for task in coordinator.evaluation.tasks] == ["push_left", "push_right"]
    assert coordinator.evaluation.seed0 == 3_500_000
    assert load_config(layout.tap / "tap.toml", TapConfig).folder == layout.tap


def test_the_virtual_workstations_load(folder):
    pytest.importorskip("mujoco", reason="the `sim` extra is not installed")
    from sim.workstation import WorkstationConfig

    layout = make_layout(Plan(), folder)
    seeds = {load_config(each.sim_config, WorkstationConfig).canary.seed for each in layout.stations}
    assert len(seeds) == 3


def test_ports_and_sockets_differ(folder):
    layout = make_layout(Plan(), folder)
    ports = [layout.superlink_port, layout.public_port, layout.fleet_tap_port]
    ports += [port for each in layout.stations for port in (each.camera_port, each.supernode_port)]
    assert len(set(ports)) == 9
    assert set(json.loads((folder / "demo.json").read_text())["agents"]) == {"a", "b", "c"}


def test_a_demo_s_folder_is_emptied_and_no_other(folder):
    make_layout(Plan(), folder)
    (folder / "old").write_text("x")
    make_layout(Plan(), folder)
    assert not (folder / "old").exists()

    other = folder.parent / "photos"
    other.mkdir()
    (other / "holiday.jpg").write_text("x")
    with pytest.raises(ArmfleetError, match="no demo made it"):
        make_layout(Plan(), other)
    assert (other / "holiday.jpg").exists()


def test_a_path_too_long_for_sockets_is_refused(tmp_path):
    with pytest.raises(ArmfleetError, match="too long a path"):
        make_layout(Plan(), tmp_path / ("x" * 90))


def test_seeds_never_overlap():
    full = Plan(seed=1)
    taught = {full.demonstration_seed(s.name, i) for s in STATIONS for i in range(60)}
    tried = {full.rollout_seed(s.name, i) for s in STATIONS for i in range(40)}
    judged = set(range(full.evaluation_seed0, full.evaluation_seed0 + 100))
    other = {Plan(seed=2).rollout_seed(s.name, i) for s in STATIONS for i in range(40)}
    assert all(a.isdisjoint(b) for a, b in combinations((taught, tried, judged, other), 2))


def test_the_sentences_are_the_simulator_s():
    assert all(Task(each.verb, each.color).text == each.text for each in (LEFT, RIGHT, UNSEEN))


def test_a_plan_without_sense_is_refused():
    assert len(plan(stations=2).stations) == 2
    assert plan(small=True, rounds=3).rounds == 3
    with pytest.raises(ArmfleetError, match="2 or 3 stations"):
        plan(stations=1)
