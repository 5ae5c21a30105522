"""The simulator as LeRobot's commands see it: Gymnasium's contract, the evaluation's scenes, a real run."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from sim.environment.table import TYPE, TableEnv
from sim.expert import plan
from sim.lockstep import SUBTICKS, LockstepArm
from sim.plant import Plant
from sim.tasks import Task, draw_scene

SEED = 500_000


@pytest.mark.filterwarnings("ignore:.*Box.*(minimum|maximum|infinity|normalized)")
def test_it_keeps_gymnasiums_contract() -> None:
    check_env(TableEnv("touch_blue"), skip_render_check=True)


@pytest.mark.parametrize(
    "task", [Task("touch", "blue"), Task("push_left", "red")], ids=lambda task: task.verb
)
def test_a_seed_is_the_evaluations_scene_and_a_person_succeeds_in_it(task: Task) -> None:
    env, scene = TableEnv(f"{task.verb}_{task.color}"), draw_scene(SEED, task)
    seen, _ = env.reset(seed=SEED)
    evaluated = LockstepArm(scene).observe()
    np.testing.assert_array_equal(seen["pixels"]["front"], evaluated["image"])
    np.testing.assert_array_equal(seen["agent_pos"], evaluated["state"])
    assert env.task_description == evaluated["task"]

    plant = Plant()
    plant.reset(scene)
    goals = plan(plant, task, np.random.default_rng(0))[SUBTICKS - 1 :: SUBTICKS]
    steps = [env.step(goal)[1:] for goal in goals]
    done = [reward for reward, *_ in steps].index(1.0)
    assert steps[done] == (1.0, True, False, {"is_success": True})
    assert not any(terminated for _, terminated, *_ in steps[:done])


def test_standing_still_does_nothing() -> None:
    env = TableEnv("push_left_red")
    seen, _ = env.reset(seed=SEED)
    assert not any(env.step(seen["agent_pos"])[2] for _ in range(10))


def test_any_scene_without_a_seed() -> None:
    env = TableEnv("touch_red")
    first, again = env.reset()[0], env.reset()[0]
    assert (first["pixels"]["front"] != again["pixels"]["front"]).any()


def test_a_task_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="'fold' is unknown"):
        TableEnv("fold_red")


def test_lerobot_eval_counts_what_the_evaluation_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stock `lerobot-eval` on the shipped base, exported: it has learned to touch, and not to push."""
    from lerobot.scripts.lerobot_eval import main

    from coordinator.evaluation.lockstep import Evaluator
    from shared.adapters import write_adapter
    from shared.policy.initial import initial_adapter
    from shared.policy.merged import write_merged
    from shared.recipe import Recipe

    version, policy = tmp_path / "version", tmp_path / "policy"
    version.mkdir()
    write_adapter(version, *initial_adapter("sim/base", Recipe()), None)
    write_merged("sim/base", version, policy)
    monkeypatch.setattr("lerobot.scripts.lerobot_eval.init_logging", lambda: None)  # it outlives the test
    evaluator, counted = Evaluator("sim/base"), {}
    for task in (Task("touch", "red"), Task("push_away", "red")):
        key = f"{task.verb}_{task.color}"
        options = {
            "policy.path": policy,
            "env.discover_packages_path": "sim.environment",
            "env.type": TYPE,
            "env.task": key,
            "seed": SEED,
            "eval.n_episodes": 2,
            "eval.batch_size": 2,
            "eval.use_async_envs": "false",
            "output_dir": tmp_path / key,
        }
        monkeypatch.setattr(sys, "argv", ["lerobot-eval", *(f"--{n}={v}" for n, v in options.items())])
        main()
        info = json.loads((tmp_path / key / "eval_info.json").read_text())
        ours = evaluator.evaluate_loaded([task], [SEED, SEED + 1])[key]
        assert info["per_task"][0]["metrics"]["successes"] == [bool(success) for success in ours]
        assert len(info["overall"]["video_paths"]) == 2
        counted[task.verb] = sum(ours)
    assert counted == {"touch": 2, "push_away": 0}
