"""Which episodes train, and what is read from a real LeRobot folder."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from agent.episodes.record import EpisodeRecord, write_record
from agent.training.data import Episode, EpisodeFolder, decode, separate
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from tests.agent.training.conftest import pictures

FRAMES = 6  # of the recorded episode, see conftest


def rewrite(folder: Path, **changes: object) -> None:
    record = EpisodeRecord.model_validate_json((folder / "armfleet.json").read_text())
    write_record(folder, record.model_copy(update=changes))


def test_rows_and_images_of_a_recorded_episode(recorded_episodes: Path) -> None:
    (episode,) = EpisodeFolder(recorded_episodes).read().train
    assert episode.task == "push the red cube to the left"
    np.testing.assert_array_equal(episode.state[:, 0], np.arange(FRAMES))
    np.testing.assert_array_equal(episode.action[:, 5], 10 + np.arange(FRAMES))
    images = pictures(episode)
    assert images.shape == (FRAMES, 96, 96, 3)
    assert images.dtype == np.uint8
    np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), 20 + 30 * np.arange(FRAMES), atol=4)


@pytest.mark.parametrize(
    "changes", [{"verdict": "quarantined"}, {"verdict": "unjudged"}, {"split": None}, {"split": "eval"}]
)
def test_only_admitted_training_episodes_train(
    recorded_episodes: Path, tmp_path: Path, changes: dict
) -> None:
    shutil.copytree(recorded_episodes, tmp_path / "episodes")
    rewrite(tmp_path / "episodes" / "000001", **changes)
    assert EpisodeFolder(tmp_path / "episodes").read().train == ()


def test_a_copy_of_a_held_out_demonstration_does_not_train(recorded_episodes: Path, tmp_path: Path) -> None:
    root = tmp_path / "episodes"
    shutil.copytree(recorded_episodes, root)
    shutil.copytree(root / "000001", root / "000002")
    rewrite(root / "000002", split="eval")
    split = EpisodeFolder(root).read()
    assert split.train == ()
    assert [episode.id for episode in split.eval] == ["000002"]


def test_demonstrated_is_what_is_for_training_also_where_it_is_like_what_is_held_out(
    recorded_episodes: Path, tmp_path: Path
) -> None:
    root = tmp_path / "episodes"
    shutil.copytree(recorded_episodes, root)
    for name, changes in (("000002", {"split": "eval"}), ("000003", {"verdict": "quarantined"})):
        shutil.copytree(root / "000001", root / name)
        rewrite(root / name, **changes)
    (actions,) = EpisodeFolder(root).demonstrated()
    np.testing.assert_array_equal(actions[:, 5], 10 + np.arange(FRAMES))
    assert EpisodeFolder(tmp_path / "nowhere").demonstrated() == []


def test_a_damaged_or_half_written_episode_is_left_out(recorded_episodes: Path, tmp_path: Path) -> None:
    root = tmp_path / "episodes"
    shutil.copytree(recorded_episodes, root)
    for name in ("000002", ".inprogress-000003"):
        shutil.copytree(root / "000001", root / name)
    next((root / "000002" / "data").rglob("*.parquet")).write_bytes(b"PAR1")
    assert [episode.id for episode in EpisodeFolder(root).read().train] == ["000001"]


def test_a_video_shorter_than_its_rows_is_refused(recorded_episodes: Path, tmp_path: Path) -> None:
    import av

    root = tmp_path / "episodes"
    shutil.copytree(recorded_episodes, root)
    (video,) = (root / "000001").rglob("*.mp4")
    with av.open(video, "w") as container:
        stream = container.add_stream("h264", rate=30, width=96, height=96, pix_fmt="yuv420p")
        for packet in stream.encode(
            av.VideoFrame.from_ndarray(np.zeros((96, 96, 3), np.uint8), format="rgb24")
        ):
            container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    (episode,) = EpisodeFolder(root).read().train
    with pytest.raises(ArmfleetError, match="1 images of camera 'front' for 6 rows") as error:
        pictures(episode)
    assert error.value.code is ExitCode.EPISODE_DAMAGED


def test_a_video_longer_than_its_rows_is_refused_at_its_end(recorded_episodes: Path) -> None:
    decoded = decode(recorded_episodes / "000001", "front", FRAMES - 2)
    for _ in range(FRAMES):
        assert next(decoded).shape == (96, 96, 3)
    with pytest.raises(ArmfleetError, match="6 images of camera 'front' for 4 rows"):
        next(decoded)


def test_a_changed_verdict_is_noticed(recorded_episodes: Path, tmp_path: Path) -> None:
    root = tmp_path / "episodes"
    shutil.copytree(recorded_episodes, root)
    folder = EpisodeFolder(root)
    assert len(folder.read().train) == 1
    rewrite(root / "000001", verdict="quarantined")
    assert folder.read().train == ()


def test_separate_goes_by_content_not_by_name() -> None:
    def episode(name: str, digest: str) -> Episode:
        return Episode(name, digest, "t", np.zeros((1, 6)), np.zeros((1, 6)), lambda: {})

    split = separate([episode("a", "1"), episode("b", "2")], [episode("c", "2")])
    assert [e.id for e in split.train] == ["a"]
