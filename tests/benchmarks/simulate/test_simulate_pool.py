"""The pool of demonstrations: who shows what, and that a node gets whole episodes of one task."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.simulate.pool import CAMERA, TASKS, check_sizes, deal, episodes_of, record, task_of
from shared.errors import ArmfleetError

STATIONS, NODES, DEMONSTRATIONS = 4, 2, 1


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    folder, told = tmp_path_factory.mktemp("pool"), []
    record(folder, STATIONS, DEMONSTRATIONS, seed=3, on_episode=lambda: told.append(None))
    assert len(told) == STATIONS * DEMONSTRATIONS
    return folder


@given(nodes=st.integers(1, 20).map(lambda n: n * len(TASKS)), group=st.integers(1, 5))
def test_groups_of_neighbouring_stations_show_one_task_and_tasks_have_as_many(nodes, group):
    stations = nodes * group
    assert check_sizes(stations, nodes) == group
    shown = [task_of(station, stations) for station in range(stations)]
    groups = [set(shown[i : i + group]) for i in range(0, stations, group)]
    assert all(len(tasks) == 1 for tasks in groups)
    assert [shown.count(task) for task in TASKS] == [stations // len(TASKS)] * len(TASKS)


@pytest.mark.parametrize(("stations", "nodes"), [(3, 3), (0, 0), (6, 4), (2, 4)])
def test_sizes_that_do_not_share_out_are_refused(stations, nodes):
    with pytest.raises(ArmfleetError, match="can't"):
        check_sizes(stations, nodes)


def test_rows_become_the_episodes_that_were_shown(pool):
    from datasets import load_from_disk

    split = episodes_of(load_from_disk(pool / "rows"), pool)
    assert not split.eval
    assert [episode.id for episode in split.train] == [f"{n:06d}" for n in range(STATIONS * DEMONSTRATIONS)]
    assert len({episode.digest for episode in split.train}) == len(split.train)
    for number, episode in enumerate(split.train):
        assert episode.task == task_of(number // DEMONSTRATIONS, STATIONS).text
        assert episode.state.shape == episode.action.shape == (len(episode), 6)
        assert episode.frames()[CAMERA].shape == (len(episode), 96, 96, 3)
        assert np.abs(np.diff(episode.state, axis=0)).max() < 10  # degrees in 1/30 s: frames are in order


def test_flwr_datasets_deals_whole_episodes_of_one_task(pool):
    pytest.importorskip("flwr_datasets", reason="flwr-datasets is not installed: `make simulate` installs it")
    dealt = [episodes_of(rows, pool).train for rows in deal(pool, NODES)]
    assert [[episode.id for episode in part] for part in dealt] == [
        ["000000", "000001"],
        ["000002", "000003"],
    ]
    assert [{episode.task for episode in part} for part in dealt] == [{task.text} for task in TASKS]
    everything = {episode.id: len(episode) for part in dealt for episode in part}
    assert everything == {
        path.stem: len(np.load(path, mmap_mode="r")) for path in (pool / "pictures").iterdir()
    }
