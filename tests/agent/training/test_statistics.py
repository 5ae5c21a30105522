"""What a workstation reports of its recordings: what trains, all of it, and nothing else."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agent.config import AgentConfig
from agent.episodes.record import EpisodeRecord, read_record, write_record
from agent.training.data import Split
from agent.training.statistics import StationStatistics, of_episodes
from shared.errors import ArmfleetError
from shared.normalisation import measured
from tests.agent.training.conftest import FRAMES, TASKS, make_episode


def test_every_frame_of_every_episode_counts(split: Split) -> None:
    episodes = [*split.train, make_episode(20, TASKS[0], frames=50)]
    rows = [np.concatenate([getattr(e, name) for e in episodes]) for name in ("state", "action")]
    assert of_episodes(episodes) == measured(*rows)


def test_a_handful_of_frames_is_not_told(split: Split) -> None:
    assert of_episodes(split.train) is None, "80 frames"
    assert of_episodes([]) is None


def test_values_that_no_arm_has_are_an_error_for_people() -> None:
    episode = make_episode(1, TASKS[0], frames=200)
    narrow = replace(make_episode(2, TASKS[0]), state=np.zeros((20, 5), np.float32))
    for episodes in ([replace(episode, action=episode.action + 1e6)], [episode, narrow]):
        with pytest.raises(ArmfleetError, match="no usable statistics"):
            of_episodes(episodes)


@pytest.fixture
def station(recorded_episodes: Path, tiny_base: Path, tmp_path: Path) -> StationStatistics:
    """20 copies of the recorded episode, each shifted, the last two held out."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    state = tmp_path / "state"
    for number in range(1, 21):
        folder = state / "episodes" / f"{number:06d}"
        shutil.copytree(recorded_episodes / "000001", folder)
        record = read_record(folder)
        write_record(folder, record.model_copy(update={"split": "eval" if number > 18 else "train"}))
        file = next((folder / "data").rglob("*.parquet"))
        rows = pq.read_table(file)
        for name in ("observation.state", "action"):
            shifted = [[value + 10 * number for value in row] for row in rows[name].to_pylist()]
            at = rows.column_names.index(name)
            rows = rows.set_column(at, name, pa.array(shifted, type=rows.schema.field(name).type))
        pq.write_table(rows, file)
    config = {
        "node": {"name": "station-a", "state_dir": state, "socket": tmp_path / "a.sock"},
        "policy": {"base": str(tiny_base)},
    }
    return StationStatistics(AgentConfig.model_validate(config))


def test_evaluation_episodes_do_not_count(station: StationStatistics) -> None:
    told = station(())
    assert told is not None
    assert told.state.count == 18 * FRAMES
    rows = np.concatenate([np.arange(FRAMES) + 10 * number for number in range(1, 19)])
    np.testing.assert_allclose(told.state.mean, [rows.mean()] * 6, rtol=1e-5)
    np.testing.assert_allclose(told.action.std, [rows.std()] * 6, rtol=1e-5)


def test_neither_do_tasks_that_are_kept_unseen_nor_what_was_quarantined(
    station: StationStatistics, tmp_path: Path
) -> None:
    assert station((TASKS[0].upper(),)) is None
    for number in (1, 2):
        folder = tmp_path / "state/episodes" / f"{number:06d}"
        changed: EpisodeRecord = read_record(folder).model_copy(update={"verdict": "quarantined"})
        write_record(folder, changed)
    assert station(()) is None, "96 frames are too few"


def test_a_list_of_held_out_episodes_that_cannot_be_read_stops_the_report_not_the_check_in(
    station: StationStatistics, tmp_path: Path
) -> None:
    split = station._config.split.model_copy(update={"held_out": tmp_path / "missing.jsonl"})
    blind = StationStatistics(station._config.model_copy(update={"split": split}))
    assert blind(()) is None
