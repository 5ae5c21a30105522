"""Updates: exact resumption, kept moments, throttling, and what is refused."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agent.training import trainer as trainer_module
from agent.training.checkpoint import load_checkpoint
from agent.training.data import Episode, Frames, Split
from agent.training.update import MAX_METRICS, Update, losses_of, metrics_of, write_update
from shared.adapters import Tensors, digest
from shared.codec import decode
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.files import sha256
from shared.messages import UpdateHeader
from shared.normalisation import Statistics, measured
from shared.policy.initial import initial_adapter
from shared.recipe import Recipe
from shared.tasks import told_task
from tests.agent.training.conftest import TASKS, make_episode
from tests.agent.training.records import made_record, repeatable


class Killed(BaseException):
    """Stands in for SIGKILL: nothing of the trainer runs after it."""


@pytest.fixture
def tensors(tiny_base: Path, recipe: Recipe) -> Tensors:
    return initial_adapter(tiny_base, recipe)[0]


@pytest.fixture
def fixed_id(monkeypatch: pytest.MonkeyPatch) -> None:
    class Uuid:
        hex = "0" * 32

    monkeypatch.setattr(trainer_module.uuid, "uuid4", Uuid)


def test_an_update_is_what_its_header_says(
    trainer: Callable, tensors: Tensors, recipe: Recipe, tmp_path: Path
) -> None:
    steps: list[tuple[int, int, float]] = []
    update = trainer(tmp_path).train(tensors, 3, recipe, 2e-3, on_step=lambda *s: steps.append(s))
    header = update.header
    assert (header.node, header.base_version, header.steps, header.examples) == ("station-a", 3, 5, 80)
    assert header.sha256 == sha256(update.delta)
    assert header.calibrations == ["c" * 64]
    assert set(header.losses) == {"push the red cube to the left", "push the green cube to the right"}
    assert header.metrics["eval_loss_push_the_red_cube_to_the_left"] == header.metrics["eval_loss"]
    assert header.metrics["action_mse_push_the_red_cube_to_the_left"] == header.metrics["action_mse"] > 0
    assert 0 < header.metrics["gradient_norm"] < header.metrics["gradient_norm_max"]
    assert header.metrics["trainable_parameters"] == sum(array.size for array in tensors.values())
    assert header.metrics["peak_memory_bytes"] > 100e6, "torch alone takes more"
    assert header.metrics["learning_rate"] == 2e-3
    assert "energy_joules" not in header.metrics, "a processor tells none"
    assert header.recipe == update.record.recipe == recipe.digest
    assert header.base_tensors_digest == digest(tensors), "as the manifest of version 3 has it"
    assert [step for step, _, _ in steps] == [1, 2, 3, 4, 5]
    delta = decode(update.delta, tensors, header.codec)
    assert all(np.abs(array).max() > 0 for array in delta.values())
    assert json.dumps(header.model_dump(mode="json"))


def test_the_record_is_what_the_header_says_with_whole_names(
    trainer: Callable, tensors: Tensors, recipe: Recipe, tmp_path: Path
) -> None:
    trained = trainer(tmp_path)
    trained.train(tensors, 3, recipe, 2e-3)
    update = trained.train(tensors, 4, recipe, 1e-3)
    record = update.record
    assert (record.update, record.version, record.steps) == (update.header.id, 4, 5)
    assert (record.total_steps, record.learning_rate) == (10, 1e-3)
    assert update.header.losses == pytest.approx(record.train_loss, rel=1e-3)
    assert record.eval_loss == {TASKS[0]: pytest.approx(update.header.metrics["eval_loss"], rel=1e-3)}
    said = {name: update.header.metrics[name] for name in record.scalars}
    assert said == pytest.approx(record.scalars, rel=1e-3)


def test_an_update_is_never_lost_over_its_tasks(
    trainer: Callable, tensors: Tensors, recipe: Recipe, tmp_path: Path
) -> None:
    """What can't be imported today may lie in a store since long."""
    tasks = ["Grab the cube (red)!", "pick & place", "?", "grab\x1b[2J it", "push " * 40]
    split = Split(tuple(make_episode(n, task) for n, task in enumerate(tasks)), ())
    update = trainer(tmp_path, episodes=split).train(tensors, 0, recipe.model_copy(update={"steps": 2}), 2e-3)
    assert set(update.record.train_loss) <= set(tasks)
    sent = UpdateHeader.model_validate_json(update.header.model_dump_json())
    assert set(sent.losses) == {told for task in update.record.train_loss if (told := told_task(task))}


def test_more_tasks_than_a_header_takes_and_losses_that_overflowed_are_left_out() -> None:
    losses = losses_of(made_record(train_loss={"a": math.inf} | {f"task {n}": 0.5 for n in range(70)}))
    assert list(losses) == [f"task {n}" for n in range(64)]


def test_no_number_that_is_sent_has_the_digits_of_a_recorded_joint_in_full() -> None:
    """10 steps in 0.91 s are 10.98901… per second, and so many units is where some joint was, too."""
    sent = metrics_of(made_record(steps=10, seconds=0.91))
    assert sent["steps_per_second"] == 10.99
    assert sent["trainable_parameters"] == 1000


def test_what_trains_is_written_beside_the_checkpoint(
    trainer: Callable, tensors: Tensors, recipe: Recipe, tmp_path: Path
) -> None:
    trainer(tmp_path).train(tensors, 0, recipe, 2e-3)
    described = json.loads((tmp_path / "trainable_params.json").read_text())
    shapes = {name: tuple(each["shape"]) for name, each in described["tensors"].items()}
    assert shapes == {name: array.shape for name, array in tensors.items()}
    assert described["trainable"] == sum(each["count"] for each in described["tensors"].values())
    assert described["share"] == described["trainable"] / described["total"] < 0.5


def test_what_a_trainer_killed_in_a_write_left_is_removed(trainer: Callable, tmp_path: Path) -> None:
    left = [
        tmp_path / ".inprogress-checkpoint.safetensors.77",
        tmp_path / "features" / ".inprogress-a.safetensors.77",
    ]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half of it")
    trainer(tmp_path)
    assert not any(path.exists() for path in left)


def test_training_lowers_the_loss(
    trainer: Callable, tensors: Tensors, recipe: Recipe, tmp_path: Path
) -> None:
    losses: list[float] = []
    long = recipe.model_copy(update={"steps": 60})
    trainer(tmp_path).train(tensors, 0, long, 5e-3, on_step=lambda _s, _n, loss: losses.append(loss))
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


@pytest.mark.parametrize(("kill_at", "cache_gb"), [(0, 20), (1, 20), (3, 20), (5, 20), (3, 0)])
@pytest.mark.usefixtures("fixed_id")
def test_resumed_update_is_bitwise_the_uninterrupted_one(
    trainer: Callable, tensors: Tensors, recipe: Recipe, tmp_path: Path, kill_at: int, cache_gb: float
) -> None:
    options = {"checkpoint_s": 0, "cache_gb": cache_gb}
    reference = trainer(tmp_path / "a", **options)
    first_reference = reference.train(tensors, 0, recipe, 2e-3)
    second_reference = reference.train(tensors, 1, recipe, 1e-3)

    def kill(step: int, _steps: int, _loss: float) -> None:
        if step == kill_at:
            raise Killed

    def deliver(_update: Update) -> None:
        raise Killed

    trainer(tmp_path / "b", **options).train(tensors, 0, recipe, 2e-3)
    with pytest.raises(Killed):
        # kill_at 0: after the last step, before delivery is on record
        trainer(tmp_path / "b", **options).train(
            tensors, 1, recipe, 1e-3, on_step=kill, deliver=deliver if kill_at == 0 else None
        )
    resumed = trainer(tmp_path / "b", **options)
    unfinished = resumed.unfinished()
    assert unfinished is not None
    assert unfinished.step == {0: 5}.get(kill_at, kill_at - 1)
    update = resumed.resume()
    assert update.delta == second_reference.delta
    assert update.header.losses == second_reference.header.losses
    assert repeatable(update) == repeatable(second_reference)
    assert update.delta != first_reference.delta
    assert resumed.unfinished() is None


def test_a_resumed_update_does_not_wait_for_episodes_it_does_not_need(
    trainer: Callable, tensors: Tensors, recipe: Recipe, split: Split, tmp_path: Path
) -> None:
    def kill(step: int, _steps: int, _loss: float) -> None:
        raise Killed

    def frames() -> Frames:
        raise AssertionError("the new episode's pictures were asked for")

    with pytest.raises(Killed):
        trainer(tmp_path, checkpoint_s=0).train(tensors, 0, recipe, 2e-3, on_step=kill)
    new = replace(split.train[0], id="000020", digest="f" * 64, frames=frames)
    more = Split((*split.train, new), split.eval)
    assert trainer(tmp_path, episodes=more).resume().header.base_version == 0


@pytest.mark.usefixtures("fixed_id")
def test_a_torn_checkpoint_starts_training_afresh(
    trainer: Callable, tensors: Tensors, recipe: Recipe, tmp_path: Path
) -> None:
    fresh = trainer(tmp_path / "a").train(tensors, 0, recipe, 2e-3)
    trainer(tmp_path / "b").train(tensors, 0, recipe, 2e-3)
    path = tmp_path / "b" / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    again = trainer(tmp_path / "b")
    assert again.unfinished() is None
    assert again.train(tensors, 0, recipe, 2e-3).delta == fresh.delta


def test_moments_are_kept_between_updates(
    trainer: Callable, tensors: Tensors, recipe: Recipe, tmp_path: Path
) -> None:
    trained = trainer(tmp_path)
    trained.train(tensors, 0, recipe, 2e-3)
    trained.train(tensors, 1, recipe, 2e-3)
    loaded = load_checkpoint(tmp_path / "checkpoint.safetensors")
    assert loaded is not None
    progress, state = loaded
    assert progress.first_step == 5
    assert {float(count) for count in state["count"].values()} == {10.0}


def test_a_recipe_whose_delay_does_not_fit_the_chunk_is_refused(
    trainer: Callable, tensors: Tensors, recipe: Recipe, tmp_path: Path
) -> None:
    with pytest.raises(ArmfleetError, match="delay of 8 actions"):
        trainer(tmp_path).train(tensors, 0, recipe.model_copy(update={"delay": 8}), 2e-3)


def test_a_recipe_of_another_shape_drops_the_moments(
    trainer: Callable, tiny_base: Path, tensors: Tensors, recipe: Recipe, tmp_path: Path
) -> None:
    trained = trainer(tmp_path)
    trained.train(tensors, 0, recipe, 2e-3)
    wider = recipe.model_copy(update={"rank": 6})
    update = trained.train(initial_adapter(tiny_base, wider)[0], 1, wider, 2e-3)
    assert update.header.steps == 5


@pytest.mark.usefixtures("fixed_id")
def test_a_new_recipe_trains_from_the_base_not_from_the_last_adapter(
    trainer: Callable, tiny_base: Path, tensors: Tensors, recipe: Recipe, tmp_path: Path
) -> None:
    narrow = recipe.model_copy(update={"modules_to_save": ("action_out_proj",)})
    version_0 = initial_adapter(tiny_base, narrow)[0]
    fresh = trainer(tmp_path / "a").train(version_0, 0, narrow, 2e-3)
    used = trainer(tmp_path / "b")
    used.train(tensors, 0, recipe.model_copy(update={"steps": 1}), 1e-2)
    (tmp_path / "b" / "checkpoint.safetensors").unlink()
    used._last = None  # forget the steps that number samples and noise
    assert used.train(version_0, 0, narrow, 2e-3).delta == fresh.delta


def test_an_update_whose_episodes_are_gone_starts_again(
    trainer: Callable, tensors: Tensors, recipe: Recipe, tmp_path: Path, split: Split
) -> None:
    def kill(step: int, _steps: int, _loss: float) -> None:
        if step == 3:
            raise Killed

    with pytest.raises(Killed):
        trainer(tmp_path, checkpoint_s=0).train(tensors, 4, recipe, 2e-3, on_step=kill)
    fewer = trainer(tmp_path, episodes=Split(split.train[:2], split.eval))
    update = fewer.resume()
    assert update.header.base_version == 4
    assert update.header.steps == recipe.steps
    assert update.header.examples == 40


def test_nothing_to_train_on_is_an_error_for_people(
    trainer: Callable, tensors: Tensors, recipe: Recipe, tmp_path: Path
) -> None:
    with pytest.raises(ArmfleetError, match="nothing to train on"):
        trainer(tmp_path, episodes=Split((), ())).train(tensors, 0, recipe, 2e-3)


def test_a_task_that_the_recipe_keeps_unseen_does_not_train(
    trainer: Callable, tensors: Tensors, recipe: Recipe, tmp_path: Path, split: Split
) -> None:
    tasks = tuple({f"{episode.task.upper()}." for episode in split.train})
    unseen = recipe.model_copy(update={"never_train": tasks})
    with pytest.raises(ArmfleetError, match="nothing to train on"):
        trainer(tmp_path).train(tensors, 0, unseen, 2e-3)


def test_a_video_that_cannot_be_decoded_does_not_stop_training(
    trainer: Callable, tensors: Tensors, recipe: Recipe, tmp_path: Path, split: Split
) -> None:
    def undecodable() -> dict:
        raise ArmfleetError("it can't be decoded", code=ExitCode.EPISODE_DAMAGED)

    def damaged(episode: Episode) -> Episode:
        return replace(episode, frames=undecodable)

    partly = Split((damaged(split.train[0]), *split.train[1:]), tuple(map(damaged, split.eval)))
    update = trainer(tmp_path / "a", episodes=partly).train(tensors, 0, recipe, 2e-3)
    assert update.header.examples == 60
    wholly = Split(tuple(map(damaged, split.train)), ())
    with pytest.raises(ArmfleetError, match="nothing to train on"):
        trainer(tmp_path / "b", episodes=wholly).train(tensors, 0, recipe, 2e-3)


def test_a_foreign_adapter_is_refused(
    trainer: Callable, tensors: Tensors, recipe: Recipe, tmp_path: Path
) -> None:
    name = next(iter(tensors))
    with pytest.raises(ArmfleetError, match="does not fit"):
        trainer(tmp_path).train({k: v for k, v in tensors.items() if k != name}, 0, recipe, 2e-3)


def test_features_are_computed_once(
    trainer: Callable, tensors: Tensors, recipe: Recipe, tmp_path: Path, split: Split
) -> None:
    trainer(tmp_path).train(tensors, 0, recipe, 2e-3)
    assert len(list((tmp_path / "features").iterdir())) == 5

    def undecodable() -> dict:
        raise AssertionError("the images were decoded again")

    blind = [
        type(e)(e.id, e.digest, e.task, e.state, e.action, undecodable) for e in (*split.train, *split.eval)
    ]
    again = trainer(tmp_path, episodes=Split(tuple(blind[:4]), tuple(blind[4:])))
    again.train(tensors, 0, recipe, 2e-3)


def test_duty_cycle_sleeps_after_each_step(
    trainer: Callable, tensors: Tensors, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(trainer_module.time, "sleep", slept.append)
    trainer(tmp_path, duty_cycle=0.25).train(tensors, 0, recipe, 2e-3)
    assert len(slept) == 5
    assert all(0 < pause <= trainer_module.MAX_PAUSE_S for pause in slept)


def test_the_outbox_holds_an_update_once(
    trainer: Callable, tensors: Tensors, recipe: Recipe, tmp_path: Path
) -> None:
    update = trainer(tmp_path / "training").train(
        tensors, 0, recipe, 2e-3, deliver=lambda u: write_update(tmp_path / "outbox", u) and None
    )
    folder = write_update(tmp_path / "outbox", update)
    assert [path.name for path in (tmp_path / "outbox").iterdir()] == [update.header.id]
    assert UpdateHeader.model_validate_json((folder / "header.json").read_text()) == update.header
    assert (folder / "delta.bin").read_bytes() == update.delta


@pytest.fixture
def own(split: Split) -> Statistics:
    """Other statistics than the base's."""
    episodes = [*split.train, *split.eval]
    return measured(*(np.concatenate([getattr(e, name) for e in episodes]) for name in ("state", "action")))


@pytest.mark.usefixtures("fixed_id")
def test_a_resumed_update_keeps_the_statistics_of_its_version(
    trainer: Callable, tensors: Tensors, recipe: Recipe, tmp_path: Path, own: Statistics
) -> None:
    def kill(step: int, _steps: int, _loss: float) -> None:
        if step == 3:
            raise Killed

    expected = trainer(tmp_path / "a").train(tensors, 1, recipe, 2e-3, normalisation=own)
    with pytest.raises(Killed):
        trainer(tmp_path / "b", checkpoint_s=0).train(
            tensors, 1, recipe, 2e-3, on_step=kill, normalisation=own
        )
    resumed = trainer(tmp_path / "b").resume()
    assert resumed.delta == expected.delta
    assert repeatable(resumed) == repeatable(expected)


@pytest.mark.usefixtures("fixed_id")
def test_other_statistics_train_another_update_from_the_same_cache(
    trainer: Callable, tensors: Tensors, recipe: Recipe, tmp_path: Path, own: Statistics
) -> None:
    """No state enters what is cached, so that a cache of other days serves; samples are made anew."""
    cold = trainer(tmp_path / "a").train(tensors, 1, recipe, 2e-3, normalisation=own)
    used = trainer(tmp_path / "b")
    first = used.train(tensors, 1, recipe, 2e-3)
    cached = {path: path.stat().st_mtime_ns for path in (tmp_path / "b").glob("*/*")}
    used.train(tensors, 1, recipe, 2e-3, normalisation=own)
    again = trainer(tmp_path / "b")
    again._last = None  # as a new station begins: without moments
    assert again.train(tensors, 1, recipe, 2e-3, normalisation=own).delta == cold.delta != first.delta
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "b").glob("*/*")} == cached


def test_any_number_of_tasks_fits_the_header() -> None:
    tasks = {f"push cube {number}": 1.0 for number in range(60)}
    found = metrics_of(made_record(eval_loss=tasks, action_mse=tasks))
    assert len(found) == MAX_METRICS
    began = metrics_of(made_record(eval_loss=tasks, action_mse=tasks, start_loss=tasks, start_mse=tasks))
    assert len(began) == MAX_METRICS
    assert {"start_loss_push_cube_24", "start_mse_push_cube_24"} <= began.keys(), "as many as have room"
    assert found.items() >= made_record(eval_loss=tasks, action_mse=tasks).scalars.items()


def test_a_number_that_overflowed_stays_at_home() -> None:
    found = metrics_of(made_record(gradient_norm_max=math.inf, action_mse={"push": math.nan}))
    assert found.keys() & {"gradient_norm_max", "action_mse", "action_mse_push"} == set()
    assert found["gradient_norm"] == 1.0
