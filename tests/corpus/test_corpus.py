"""The corpus that the gate is measured on: the same seed gives the same bytes, and what it calls sound is."""

import hashlib

import numpy as np
import pytest

from benchmarks.gate.corpus_truth import read_corpus
from tests.corpus.build import build, names
from tests.corpus.motion import GRIPPER, HIGH, LOW, lag_frames, synthesise
from tests.corpus.registry import DEFECTS, ODDITIES
from tests.corpus.scene import RIGS, View, make_props

SHORT = ("too_short-plain", "sound-short")


def digest(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    out = tmp_path_factory.mktemp("corpus") / "small"
    build(out, 3, [], lambda name: name in SHORT)
    return out


def test_the_same_seed_gives_the_same_bytes_whatever_else_is_made(small, tmp_path):
    again = tmp_path / "again"
    build(again, 3, [], lambda name: name == "too_short-plain")
    assert digest(again / "episodes") == {
        name: value for name, value in digest(small / "episodes").items() if name.startswith("too_short")
    }


def test_a_sound_episode_loads_in_lerobot(small):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    (case,) = [case for case in read_corpus(small).cases if case.kind == "sound"]
    dataset = LeRobotDataset("local/corpus", root=small / case.paths[0], video_backend="pyav")
    assert (len(dataset), dataset.fps, dataset.num_episodes) == (75, 30, 1)
    first, last = dataset[0], dataset[74]
    for camera in ("front", "wrist"):
        assert first[f"observation.images.{camera}"].shape == (3, 240, 320)
        assert 0.1 < float(first[f"observation.images.{camera}"].mean()) < 0.9
    assert float(abs(last["action"] - first["action"]).max()) > 10
    assert first["task"]


def test_there_are_classes_enough_and_each_case_is_named_once():
    assert len(DEFECTS) >= 39
    assert len(ODDITIES) >= 22
    assert len(set(names())) == len(names()) == 3 * len(DEFECTS) + len(ODDITIES)
    assert all(defect.fits and defect.about for defect in DEFECTS.values())
    assert all(oddity.about for oddity in ODDITIES.values())


@pytest.mark.parametrize("seed", range(4))
def test_modelled_motion_is_like_the_real_one(seed):
    motion = synthesise(np.random.default_rng(seed))
    steps = np.abs(np.diff(motion.state, axis=0))
    assert 3 <= lag_frames(motion) <= 5
    assert steps.max() <= 12
    assert 0.1 < (steps.max(axis=1) < 1e-9).mean() < 0.6
    assert (motion.state >= LOW).all()
    assert (motion.state <= HIGH).all()
    held = motion.state[:, GRIPPER] - motion.action[:, GRIPPER]
    assert (held > 4).mean() > 0.1  # the jaws hold the cube above what the action asks for


def test_the_cameras_show_the_joints():
    motion = synthesise(np.random.default_rng(1))
    for camera in ("front", "wrist"):
        view = View(RIGS[0], camera, make_props(motion.state, np.random.default_rng(1)))
        rest, again, reach = view.frames(motion.state[[0, 0, len(motion) // 3]], seed=1)
        still = np.abs(rest.astype(int) - again).mean()
        assert still < 4
        assert np.abs(rest.astype(int) - reach).mean() > 1.3 * still
