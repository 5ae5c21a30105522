"""LeRobot's description of what an SO-100 gives and takes: the columns of a dataset, the inputs of a
policy."""

from collections.abc import Mapping

from agent.robot.joints import POSITION_KEYS

ROBOT_TYPE = "so_follower"

Shape = tuple[int, int, int]
"""(height, width, channels)."""


def observation_features(cameras: Mapping[str, Shape]) -> dict[str, dict]:
    """observation.state and observation.images.NAME."""
    names = list(POSITION_KEYS)
    features: dict[str, dict] = {
        "observation.state": {"dtype": "float32", "shape": (len(names),), "names": names}
    }
    for camera, shape in cameras.items():
        features[f"observation.images.{camera}"] = {
            "dtype": "video",
            "shape": shape,
            "names": ["height", "width", "channels"],
        }
    return features


def dataset_features(cameras: Mapping[str, Shape]) -> dict[str, dict]:
    """Observation and action: what an episode holds."""
    names = list(POSITION_KEYS)
    return observation_features(cameras) | {
        "action": {"dtype": "float32", "shape": (len(names),), "names": names}
    }
