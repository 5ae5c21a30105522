"""Arms end to end on the tiny base: a killed run ends as one that was not, and what stations send."""

from pathlib import Path

import numpy as np
import pytest

from agent.training.loop import Loop
from benchmarks.learning import runner as runner_module
from benchmarks.learning.arms import ASYNC, BASE
from benchmarks.learning.clock import NEVER_S
from benchmarks.learning.demonstrations import Demonstrations
from benchmarks.learning.plan import Arm, Scale, Shown, Station
from benchmarks.learning.results import read_results
from benchmarks.learning.runner import Run, versions_to_look_at
from benchmarks.learning.updates import StationUpdates
from coordinator.config import AggregationSection
from shared.policy.initial import initial_adapter

SCALE = Scale(scenes=1, curve_scenes=1)
RECIPE = ASYNC.recipe.model_copy(update={"rank": 2, "alpha": 4, "batch": 4, "draws": 1, "steps": 2})

INT4 = RECIPE.model_copy(update={"codec": "int4-zstd"})


class Killed(BaseException):
    """Stands in for SIGKILL: nothing of the run goes on after it."""


def station(name: str, source: int, **fields: object) -> Station:
    shown = (Shown(verb="push_left", color="red", demonstrations=1, source=source),)
    return Station(name=name, shown=shown, **fields)


TWO = (station("quick", 0, speed=8), station("slow", 1))


def small(**changes: object) -> Arm:
    fields = {
        "stations": TWO,
        "recipe": RECIPE,
        "aggregation": AggregationSection(buffer_size=1),
        "steps": 10,
        "tasks": FEW,
        "curve": 2,
    }
    return ASYNC.model_copy(update=fields | changes)


FEW = ASYNC.tasks[:1]


@pytest.fixture(scope="module")
def evaluator(tiny_base: Path):
    from coordinator.evaluation.lockstep import Evaluator

    return Evaluator(tiny_base)


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once for all runs of this file."""
    folder = tmp_path_factory.mktemp("run") / "demonstrations"
    for each in TWO:
        Demonstrations(folder, 0).split(each)
    return folder


@pytest.fixture
def run(tiny_base: Path, evaluator, demonstrations: Path):
    def make(arm: Arm, folder: Path):
        folder.mkdir(exist_ok=True)
        if not (folder / "demonstrations").exists():
            (folder / "demonstrations").symlink_to(demonstrations)
        return Run(arm, 0, folder, SCALE, evaluator, tiny_base)

    return make


def test_a_killed_run_goes_on_to_the_same_result(run, tmp_path, monkeypatch):
    versions: dict[str, list[dict]] = {}
    make_version = runner_module.make_version

    def kept(folder):
        def make(*arguments):
            made = make_version(*arguments)
            versions.setdefault(folder, []).append(made.tensors)
            return made

        return make

    monkeypatch.setattr(runner_module, "make_version", kept("whole"))
    whole = run(small(), tmp_path / "whole").result()
    assert (whole.steps, whole.versions, whole.left) == (10, 5, 0)
    assert max(whole.staleness) > 0
    assert [point.version for point in whole.curve] == [2, 5]
    assert set(whole.outcomes["push_left_red"]) <= {"0", "1"}

    step, done = Loop.step, []

    def killed_sometimes(*arguments):
        done.append(1)
        if len(done) in (4, 7):
            raise Killed
        return step(*arguments)

    monkeypatch.setattr(Loop, "step", killed_sometimes)
    for _ in range(2):
        with pytest.raises(Killed):
            run(small(), tmp_path / "killed").result()
    monkeypatch.setattr(runner_module, "make_version", kept("killed"))
    again = run(small(), tmp_path / "killed").result()
    assert again == whole
    assert len(done) == 10 + 2 + 1  # what was killed in its second step is trained from its first
    for a, b in zip(versions["whole"][:5], versions["killed"], strict=True):
        assert all(np.array_equal(a[name], b[name]) for name in a)
    assert read_results(tmp_path / "killed", [small()], SCALE) == {"async": [again]}
    assert not list((tmp_path / "killed" / "work").iterdir())


def exact_residual() -> Arm:
    """Two synchronous rounds of two stations, nothing rounded by a codec."""
    fedavg = {"max_wait_s": NEVER_S, "server_optimiser": "none", "server_learning_rate": 1.0}
    settings = AggregationSection(buffer_size=len(TWO), **fedavg)
    changes = {"mode": "sync", "aggregation": settings, "steps": 8, "exact": True, "add_residual": True}
    return small(**changes)


@pytest.fixture
def frozen(evaluator, monkeypatch):
    """What a weight under the adapter was in every step of a trainer, and in every evaluation."""
    name = "model.vlm_with_expert.lm_expert.layers.0.self_attn.v_proj"
    seen: dict[str, list[np.ndarray]] = {"step": [], "evaluation": []}

    def weight(policy):
        return policy.get_submodule(name).base_layer.weight.detach().numpy().copy()

    step, evaluate = Loop.step, evaluator.evaluate_loaded

    def seen_step(loop, *arguments):
        seen["step"].append(weight(loop._policy))
        return step(loop, *arguments)

    def seen_evaluation(*arguments):
        seen["evaluation"].append(weight(evaluator.chunker.policy))
        return evaluate(*arguments)

    monkeypatch.setattr(Loop, "step", seen_step)
    monkeypatch.setattr(evaluator, "evaluate_loaded", seen_evaluation)
    seen["name"], seen["own"] = name, lambda: weight(evaluator.chunker.policy)
    return seen


def lacking(made: list, name: str, parents: list[dict]) -> np.ndarray:
    """What the versions that were made lack against the mean of their products, written out."""
    a, b = (f"base_model.model.{name}.lora_{factor}.weight" for factor in "AB")

    def product(*parts):
        first, second = (sum(part[factor].astype(np.float64) for part in parts) for factor in (b, a))
        return first @ second

    total = 0.0
    for (version, inputs), parent in zip(made, parents, strict=True):
        total += np.mean([product(parent, item.read()) for item in inputs], axis=0) - product(version)
    return RECIPE.alpha / RECIPE.rank * total


def test_stations_train_and_are_evaluated_on_what_the_mean_lacks(run, frozen, tmp_path, monkeypatch):
    made, make_version = [], runner_module.make_version

    def kept(*arguments):
        result = make_version(*arguments)
        made.append((result.tensors, arguments[3]))
        return result

    monkeypatch.setattr(runner_module, "make_version", kept)
    result = run(exact_residual(), tmp_path).result()
    assert (result.steps, result.versions, len(frozen["step"])) == (8, 2, 8)
    assert result.plan["arm"]["add_residual"] is True
    own, name = frozen["own"](), frozen["name"]
    parents = [made[0][1][0].read_base(), made[0][0]]
    gains = [lacking(made[:count], name, parents[:count]) for count in (1, 2)]
    first_round, second_round = frozen["step"][:4], frozen["step"][4:]
    after_first, *after_second = frozen["evaluation"]
    assert all(np.array_equal(weight, own) for weight in first_round)
    for gain, weights in zip(gains, ([*second_round, after_first], after_second), strict=True):
        assert np.abs(gain).max() > 1e-6
        for weight in weights:
            np.testing.assert_allclose(weight.astype(np.float64) - own, gain, atol=2e-8)


def test_a_killed_run_with_the_residual_goes_on_to_the_same_versions(run, tmp_path, monkeypatch):
    made, make_version, step = [], runner_module.make_version, Loop.step

    def kept(*arguments):
        made.append(make_version(*arguments))
        return made[-1]

    monkeypatch.setattr(runner_module, "make_version", kept)
    whole = run(exact_residual(), tmp_path / "whole").result()
    run(exact_residual().model_copy(update={"add_residual": False}), tmp_path / "plain").result()
    done = []

    def killed(*arguments):
        done.append(1)
        if len(done) == 6:
            raise Killed
        return step(*arguments)

    monkeypatch.setattr(Loop, "step", killed)
    with pytest.raises(Killed):
        run(exact_residual(), tmp_path / "killed").result()
    assert run(exact_residual(), tmp_path / "killed").result() == whole
    first, last, plain_first, plain_last, _, again_first, again_last = (each.tensors for each in made)
    for one, other in [(first, again_first), (last, again_last), (first, plain_first)]:
        assert all(np.array_equal(one[name], other[name]) for name in one)
    assert any(not np.array_equal(last[name], plain_last[name]) for name in last)


def test_the_base_alone_is_only_evaluated(run, tmp_path):
    result = run(BASE.model_copy(update={"tasks": FEW}), tmp_path).result()
    assert (result.steps, result.versions, result.updates, result.bytes_sent) == (0, 0, {}, 0)
    assert len(result.outcomes["push_left_red"]) == SCALE.scenes


@pytest.fixture
def sends(tiny_base, demonstrations, tmp_path):
    """What a station's first updates are, for an arm and a station."""

    def first(count: int = 1, poison: float | None = None, **changes: object):
        arm, plan = small(**changes), TWO[0].model_copy(update={"poison": poison})
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        split = Demonstrations(demonstrations, 0).split(plan)
        updates = StationUpdates(arm, plan, arm.recipe, tiny_base, split, folder)
        tensors, _ = initial_adapter(tiny_base, arm.recipe)
        deltas = [updates.update(number, tensors, number, 2e-3)[0] for number in range(count)]
        return np.concatenate([deltas[-1][name].ravel() for name in sorted(tensors)]), updates

    return first


def test_without_a_codec_nothing_is_rounded(sends):
    (exact, _), (coded, updates) = sends(exact=True), sends()
    assert not np.array_equal(exact, coded)
    np.testing.assert_allclose(coded, exact, rtol=2**-11, atol=2**-25)
    assert 0 < updates.bytes_sent < 2 * coded.size + 10_000


def test_updates_go_through_the_recipes_codec(sends):
    (fine, many), (coarse, few) = sends(), sends(recipe=INT4)
    assert 0 < np.linalg.norm(coarse - fine) < 0.2 * np.linalg.norm(fine)
    assert few.bytes_sent < 0.6 * many.bytes_sent


@pytest.mark.parametrize(("recipe", "loss"), [(RECIPE, 1e-3), (INT4, 0.2)])
def test_a_poisoned_station_sends_the_opposite(sends, recipe, loss):
    honest, _ = sends(exact=True)
    poisoned, _ = sends(poison=-10.0, recipe=recipe)
    assert np.linalg.norm(poisoned + 10 * honest) < loss * np.linalg.norm(10 * honest)


def test_demonstrations_are_made_once_and_from_scenes_of_their_own(demonstrations, monkeypatch):
    monkeypatch.setattr("benchmarks.learning.demonstrations.record", lambda *_: pytest.fail("made again"))
    one, other = (Demonstrations(demonstrations, 0).split(each) for each in TWO)
    assert one.train[0].digest != other.train[0].digest
    frames = one.train[0].frames()["front"]
    assert frames.shape == (len(one.train[0]), 96, 96, 3)
    assert frames.dtype == np.uint8


def test_versions_along_the_way_are_evenly_spaced():
    from benchmarks.learning.clock import course

    found = course(small(steps=40))
    assert versions_to_look_at(found, 4) == {5, 10, 15, 20}
    assert versions_to_look_at(found, 100) == set(range(1, 21))
    assert versions_to_look_at(found, 0) == set()
