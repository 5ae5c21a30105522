"""Videos encoded while recording: the same pictures as LeRobot's own encoder makes, and honest failures."""

import errno

import av
import numpy as np
import pytest
from lerobot.configs.video import RGBEncoderConfig
from lerobot.datasets.video_utils import StreamingVideoEncoder

from agent.episodes import encoding
from agent.episodes.encoding import EpisodeEncoder

CONFIG = RGBEncoderConfig(vcodec="h264", crf=23, preset="veryfast")
KEYS = ["observation.images.front", "observation.images.side"]


def pictures(count=14):
    """A bright square that wanders over a slope, (240, 320, 3); 64x48 differ from run to run."""
    slope = np.linspace(0, 200, 320, dtype=np.uint8)[None, :, None].repeat(240, 0).repeat(3, 2)
    frames = [slope.copy() for _ in range(count)]
    for index, frame in enumerate(frames):
        frame[50:150, 8 * index : 8 * index + 100] = (250, 30, 60)
    return frames


def encoded(encoder, tmp_path, frames):
    encoder.start_episode(video_keys=KEYS, temp_dir=tmp_path, depth_video_keys=[])
    for frame in frames:
        for key in KEYS:
            encoder.feed_frame(key, frame)
    return encoder.finish_episode()


def decoded(path):
    with av.open(str(path)) as container:
        return np.array([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_the_video_is_the_one_lerobots_encoder_makes(tmp_path):
    theirs = encoded(StreamingVideoEncoder(30, CONFIG, encoder_threads=1), tmp_path, pictures())
    ours = encoded(EpisodeEncoder(30, CONFIG), tmp_path, pictures())
    for key in KEYS:
        assert np.array_equal(decoded(ours[key][0]), decoded(theirs[key][0]))
        assert set(ours[key][1]) == set(theirs[key][1])
        assert np.allclose(ours[key][1]["mean"], theirs[key][1]["mean"], atol=2.0)


def test_a_full_queue_drops_counts_and_does_not_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "QUEUE", 3)
    monkeypatch.setattr(encoding._Video, "start", lambda video: None)  # an encoder that gets no processor
    encoder = EpisodeEncoder(30, CONFIG)
    encoder.start_episode(KEYS[:1], tmp_path)
    for frame in pictures(5):
        encoder.feed_frame(KEYS[0], frame)
    assert encoder.dropped == 2


@pytest.mark.parametrize(
    ("failure", "match"),
    [(OSError(errno.ENOSPC, "No space left on device"), "No space"), (ValueError("broken"), "broken")],
)
def test_a_failing_encoder_says_why(tmp_path, monkeypatch, failure, match):
    def fail(*args):
        raise failure

    monkeypatch.setattr(encoding._Video, "_encode", fail)
    encoder = EpisodeEncoder(30, CONFIG)
    kind = OSError if isinstance(failure, OSError) else RuntimeError
    with pytest.raises(kind, match=match) as caught:
        encoded(encoder, tmp_path, pictures(2))
    assert getattr(caught.value, "errno", None) == getattr(failure, "errno", None)
    encoder.close()
    assert list(tmp_path.iterdir()) == []


def test_what_is_cancelled_leaves_nothing(tmp_path):
    encoder = EpisodeEncoder(30, CONFIG)
    encoder.start_episode(KEYS, tmp_path)
    for frame in pictures():
        encoder.feed_frame(KEYS[0], frame)
    encoder.cancel_episode()
    assert list(tmp_path.iterdir()) == []
    assert set(encoded(encoder, tmp_path, pictures(3))) == set(KEYS)
