"""Datasets that several tests import, and a store that holds them."""

import shutil
from pathlib import Path

import pytest

from agent.config import SplitSection
from agent.episodes.importing import run
from agent.episodes.store import EpisodeStore
from tests.agent.episodes.lerobot_datasets import write_v3

LENGTHS = (120, 105, 111)


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LeRobot v3.0 dataset of three episodes in shared files. Only read it."""
    folder = tmp_path_factory.mktemp("source") / "cubes"
    write_v3(folder, LENGTHS)
    return folder


@pytest.fixture(scope="session")
def _imported(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("imported") / "episodes"
    assert run(root, 0, [source], lambda event: None) == 0
    store = EpisodeStore(root, SplitSection(eval_share=0.0))
    for record in store.records():
        store.judge(record.id)
    return root


@pytest.fixture
def store(_imported: Path, tmp_path: Path) -> EpisodeStore:
    """A store of its own with the three episodes, imported and judged."""
    root = tmp_path / "state" / "episodes"
    shutil.copytree(_imported, root)
    return EpisodeStore(root, SplitSection(eval_share=0.0))
