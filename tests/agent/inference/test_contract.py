"""What the policy wants is compared with what is here, and a mismatch names both sides."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.config import AgentConfig
from agent.inference.contract import Wanted, check, out_of_reach, wanted_by
from agent.robot.limits import Limits
from shared.adapters import MANIFEST, Manifest
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.normalisation import Moments, Statistics, measured
from shared.recipe import Recipe
from sim.joints import JointMap

BASE = Path(__file__).parents[3] / "sim/base"
FRONT = {"type": "zmq", "port": 1, "width": 96, "height": 96, "fps": 30}


@pytest.fixture
def calibrations(tmp_path: Path) -> Path:
    folder = tmp_path / "calibration"
    folder.mkdir()
    (folder / "so100.json").write_text(JointMap().calibration_json())
    return folder


def config(calibrations: Path, base: Path = BASE, **sections: Any) -> AgentConfig:
    arm = {"follower_port": "/dev/f", "leader_port": "/dev/l", "calibration_dir": calibrations}
    fields = {
        "node": {"name": "a", "state_dir": calibrations, "socket": calibrations / "s"},
        "policy": {"base": str(base)},
        "arm": arm,
        "cameras": {"front": FRONT},
        **sections,
    }
    return AgentConfig.model_validate(fields)


def version(folder: Path, mean: float | None) -> Path:
    """A version's folder, whose recordings had this mean in the second joint; None: the base's statistics."""
    rows = np.zeros((200, 6))
    rows[:, 1] = mean or 0.0
    manifest = Manifest(
        version=7,
        parent=None,
        base_digest="0" * 64,
        tensors_digest="0" * 64,
        recipe=Recipe(),
        normalisation=None if mean is None else measured(rows, rows),
        created="2026-01-01T00:00:00Z",
    )
    folder.mkdir(exist_ok=True)
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return folder


def test_what_the_tiny_base_wants() -> None:
    assert wanted_by(BASE) == Wanted(cameras={"front": (96, 96)}, joints=(6, 6), chunk=8)


def test_what_fits_is_silent(calibrations: Path, tmp_path: Path) -> None:
    more = {"front": FRONT, "top": {**FRONT, "fps": 10}}
    assert check(config(calibrations, cameras=more), [("the base alone", None)]) == []
    for mean in (None, 20.0):
        assert check(config(calibrations), [("version 7", version(tmp_path / "v", mean))]) == []


def test_pictures_of_another_size_are_said_and_accepted(calibrations: Path) -> None:
    wide = config(calibrations, cameras={"front": {**FRONT, "width": 640, "height": 480}})
    assert check(wide, []) == ["camera front gives 640x480 and is scaled to the base's 96x96"]


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"cameras": {"top": FRONT}}, "it wants the cameras front, agent.toml has top"),
        (
            {"cameras": {"front": {**FRONT, "fps": 15}}},
            "taught with 30 pictures a second, camera front gives 15",
        ),
        (
            {"inference": {"execution_horizon": 8}},
            "chunks have 8 actions, [inference] execution_horizon is 8",
        ),
    ],
)
def test_a_mismatch_names_both_sides(calibrations: Path, sections: dict[str, Any], words: str) -> None:
    with pytest.raises(ArmfleetError) as caught:
        check(config(calibrations, **sections), [("the base alone", None)])
    assert caught.value.code is ExitCode.POLICY_MISFIT
    assert words in caught.value.what
    assert (caught.value.kept, bool(caught.value.do)) == ("nothing moved", True)


def test_an_arm_that_can_not_reach_what_the_version_was_taught_is_refused(
    calibrations: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        ArmfleetError, match=r"version 7: joint 2 \(shoulder_lift\) was taught around 170, this"
    ):
        check(config(calibrations), [("version 7", version(tmp_path / "v", 170.0))])


def test_statistics_of_other_joints_are_a_misfit_that_names_both_sides() -> None:
    seven = Moments.model_construct(count=200, mean=(0.0,) * 7, m2=(1.0,) * 7)  # no file can hold them
    statistics = Statistics.model_construct(state=seven, action=seven)
    with pytest.raises(ArmfleetError, match="are of 7 joints, this arm has 6") as caught:
        out_of_reach(statistics, Limits(np.full(6, -90.0), np.full(6, 90.0), max_step=5.0))
    assert caught.value.code is ExitCode.POLICY_MISFIT
    assert caught.value.kept == "nothing moved"


def test_another_number_of_joints_is_refused(calibrations: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(BASE, base)
    told = json.loads((base / "config.json").read_text())
    told["output_features"]["action"]["shape"] = [7]
    (base / "config.json").write_text(json.dumps(told))
    with pytest.raises(ArmfleetError, match=r"have \(6, 7\) joints, this arm has 6"):
        check(config(calibrations, base), [])
    (base / "config.json").write_text("{}")
    with pytest.raises(ArmfleetError, match="does not say") as caught:
        check(config(calibrations, base), [])
    assert caught.value.code is ExitCode.BASE_MISSING


def test_without_a_calibration_or_a_manifest_nothing_begins(calibrations: Path, tmp_path: Path) -> None:
    with pytest.raises(ArmfleetError, match="manifest of version 7") as caught:
        check(config(calibrations), [("version 7", tmp_path)])
    assert caught.value.code is ExitCode.VERSION_REFUSED
    (calibrations / "so100.json").unlink()
    with pytest.raises(ArmfleetError, match="no calibration of the follower") as caught:
        check(config(calibrations), [])
    assert caught.value.code is ExitCode.CALIBRATION_MISMATCH
